"""What a degradation is: a named function of an image with one strength."""

import dataclasses
import math
import re
from collections.abc import Callable

import numpy as np

_RANGE = re.compile(r"([0-9.]+)\s*-\s*([0-9.]+)")


@dataclasses.dataclass(frozen=True)
class Degradation:
    """One way of damaging an image, as data: what to call, how strongly, and where it is from.

    Attributes:
        name: as written in a spec (`"noise"` in `"noise:25+haze"`) and in task sets.
        apply: `(image, strength, rng) -> degraded`. `image` is float32 [h, w, 3], RGB, [0, 1] (or
            beyond, behind a degradation that does not clip), any h and w >= 1, and is not
            modified; `degraded` is a new float32 array of that shape. All randomness comes from
            `rng`. Nothing is checked here: `degrade` checks, a training pipeline need not.
        strength_range: (low, high), from which `sample_strength` draws; equal for a class that has
            one strength only, (0, 0) for `clean`, which has none. Larger is worse, on average over
            draws, for every class.
        largest: largest strength accepted when one is given by hand, >= `strength_range[1]`; 0 if
            none is accepted.
        unit: what the strength counts.
        clips: True when the result always lies in [0, 1]; False when it may leave that range.
        summary: one sentence for a person.
        source: the literature the synthesis follows.
        strengths: the only strengths to draw from, equally often; () = all of `strength_range`.
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
        """What a spec says behind the colon: one strength, or what to draw from.

        Args:
            text: "25", the range "1-50" or the choice "15/25/50"; see `check_strength` for the
                numbers.

        Returns:
            (this, the strength), or (this with another range or choice, None).

        Raises:
            ValueError: for other texts, and for a range that ends below its start.
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
                f"strengths {text!r} of {self.name!r}: a range ends where it starts or higher: "
                f"'{self.name}:{high:g}-{low:g}'"
            )
        return dataclasses.replace(self, strength_range=(low, high), strengths=()), None

    def check_strength(self, value: float | str) -> float:
        """Returns `value` as a float, or raises ValueError with the allowed range.

        Args:
            value: a number or its text, from 0 (leaves the image as it is, but for the sensor noise
                of `low_light`) to `largest`; `strength_range` does not limit it.
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
