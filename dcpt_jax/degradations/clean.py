"""No degradation: the class of photos that need no restoration."""

import numpy as np

from dcpt_jax.degradations.base import Degradation


def unchanged(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Returns a copy of the image."""
    return image.copy()


CLEAN = Degradation(
    name="clean",
    apply=unchanged,
    strength_range=(0.0, 0.0),
    largest=0.0,
    unit="none",
    clips=True,
    summary="No change. Has no strength and cannot be part of a mixture.",
    source="none",
)
