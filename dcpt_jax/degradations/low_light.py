"""Low light: under-exposure with sensor noise."""

import numpy as np

from dcpt_jax.degradations.base import Degradation

# The sRGB curve is linear up to the knee and a power function above. Here both parts are clamped at
# the knee and added, which is several times faster than selecting per pixel.
_SRGB_KNEE = np.float32(0.04045)
_LINEAR_KNEE = np.float32(0.0031308)


def linear_from_srgb(image: np.ndarray) -> np.ndarray:
    """Converts sRGB values to linear light: float32 in [0, 1] (IEC 61966-2-1)."""
    light = np.maximum(image, _SRGB_KNEE)
    light += np.float32(0.055)
    light *= np.float32(1.0 / 1.055)
    np.power(light, np.float32(2.4), out=light)
    below = np.minimum(image, _SRGB_KNEE)
    below -= _SRGB_KNEE
    below *= np.float32(1.0 / 12.92)
    light += below
    return np.maximum(light, 0.0, out=light)


def srgb_from_linear(light: np.ndarray) -> np.ndarray:
    """Converts linear light to sRGB values: float32 in [0, 1] (IEC 61966-2-1)."""
    image = np.maximum(light, _LINEAR_KNEE)
    np.power(image, np.float32(1.0 / 2.4), out=image)
    image *= np.float32(1.055)
    image -= np.float32(0.055)
    below = np.minimum(light, _LINEAR_KNEE)
    below -= _LINEAR_KNEE
    below *= np.float32(12.92)
    image += below
    return np.clip(image, 0.0, 1.0, out=image)


def underexpose(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Simulates an under-exposed photo with sensor noise.

    In linear light: divides the exposure by 2^strength, adds shot noise (variance = light /
    full-well capacity) and read noise (constant variance), and clips. Full-well capacity and read
    noise are drawn per image from the range of small sensors. Then converts back to sRGB.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1]; values beyond are clipped first.
        strength: stops of under-exposure; 0 still adds faint sensor noise.
        rng: source of the noise and its parameters.

    Returns:
        float32 [h, w, 3] in [0, 1].

    References:
        Foi et al., Practical Poissonian-Gaussian Noise Modeling (2008); Lv et al., Attention
        Guided Low-light Image Enhancement (2021), synthesis by exposure, gamma and sensor noise.
    """
    light = linear_from_srgb(np.clip(image, 0.0, 1.0))
    light *= np.float32(2.0**-strength)
    shot_variance = np.float32(1.0 / np.exp(rng.uniform(np.log(1500.0), np.log(6000.0))))
    read_variance = np.float32(rng.uniform(0.0004, 0.0015) ** 2)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise *= np.sqrt(light * shot_variance + read_variance)
    light += noise
    return srgb_from_linear(np.clip(light, 0.0, 1.0, out=light))


LOW_LIGHT = Degradation(
    name="low_light",
    apply=underexpose,
    strength_range=(2.0, 4.0),
    largest=100.0,
    unit="stops of under-exposure",
    clips=True,
    summary="Under-exposure in linear light with shot and read noise.",
    source="Foi et al. (2008); Lv et al. (2021).",
)
