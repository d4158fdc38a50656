"""Photos taken with too little light."""

import numpy as np

from dcpt_jax.degradations.base import Degradation

# The sRGB curve is a straight line up to the knee and a power above it. Both are added up, each
# held at its value at the knee on the other's side: choosing per pixel is several times slower.
_SRGB_KNEE = np.float32(0.04045)
_LINEAR_KNEE = np.float32(0.0031308)


def linear_from_srgb(image: np.ndarray) -> np.ndarray:
    """Light from sRGB values: float32 [0, 1] in and out (IEC 61966-2-1)."""
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
    """The sRGB values of light: float32 [0, 1] in and out (IEC 61966-2-1)."""
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
    """Takes the photo again with less light and the noise that a sensor then shows.

    In linear light: the exposure is divided by 2^strength; then come shot noise, whose variance is
    the light over the full well, and read noise, of constant variance, both drawn per image from
    the range of small sensors; the sensor clips, and the sRGB curve is put back.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1]; values beyond are clipped first.
        strength: stops of under-exposure; 0 still adds the (then faint) sensor noise.
        rng: source of the noise and its size.

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
