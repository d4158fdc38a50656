"""No degradation: the class of photos that need no restoration."""

import numpy as np

from dcpt_jax.degradations.base import Degradation


def leave(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Returns a copy of the image."""
    return image.copy()


CLEAN = Degradation(
    name="clean",
    apply=leave,
    strength_range=(0.0, 0.0),
    largest=0.0,
    unit="none",
    clips=True,
    summary="Nothing: the photo as it is. Stands alone, without a strength.",
    source="none",
)
