"""What a degradation is: a named function of an image with one strength."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Degradation:
    """One way of damaging an image, as data: what to call, how strongly, and where it is from.

    Attributes:
        name: as written in a spec (`"noise"` in `"noise:25+haze"`) and in task sets.
        apply: `(image, strength, rng) -> degraded`. `image` is float32 [h, w, 3], RGB, [0, 1] (or
            beyond, behind a degradation that does not clip), any h and w >= 1, and is not
            modified; `degraded` is a new float32 array of that shape. All randomness comes from
            `rng`. Nothing is checked here: `degrade` checks, a training pipeline need not.
        strength_range: (low, high), from which `sample_strength` draws. Larger is worse, on average
            over draws, for every class.
        largest: largest strength accepted when one is given by hand, >= `strength_range[1]`.
        unit: what the strength counts.
        clips: True when the result always lies in [0, 1]; False when it may leave that range.
        summary: one sentence for a person.
        source: the literature the synthesis follows.
    """

    name: str
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    strength_range: tuple[float, float]
    largest: float
    unit: str
    clips: bool
    summary: str
    source: str

    def sample_strength(self, rng: np.random.Generator) -> float:
        """Draws a strength uniformly from `strength_range`."""
        low, high = self.strength_range
        return float(rng.uniform(low, high))

    def check_strength(self, value: float | str) -> float:
        """Returns `value` as a float, or raises ValueError with the allowed range.

        Args:
            value: a number or its text, from 0 (leaves the image as it is, but for the sensor noise
                of `low_light`) to `largest`; `strength_range` does not limit it.
        """
        try:
            strength = float(value)
        except (TypeError, ValueError):
            strength = math.nan
        if not 0.0 <= strength <= self.largest:  # also refuses NaN
            low, high = self.strength_range
            raise ValueError(
                f"strength {value!r} of {self.name!r} must be a number from 0 to {self.largest:g} "
                f"({self.unit}); training draws from {low:g} to {high:g}: "
                f"write for example '{self.name}:{(low + high) / 2:g}'"
            )
        return strength
