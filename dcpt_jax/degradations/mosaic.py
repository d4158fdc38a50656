"""Demosaicing artefacts of a Bayer sensor."""

import cv2
import numpy as np

from dcpt_jax.degradations.base import Degradation

# RGB channels of the pixels (0, 0), (0, 1), (1, 0), (1, 1), and OpenCV's code of the pattern, which
# is named after the second and third pixel of the second row.
_PATTERNS = (
    ((0, 1, 1, 2), cv2.COLOR_BayerBG2RGB_EA),
    ((1, 0, 2, 1), cv2.COLOR_BayerGB2RGB_EA),
    ((1, 2, 0, 1), cv2.COLOR_BayerGR2RGB_EA),
    ((2, 1, 1, 0), cv2.COLOR_BayerRG2RGB_EA),
)
_BORDER = 4  # pixels, even; demosaicing is worse at the border


def demosaic(image: np.ndarray, pattern: int) -> np.ndarray:
    """Keeps one colour per pixel and interpolates the others along edges.

    Works in 16 bits and with a mirrored border, so that rounding and odd sizes have no effect.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1].
        pattern: 0 to 3: RGGB (DCPT's), GRBG, GBRG or BGGR from the top left pixel.

    Returns:
        float32 [h, w, 3] in [0, 1]; the measured colours keep their values up to 1/131070.
    """
    height, width = image.shape[:2]
    channels, code = _PATTERNS[pattern]
    pixels = np.rint(image * np.float32(65535.0)).astype(np.uint16)
    pixels = cv2.copyMakeBorder(
        pixels,
        _BORDER,
        _BORDER + height % 2,
        _BORDER,
        _BORDER + width % 2,
        cv2.BORDER_REFLECT_101,
    )
    measured = np.empty(pixels.shape[:2], np.uint16)
    for position, channel in enumerate(channels):
        row, column = divmod(position, 2)
        measured[row::2, column::2] = pixels[row::2, column::2, channel]
    pixels = cv2.cvtColor(measured, code)
    pixels = pixels[_BORDER : _BORDER + height, _BORDER : _BORDER + width]
    return pixels.astype(np.float32) / np.float32(65535.0)


def pass_through_mosaic(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Samples the image through a Bayer pattern and demosaics it with OpenCV's edge-aware method.

    Uses all four phases of the pattern. (DCPT always starts with red, and by mistake swaps red and
    blue in the result.)

    Args:
        image: float32 [h, w, 3], RGB, [0, 1]; values beyond are clipped first.
        strength: share of the demosaicing error that is added to the image. Training uses only 1,
            the demosaiced image; smaller values are milder than any camera.
        rng: source of the phase.

    Returns:
        float32 [h, w, 3] in [0, 1].

    References:
        Bayer, Color imaging array (1976); Gunturk et al., Demosaicking: Color Filter Array
        Interpolation (2005); DCPT (2025).
    """
    image = np.clip(image, 0.0, 1.0)
    degraded = demosaic(image, int(rng.integers(len(_PATTERNS))))
    degraded -= image
    degraded *= np.float32(strength)
    degraded += image
    return np.clip(degraded, 0.0, 1.0, out=degraded)


MOSAIC = Degradation(
    name="mosaic",
    apply=pass_through_mosaic,
    strength_range=(1.0, 1.0),
    largest=1.0,
    unit="share of the demosaicing error",
    clips=True,
    summary="A Bayer pattern of any phase and edge-aware demosaicing.",
    source="Bayer (1976); Gunturk et al. (2005); DCPT (2025).",
)
