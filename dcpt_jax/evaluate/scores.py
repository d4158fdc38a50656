"""Scores of one sample, shared by the evaluation and by the validation during training."""

from collections.abc import Sequence

import numpy as np

from dcpt_jax import metrics

IMAGE_METRICS = ("psnr", "ssim")
DEFAULT = metrics.Convention()


def of_image(
    image: np.ndarray,
    clean: np.ndarray,
    names: Sequence[str] = IMAGE_METRICS,
    convention: metrics.Convention = DEFAULT,
) -> list[float]:
    """PSNR (dB, at most `metrics.PSNR_LIMIT`) and SSIM of a restored image [h, w, 3] in [0, 1]."""
    options = {"channel": convention.channel, "rounding": convention.rounding}
    values = []
    for name in names:
        value = getattr(metrics, name)(image, clean, **options)
        values.append(min(value, metrics.PSNR_LIMIT) if name == "psnr" else value)
    return values


def describe(convention: metrics.Convention) -> str:
    """Name of the convention of `of_image`, for tables."""
    return f"{convention}, at most {metrics.PSNR_LIMIT:.0f} dB a sample"
