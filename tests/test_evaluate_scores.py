import numpy as np
import pytest

from dcpt_jax import metrics
from dcpt_jax.evaluate import scores


def test_a_perfect_sample_counts_the_limit():
    image = np.full((12, 12, 3), 0.5, np.float32)
    assert scores.psnr(image, image) == metrics.PSNR_LIMIT
    assert scores.psnr(image + 0.1, image, rounding="none") == pytest.approx(20, abs=1e-3)
    assert scores.convention() == "RGB, rounded to 8 bits, at most 100 dB a sample"
    assert scores.convention(channel="y").startswith("Y of YCbCr, rounded")
    assert scores.psnr(image + 0.1, image, channel="y", rounding="none") == pytest.approx(
        20 + 20 * np.log10(255 / 219), abs=1e-3
    )
