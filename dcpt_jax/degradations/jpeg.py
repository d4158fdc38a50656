"""JPEG compression artefacts."""

import cv2
import numpy as np

from dcpt_jax.degradations.base import Degradation


def jpeg_file(image: np.ndarray, quality: int) -> np.ndarray:
    """Encodes a JPEG file with 4:2:0 chroma subsampling, OpenCV's default.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1], h and w up to 65,500; rounded to 8 bits.
        quality: 1 to 100.

    Returns:
        uint8 [length].
    """
    pixels = np.rint(image * np.float32(255.0)).astype(np.uint8)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]


def compress_as_jpeg(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Compresses the image as JPEG and decompresses it, with OpenCV's defaults as in DCPT.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1], h and w up to 65,500; values beyond are clipped
            first.
        strength: 100 - quality, rounded to an integer: quality 10 is strength 90. Quality 100
            still loses colour detail, so strength 0 skips the compression.
        rng: not used.

    Returns:
        float32 [h, w, 3] in [0, 1], multiples of 1/255 unless strength is 0.

    References:
        Wallace, The JPEG Still Picture Compression Standard (1992); DCPT (2025), where the quality
        is one of 10, 20, 30, 40, 50.
    """
    image = np.clip(image, 0.0, 1.0)
    if strength == 0.0:
        return image
    pixels = cv2.imdecode(jpeg_file(image, round(100 - strength)), cv2.IMREAD_COLOR)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return pixels.astype(np.float32) / np.float32(255.0)


JPEG = Degradation(
    name="jpeg",
    apply=compress_as_jpeg,
    strength_range=(50.0, 90.0),
    largest=99.0,
    unit="100 minus JPEG quality",
    clips=True,
    summary="JPEG compression and decompression.",
    source="Wallace (1992); DCPT (2025), quality 10 to 50.",
)
