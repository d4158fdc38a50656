"""Gaussian noise, and signal-dependent (Poisson-Gaussian) sensor noise."""

import numpy as np

from dcpt_jax.degradations.base import Degradation
from dcpt_jax.degradations.low_light import linear_from_srgb, srgb_from_linear

# --- Gaussian -----------------------------------------------------------------------------------


def add_gaussian_noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Adds white Gaussian noise, independent per pixel and channel.

    Neither clipped nor rounded, as in DCPT, so the noise has mean 0 and constant variance. Unlike
    in DCPT, where each photo always has the same noise (seeded by its index), every draw is new.

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

# --- Poisson-Gaussian ---------------------------------------------------------------------------


def add_poisson_noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Adds shot noise and read noise of a sensor at high sensitivity.

    In linear light: electron counts have a Poisson distribution, where white is the full-well
    capacity; read noise of 1 to 3 electrons (drawn per image) is added; the sensor clips. Then
    converts back to sRGB. For speed, counts are drawn from a continuous distribution with the same
    first three moments as the Poisson distribution.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1]; values beyond are clipped first.
        strength: standard deviation of the shot noise at white in linear light, in units of 1/255;
            the full-well capacity is (255 / strength)^2 electrons.
        rng: source of the noise and of the level of the read noise.

    Returns:
        float32 [h, w, 3] in [0, 1].

    References:
        Foi et al., Practical Poissonian-Gaussian Noise Modeling and Fitting (2008).
    """
    light = linear_from_srgb(np.clip(image, 0.0, 1.0))
    electron = np.float32((strength / 255.0) ** 2)  # share of the full well
    read_variance = np.float32(rng.uniform(1.0, 3.0) ** 2) * electron**2
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    variance = light * electron
    skew = variance * electron
    variance += read_variance + np.float32(1e-20)  # avoids 0 / 0 at strength 0
    # z + s (z^2 - 1) has the third moment 6 s + 8 s^3; only shot noise is skewed.
    skew /= 6.0 * variance
    light -= skew
    light += noise * np.sqrt(variance)
    noise *= noise
    skew *= noise
    light += skew
    return srgb_from_linear(np.clip(light, 0.0, 1.0, out=light))


POISSON_NOISE = Degradation(
    name="poisson_noise",
    apply=add_poisson_noise,
    strength_range=(12.0, 40.0),
    largest=255.0,
    unit="standard deviation of white in 1/255 of linear light",
    clips=True,
    summary="Shot noise, which grows with the light, and read noise of a sensor.",
    source="Foi et al. (2008).",
)
