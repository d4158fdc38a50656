"""Defocus blur."""

import cv2
import numpy as np

from dcpt_jax.degradations.base import Degradation
from dcpt_jax.degradations.low_light import linear_from_srgb, srgb_from_linear

_BLADES = (5, 6, 7, 8, 9)  # usual numbers of diaphragm blades; with more it is nearly a disc
_FINENESS = 4  # supersampling per axis


def disc_kernel(radius: float) -> np.ndarray:
    """The image of a point of light through a fully open lens: an evenly lit disc.

    Args:
        radius: in pixels, >= 0; up to 0.5 gives the identity kernel.

    Returns:
        float32 [side, side], side odd, non-negative, sum 1, symmetric; pixels on the edge are
        lit by the share of them that is inside.
    """
    if radius <= 0.5:
        return np.ones((1, 1), np.float32)
    rows, columns = _fine_grid(radius)
    return _pixels_inside(np.hypot(rows, columns) - radius)


def polygon_kernel(radius: float, blades: int, rotation: float) -> np.ndarray:
    """The image of a point of light through a diaphragm of straight blades: a regular polygon.

    Args:
        radius: of the disc of the same area, in pixels, >= 0; up to 0.5 gives the identity kernel.
        blades: number of sides, >= 3.
        rotation: direction of the middle of one side, in radians.

    Returns:
        float32 [side, side], as from `disc_kernel`, but not symmetric.
    """
    if radius <= 0.5:
        return np.ones((1, 1), np.float32)
    # From the areas: pi r^2 = blades * inner^2 * tan(pi / blades), inner and outer circle.
    inner = radius * np.sqrt(np.pi / (blades * np.tan(np.pi / blades)))
    rows, columns = _fine_grid(inner / np.cos(np.pi / blades))
    distance = np.full((rows.size, columns.size), -np.inf)
    for direction in rotation + 2.0 * np.pi * np.arange(blades) / blades:
        along = columns * np.cos(direction) + rows * np.sin(direction)
        np.maximum(distance, along, out=distance)
    return _pixels_inside(distance - inner)


def aperture_kernel(radius: float, rng: np.random.Generator) -> np.ndarray:
    """Draws a defocus kernel: a disc, or a polygon of 5 to 9 blades, equally likely.

    Args:
        radius: of the disc, or of the disc with the polygon's area, in pixels.
        rng: source of the shape, the number of blades and their rotation.

    Returns:
        float32 [side, side], side odd, non-negative, sum 1, centred to 1/30 of a pixel.
    """
    is_disc = rng.random() < 0.5
    blades, rotation = int(rng.choice(_BLADES)), rng.uniform(0.0, 2.0 * np.pi)
    return disc_kernel(radius) if is_disc else polygon_kernel(radius, blades, rotation)


def _fine_grid(reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows [points, 1] and columns [1, points] from the centre, for whole pixels up to `reach`."""
    points = _FINENESS * (2 * int(np.ceil(reach - 0.5)) + 1)
    steps = (np.arange(points) - (points - 1) / 2) / _FINENESS
    return steps[:, None], steps[None, :]


def _pixels_inside(distance: np.ndarray) -> np.ndarray:
    """Kernel from the distance of each point to the edge of a shape, inside negative, in pixels."""
    covered = np.clip(0.5 - _FINENESS * distance, 0.0, 1.0)
    side = len(distance) // _FINENESS
    kernel = covered.reshape(side, _FINENESS, side, _FINENESS).sum(axis=(1, 3))
    return (kernel / kernel.sum()).astype(np.float32)


def blur_by_defocus(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Blurs with one aperture kernel over the whole image, in linear light.

    A lens blurs light, not sRGB values: in linear light bright points become bright discs, as in
    photos out of focus.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1]; values beyond are clipped first; mirrored at the
            border.
        strength: radius of the disc in pixels, see `aperture_kernel`.
        rng: source of the kernel.

    Returns:
        float32 [h, w, 3] in [0, 1].

    References:
        Potmesil and Chakravarty, A Lens and Aperture Camera Model for Synthetic Image Generation
        (1981), the circle of confusion; Abuolaim and Brown, Defocus Deblurring Using Dual-Pixel
        Data (2020), the photos (DPDD) for which this stands in.
    """
    light = linear_from_srgb(np.clip(image, 0.0, 1.0))
    kernel = aperture_kernel(strength, rng)
    light = cv2.filter2D(light, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101)
    # Larger kernels go through a Fourier transform, whose rounding errors leave [0, 1] slightly.
    return srgb_from_linear(np.clip(light, 0.0, 1.0, out=light))


DEFOCUS_BLUR = Degradation(
    name="defocus_blur",
    apply=blur_by_defocus,
    strength_range=(2.0, 6.0),
    largest=127.0,
    unit="radius of the aperture's disc in pixels",
    clips=True,
    summary="Blur by a lens out of focus: a disc or a polygon of blades, in linear light.",
    source="Potmesil and Chakravarty (1981); Abuolaim and Brown, DPDD (2020).",
)
