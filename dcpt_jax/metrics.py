"""PSNR and SSIM of two images, with the convention as arguments.

Published tables differ in what they compare: images rounded to 8 bits or floats, RGB or luma, with
or without a border. Here each call states the convention, and `Convention` names it for tables. The
values agree with BasicSR, which the published DCPT results used.
"""

import dataclasses
from typing import Literal

import cv2
import numpy as np

Channel = Literal["rgb", "y"]
Rounding = Literal["uint8", "none"]

# dB; limit for samples in means, as a perfectly restored sample would make the mean infinite.
PSNR_LIMIT = 100.0

_LUMA = np.array([65.481, 128.553, 24.966])  # ITU-R BT.601, studio swing
_SSIM_SIZE, _SSIM_SIGMA = 11, 1.5
_LARGEST_VALUE = 10.0


@dataclasses.dataclass(frozen=True)
class Convention:
    """Convention of PSNR and SSIM values; values of different conventions are not comparable.

    Attributes:
        channel: as for `psnr`.
        rounding: as for `psnr`.
        crop: as for `psnr`.
    """

    channel: Channel = "rgb"
    rounding: Rounding = "uint8"
    crop: int = 0

    def __str__(self) -> str:
        """Its name for tables, e.g. "RGB, rounded to 8 bits"."""
        parts = ["RGB" if self.channel == "rgb" else "Y of YCbCr"]
        parts.append("rounded to 8 bits" if self.rounding == "uint8" else "unrounded floats")
        if self.crop:
            parts.append(f"{self.crop} pixels cut from each side")
        return ", ".join(parts)


def psnr(
    a: np.ndarray,
    b: np.ndarray,
    *,
    crop: int = 0,
    channel: Channel = "rgb",
    rounding: Rounding = "uint8",
) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images.

    Args:
        a: image [h, w, c], float in [0, 1]; c is 3, or 1 (compared as it is).
        b: image of the same shape.
        crop: pixels cut from every side first.
        channel: "rgb" compares all channels, "y" the luma of ITU-R BT.601 (not rounded).
        rounding: "uint8" clips to [0, 1] and rounds to 8 bits first, as saving to a file does;
            "none" compares the floats unchanged (not clipped).

    Returns:
        dB.

    Raises:
        ValueError: for unequal shapes, integer images, two images with values far above 1, or an
            unknown convention.
    """
    a, b, peak = _prepare(a, b, crop, channel, rounding)
    error = np.mean((a - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def ssim(
    a: np.ndarray,
    b: np.ndarray,
    *,
    crop: int = 0,
    channel: Channel = "rgb",
    rounding: Rounding = "uint8",
) -> float:
    """Structural similarity: mean over positions, then over channels.

    Gaussian window 11x11 with sigma 1.5, only at positions completely inside the image, biased
    variances, constants (0.01 L)^2 and (0.03 L)^2 (Wang et al., 2004).

    Args:
        a: image [h, w, c], float in [0, 1], at least 11 pixels wide and high after the crop.
        b: image of the same shape.
        crop: as for `psnr`.
        channel: as for `psnr`.
        rounding: as for `psnr`.

    Returns:
        In [-1, 1]; 1 for equal images.

    Raises:
        ValueError: as for `psnr`, and for images smaller than the window.
    """
    a, b, peak = _prepare(a, b, crop, channel, rounding)
    if min(a.shape[:2]) < _SSIM_SIZE:
        raise ValueError(
            f"ssim needs images of at least {_SSIM_SIZE}x{_SSIM_SIZE} pixels after the crop, "
            f"got {a.shape[0]}x{a.shape[1]}"
        )
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    variance_a = _window_mean(a * a) - mean_a**2
    variance_b = _window_mean(b * b) - mean_b**2
    covariance = _window_mean(a * b) - mean_a * mean_b
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    return float(similarity.mean())


def _prepare(
    a: np.ndarray, b: np.ndarray, crop: int, channel: str, rounding: str
) -> tuple[np.ndarray, np.ndarray, float]:
    """Checks both images and applies the convention; float64 images, and their peak value."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 3 or a.shape[-1] not in (1, 3):
        raise ValueError(
            f"expected two images [h, w, 3] or [h, w, 1] of equal shape, got {a.shape}, {b.shape}"
        )
    for image in (a, b):
        if not np.issubdtype(image.dtype, np.floating) and image.dtype.name != "bfloat16":
            raise ValueError(f"expected float images in [0, 1], got {image.dtype}: divide by 255")
    # Both, as the output of a diverged network may also have large values.
    if min(np.max(a, initial=0), np.max(b, initial=0)) > _LARGEST_VALUE:
        raise ValueError(
            f"expected images in [0, 1], got values up to {np.max(a):.4g} and {np.max(b):.4g}: "
            "divide by 255"
        )
    if channel not in ("rgb", "y"):
        raise ValueError(f"channel is {channel!r}; known: 'rgb', 'y'")
    if rounding not in ("uint8", "none"):
        raise ValueError(f"rounding is {rounding!r}; known: 'uint8', 'none'")
    if crop < 0 or 2 * crop >= min(a.shape[:2]):
        raise ValueError(f"crop is {crop}; it must be >= 0 and leave something of {a.shape}")
    inside = slice(crop, -crop or None)
    a, b = (
        _convert(image[inside, inside], channel == "y" and image.shape[-1] == 3, rounding)
        for image in (a, b)
    )
    return a, b, 255.0 if rounding == "uint8" else 1.0


def _convert(image: np.ndarray, luma: bool, rounding: str) -> np.ndarray:
    """Returns the image as float64 [h, w, c] in the scale of the metric."""
    if image.dtype.itemsize < 4:
        image = image.astype(np.float32)
    peak = np.float32(1)
    if rounding == "uint8":
        peak = np.float32(255)
        image = np.rint(np.clip(image, 0, 1) * image.dtype.type(255))
    if luma:  # the reference stores image and luma as float32
        y = ((image.astype(np.float32) / peak @ _LUMA + 16) / 255).astype(np.float32) * peak
        image = y[..., None]
    return image.astype(np.float64)


def _window_mean(image: np.ndarray) -> np.ndarray:
    """Gaussian mean of float64 [h, w, c] wherever the window fits: [h - 10, w - 10, c]."""
    offsets = np.arange(_SSIM_SIZE) - _SSIM_SIZE // 2
    kernel = np.exp(-(offsets**2) / (2 * _SSIM_SIGMA**2))
    kernel /= kernel.sum()
    radius = _SSIM_SIZE // 2
    smooth = cv2.sepFilter2D(image, cv2.CV_64F, kernel, kernel)
    return smooth.reshape(image.shape)[radius:-radius, radius:-radius]
