"""How one sample is scored, in an evaluation as in the validation of a training run."""

import numpy as np

from dcpt_jax import metrics


def psnr(
    image: np.ndarray,
    clean: np.ndarray,
    *,
    channel: metrics.Channel = "rgb",
    rounding: metrics.Rounding = "uint8",
) -> float:
    """PSNR in dB of images [h, w, 3], at most `metrics.PSNR_LIMIT`; see `metrics.psnr`."""
    value = metrics.psnr(image, clean, channel=channel, rounding=rounding)
    return min(value, metrics.PSNR_LIMIT)


def convention(*, channel: metrics.Channel = "rgb", rounding: metrics.Rounding = "uint8") -> str:
    """Name of the convention of `psnr` and of `metrics.ssim`, for tables."""
    limit = f"at most {metrics.PSNR_LIMIT:.0f} dB a sample"
    return f"{metrics.convention(channel=channel, rounding=rounding)}, {limit}"
