"""Haze and rain."""

import cv2
import numpy as np

from dcpt_jax.degradations.base import Degradation

# --- haze ---------------------------------------------------------------------------------------

_WAVES = 4  # cosine waves per axis in the depth field: half a period to one and a half periods


def smooth_depth(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a plausible outdoor depth map: smooth, and mostly increasing towards the top.

    Returns:
        float32 [h, w]; the farthest point is 1, the nearest between 0.1 and 0.4.
    """
    frequencies = np.arange(_WAVES, dtype=np.float32)
    y = (np.arange(height, dtype=np.float32) + 0.5) / height
    x = (np.arange(width, dtype=np.float32) + 0.5) / width
    waves_y = np.cos(np.pi * y[:, None] * frequencies)
    waves_x = np.cos(np.pi * x[:, None] * frequencies)
    amplitudes = rng.standard_normal((_WAVES, _WAVES), dtype=np.float32)
    amplitudes /= 1.0 + frequencies[:, None] ** 2 + frequencies[None, :] ** 2
    amplitudes[0, 0] = 0.0
    depth = waves_y @ amplitudes @ waves_x.T
    depth -= np.float32(rng.uniform(0.0, 3.0)) * y[:, None]
    nearest = np.float32(rng.uniform(0.1, 0.4))
    depth -= depth.max()
    span = -depth.min()
    if span > 0.0:
        depth *= (1.0 - nearest) / span
    depth += 1.0
    return depth


def add_haze(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Adds haze by the atmospheric scattering model, I = J t + A (1 - t) with t = exp(-beta d).

    The depth d is drawn at random (see `smooth_depth`), not estimated from the image. Its maximum
    is 1, so beta is the optical thickness at the farthest point. The airlight A is a nearly grey
    colour per image, with its brightest channel in [0.7, 1.0].

    Args:
        image: float32 [h, w, 3], RGB, [0, 1].
        strength: scattering coefficient beta; for large values the result tends to the airlight.
        rng: source of depth and airlight.

    Returns:
        float32 [h, w, 3] in [0, 1].

    References:
        Koschmieder (1924); Narasimhan and Nayar, Vision and the Atmosphere (2002), the attenuation
        and airlight models; Li et al., RESIDE (2019): beta from 0.6 to 1.8, A from 0.7 to 1.0.
    """
    height, width = image.shape[:2]
    depth = smooth_depth(height, width, rng)
    airlight = rng.uniform(0.7, 1.0) * (1.0 - rng.uniform(0.0, 0.05, 3))
    # Whole rows instead of [..., 3]: broadcasting along such a short axis is four times slower.
    airlight = np.tile(airlight.astype(np.float32), width)
    depth *= -strength
    degraded = image.reshape(height, 3 * width) - airlight
    degraded *= np.repeat(np.exp(depth), 3, axis=1)
    degraded += airlight
    return np.clip(degraded, 0.0, 1.0, out=degraded).reshape(image.shape)


HAZE = Degradation(
    name="haze",
    apply=add_haze,
    strength_range=(0.6, 1.8),
    largest=1000.0,
    unit="optical thickness beta at the farthest point",
    clips=True,
    summary="Haze that thickens with a smooth random depth.",
    source="Narasimhan and Nayar (2002) after Koschmieder (1924); Li et al., RESIDE (2019).",
)

# --- rain ---------------------------------------------------------------------------------------

# Layers of far, near (long, wide, out of focus) and middle drops: (share of the streaks, mean
# length in pixels, thickness, opacity). Faintest first, because later streaks cover earlier ones.
_RAIN_LAYERS = ((0.58, 10.0, 1, 0.4), (0.04, 26.0, 2, 0.5), (0.38, 18.0, 1, 0.7))
_SUBPIXEL_BITS = 4


def rain_streaks(height: int, width: int, density: float, rng: np.random.Generator) -> np.ndarray:
    """Draws rain streaks: one wind direction, three distances, soft edges and ends.

    Returns:
        float32 [h, w] opacity in [0, 1].
    """
    canvas = np.zeros((height, width), np.uint8)
    wind = rng.uniform(-0.6, 0.6)  # radians from the vertical
    size = rng.uniform(0.8, 1.25)  # factor of the length of all streaks
    brightness = rng.uniform(0.85, 1.0)
    for share, mean_length, thickness, opacity in _RAIN_LAYERS:
        margin = size * mean_length  # include streaks that overlap the border
        area = (height + margin) * (width + margin)
        count = rng.poisson(density * share * area / 1000.0)
        x, y, relative_length, lean = rng.random((4, count))
        x, y = x * (width + margin) - margin / 2, y * (height + margin) - margin / 2
        half_length = size * mean_length * (0.3 + 0.4 * relative_length)
        angle = wind + 0.12 * (lean - 0.5)
        reach = np.array([half_length * np.sin(angle), half_length * np.cos(angle)])
        sides = np.stack([-reach, reach])  # [side, xy, count]
        # First the whole streak, faint, then its bright middle, so that the ends fade.
        for part, part_opacity in ((1.0, 0.5 * opacity), (0.6, opacity)):
            ends = ((x, y) + part * sides).transpose(2, 0, 1)
            cv2.polylines(
                canvas,
                np.rint(ends * 2**_SUBPIXEL_BITS).astype(np.int32),
                isClosed=False,
                color=round(255 * brightness * part_opacity),
                thickness=thickness,
                lineType=cv2.LINE_AA,
                shift=_SUBPIXEL_BITS,
            )
    return cv2.GaussianBlur(canvas, (3, 3), 0.6).astype(np.float32) / np.float32(255.0)


def add_rain(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Adds rain streaks and a thin veil of distant, unresolved rain.

    Both are white light, blended as I = J + (1 - J) m, so rain only brightens the image.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1].
        strength: density, the expected number of streaks per 1,000 pixels.
        rng: source of streaks and veil.

    Returns:
        float32 [h, w, 3] in [0, 1], nowhere below the image.

    References:
        Garg and Nayar, Vision and Rain (2007): streaks brighten their background; Yang et al.,
        Deep Joint Rain Detection and Removal (2017): streak layers over a veil (Rain100).
    """
    height, width = image.shape[:2]
    opacity = rain_streaks(height, width, strength, rng)
    veil = np.float32(rng.uniform(0.5, 1.0) * 0.1 * (1.0 - np.exp(-strength / 15.0)))
    opacity += veil * (1.0 - opacity)
    degraded = 1.0 - image
    degraded *= np.repeat(opacity, 3, axis=1).reshape(image.shape)
    degraded += image
    return np.clip(degraded, 0.0, 1.0, out=degraded)


RAIN = Degradation(
    name="rain",
    apply=add_rain,
    strength_range=(4.0, 12.0),
    largest=1000.0,
    unit="streaks per 1,000 pixels",
    clips=True,
    summary="Slanting rain streaks of three distances over a thin veil.",
    source="Garg and Nayar (2007); Yang et al., Rain100 (2017).",
)
