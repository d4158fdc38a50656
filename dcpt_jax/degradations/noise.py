"""Sensor noise that does not depend on the image."""

import numpy as np

from dcpt_jax.degradations.base import Degradation


def add_gaussian_noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Adds white Gaussian noise, independent per pixel and channel.

    Neither clipped nor rounded, as in DCPT, so that the noise keeps mean 0 and its deviation
    everywhere. Unlike DCPT, where a photo always meets the same noise field (seeded from its
    index), every draw is new.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1].
        strength: standard deviation in units of 1/255 (the `sigma` of the literature).
        rng: source of the noise.

    Returns:
        float32 [h, w, 3]; may leave [0, 1].
    """
    degraded = rng.standard_normal(image.shape, dtype=np.float32)
    degraded *= np.float32(strength / 255.0)
    degraded += image
    return degraded


NOISE = Degradation(
    name="noise",
    apply=add_gaussian_noise,
    strength_range=(10.0, 50.0),
    largest=1000.0,
    unit="standard deviation in 1/255",
    clips=False,
    summary="Additive white Gaussian noise, not clipped.",
    source="DCPT (2025) and the denoising literature since Zhang et al., DnCNN (2017).",
)
