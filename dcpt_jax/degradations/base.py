"""A degradation: a named function of an image and a strength."""

import dataclasses
import math
import re
from collections.abc import Callable

import numpy as np

_RANGE = re.compile(r"([0-9.]+)\s*-\s*([0-9.]+)")


@dataclasses.dataclass(frozen=True)
class Degradation:
    """One kind of degradation: its function, range of strengths, and description.

    Attributes:
        name: as written in a spec (`"noise"` in `"noise:25+haze"`) and in task sets.
        apply: `(image, strength, rng) -> degraded`. `image` is float32 [h, w, 3], RGB, [0, 1] (or
            beyond, after a degradation that does not clip), any h and w >= 1, and is not modified;
            `degraded` is a new float32 array of that shape. All randomness comes from `rng`.
            Arguments are not checked; `degrade` does that.
        strength_range: (low, high) for `sample_strength`; low = high for a class with a single
            strength, (0, 0) for `clean`. Larger strengths are worse, on average over draws.
        largest: largest explicit strength allowed, >= `strength_range[1]`; 0 = none is allowed.
        unit: unit of the strength.
        clips: True if the result always lies in [0, 1].
        summary: description in one sentence.
        source: the literature that the synthesis follows.
        strengths: discrete strengths to draw from, equally likely; () = all of `strength_range`.
    """

    name: str
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    strength_range: tuple[float, float]
    largest: float
    unit: str
    clips: bool
    summary: str
    source: str
    strengths: tuple[float, ...] = ()

    def sample_strength(self, rng: np.random.Generator) -> float:
        """Draws a strength uniformly from `strengths`, or else from `strength_range`."""
        if self.strengths:
            return self.strengths[rng.integers(len(self.strengths))]
        low, high = self.strength_range
        return float(rng.uniform(low, high))

    def with_strength(self, text: str) -> tuple["Degradation", float | None]:
        """Parses the strength in a spec: a number, a range or a choice.

        Args:
            text: "25", the range "1-50" or the choice "15/25/50"; see `check_strength` for the
                numbers.

        Returns:
            (self, strength), or (copy with another range or choice, None).

        Raises:
            ValueError: for other texts, or a range that ends below its start.
        """
        if "/" in text:
            strengths = tuple(map(self.check_strength, text.split("/")))
            ends = (min(strengths), max(strengths))
            return dataclasses.replace(self, strength_range=ends, strengths=strengths), None
        ends = _RANGE.fullmatch(text)
        if ends is None:
            return self, self.check_strength(text)
        low, high = map(self.check_strength, ends.groups())
        if low > high:
            raise ValueError(
                f"strengths {text!r} of {self.name!r}: a range must not end below its start: "
                f"'{self.name}:{high:g}-{low:g}'"
            )
        return dataclasses.replace(self, strength_range=(low, high), strengths=()), None

    def check_strength(self, value: float | str) -> float:
        """Returns `value` as a float, or raises ValueError with the allowed range.

        Args:
            value: a number or text from 0 (no change, except for the sensor noise of `low_light`)
                to `largest`; may lie outside `strength_range`.
        """
        if not self.largest:
            raise ValueError(f"{self.name!r} takes no strength, not {value!r}: write '{self.name}'")
        try:
            strength = float(value)
        except (TypeError, ValueError):
            strength = math.nan
        if not 0.0 <= strength <= self.largest:  # also refuses NaN
            low, high = self.strength_range
            drawn = f"draws from {low:g} to {high:g}" if low < high else f"uses {low:g}"
            raise ValueError(
                f"strength {value!r} of {self.name!r} must be a number from 0 to {self.largest:g} "
                f"({self.unit}); training {drawn}: "
                f"write for example '{self.name}:{(low + high) / 2:g}'"
            )
        return strength
