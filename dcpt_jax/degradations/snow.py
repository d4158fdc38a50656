"""Falling snow: flakes of several sizes in front of a veil."""

import cv2
import numpy as np

from dcpt_jax.degradations.base import Degradation
from dcpt_jax.degradations.weather import smooth_depth

# Layers of far, middle and near flakes: (standard deviation of the blur in pixels, groups of equal
# flakes), each group (share of all flakes, diameter in pixels, opacity).
_SNOW_LAYERS = (
    (0.7, ((0.45, 1.0, 0.7), (0.18, 1.5, 0.85))),
    (0.95, ((0.17, 2.2, 0.95), (0.1, 3.2, 0.9), (0.05, 4.4, 0.95), (0.02, 6.0, 0.85))),
    (1.9, ((0.014, 8.0, 0.75), (0.009, 11.0, 0.65), (0.005, 15.0, 0.5))),
)
_SUBPIXEL_BITS = 4
_VEIL = 0.012  # optical thickness of distant, unresolved snow, per unit of strength


def snow_flakes(height: int, width: int, density: float, rng: np.random.Generator) -> np.ndarray:
    """Draws snowflakes: irregular soft blobs at three distances, with one wind direction.

    Far flakes are small and many; near ones are large, few, out of focus and translucent. During
    the exposure a flake moves by about its own size, so it becomes a short stroke, but no line as
    in rain.

    Returns:
        float32 [h, w] opacity in [0, 1].
    """
    wind = rng.uniform(-0.7, 0.7)  # radians from the vertical
    speed = rng.uniform(0.1, 1.1)  # motion during the exposure, in diameters of the flake
    size = rng.uniform(0.8, 1.25)  # finer or coarser snow
    clear = np.ones((height, width), np.float32)
    for blur, groups in _SNOW_LAYERS:
        shares, diameters, opacities = np.transpose(groups)
        spines, counts = _flake_spines(
            (height, width), density * shares, size * diameters, (wind, speed), rng
        )
        canvas = np.zeros((height, width), np.uint8)
        for flakes, diameter, opacity in zip(
            np.split(spines, np.cumsum(counts)[:-1]), diameters, opacities, strict=True
        ):
            cv2.polylines(
                canvas,
                flakes,
                isClosed=False,
                color=round(255 * opacity),
                thickness=max(round(0.7 * size * diameter), 1),
                lineType=cv2.LINE_AA,
                shift=_SUBPIXEL_BITS,
            )
        opacity = cv2.GaussianBlur(canvas, (0, 0), blur * size).astype(np.float32)
        clear *= 1.0 - opacity * np.float32(1.0 / 255.0)
    return 1.0 - clear


def _flake_spines(
    shape: tuple[int, int],
    densities: np.ndarray,
    diameters: np.ndarray,
    motion: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A short crooked line along the motion of each flake, to be drawn with a round brush.

    Args:
        shape: (height, width) of the image.
        densities: [groups] expected numbers of flakes per 1,000 pixels.
        diameters: [groups] in pixels.
        motion: (direction in radians from the vertical, length in diameters).
        rng: source of number, position, shape and motion.

    Returns:
        int32 [flakes, points, xy] in 1/16 pixels, group after group; [groups] numbers of flakes.
    """
    wind, speed = motion
    limits = np.array(shape[::-1]) + 2.0 * diameters.max()  # include flakes that overlap the border
    counts = rng.poisson(densities * limits.prod() / 1000.0)
    diameter = np.repeat(diameters, counts)
    points = 2 if diameters.max() < 2.0 else 3
    centres = rng.random((len(diameter), 2)) * limits - diameters.max()
    angle = wind + 0.3 * rng.standard_normal(len(diameter))  # turbulence
    way = speed * diameter * rng.uniform(0.5, 1.5, len(diameter))
    reach = np.stack([np.sin(angle) * way, np.cos(angle) * way], axis=-1)
    spines = rng.uniform(-0.3, 0.3, (len(diameter), points, 2)) * diameter[:, None, None]
    spines += np.linspace(-0.5, 0.5, points)[:, None] * reach[:, None] + centres[:, None]
    return np.rint(spines * 2**_SUBPIXEL_BITS).astype(np.int32), counts


def add_snow(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Adds snowflakes and the veiling effect of distant snow.

    The veil follows the haze model with a smooth random depth, I = J t + A (1 - t); the flakes then
    cover it with opacity z, A z + I (1 - z). Flakes and veil have the same nearly white brightness
    A (that of the sky), so flakes look grey against brighter objects.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1].
        strength: density, the expected number of flakes per 1,000 pixels.
        rng: source of flakes, depth and brightness.

    Returns:
        float32 [h, w, 3] in [0, 1].

    References:
        Liu et al., DesnowNet (2018): snow of several particle sizes as translucent mask; Chen et
        al., JSTASR (2020): snow with transparency and the veiling effect.
    """
    height, width = image.shape[:2]
    depth = smooth_depth(height, width, rng)
    brightness = np.float32(rng.uniform(0.85, 1.0))
    opacity = 1.0 - snow_flakes(height, width, strength, rng)
    opacity *= np.exp(np.float32(-_VEIL * strength) * depth)  # now the visible share of the scene
    degraded = image - brightness
    degraded *= np.repeat(opacity, 3, axis=1).reshape(image.shape)
    degraded += brightness
    return np.clip(degraded, 0.0, 1.0, out=degraded)


SNOW = Degradation(
    name="snow",
    apply=add_snow,
    strength_range=(4.0, 14.0),
    largest=1000.0,
    unit="flakes per 1,000 pixels",
    clips=True,
    summary="Drifting flakes of many sizes and three distances in front of a veil.",
    source="Liu et al., DesnowNet (2018); Chen et al., JSTASR (2020).",
)
