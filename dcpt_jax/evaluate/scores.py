"""How one sample is scored, in an evaluation as in the validation of a training run."""

import numpy as np

from dcpt_jax import metrics, weights


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


def answer(logits: np.ndarray, label: str) -> np.ndarray:
    """What a classifier says.

    Args:
        logits: float [..., outputs].
        label: `weights.MULTI_HOT`: every output above 0 is found; `weights.FLAT`: the highest.

    Returns:
        uint8 [..., outputs] of 0 and 1; one 1 for `weights.FLAT`.
    """
    logits = np.asarray(logits)
    if label == weights.MULTI_HOT:
        return (logits > 0).astype(np.uint8)
    return np.eye(logits.shape[-1], dtype=np.uint8)[logits.argmax(-1)]
