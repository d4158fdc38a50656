import numpy as np
import pytest

from dcpt_jax import metrics
from dcpt_jax.evaluate import scores


def test_a_perfect_sample_counts_the_limit():
    image = np.full((12, 12, 3), 0.5, np.float32)
    assert scores.of_image(image, image, ["psnr", "ssim"]) == [metrics.PSNR_LIMIT, pytest.approx(1)]
    exact = metrics.Convention(rounding="none")
    assert scores.of_image(image + 0.1, image, ["psnr"], exact) == [pytest.approx(20, abs=1e-3)]
    assert scores.describe(scores.DEFAULT) == "RGB, rounded to 8 bits, at most 100 dB a sample"
    luma = metrics.Convention("y", "none")
    assert scores.describe(metrics.Convention("y")).startswith("Y of YCbCr, rounded")
    expected = 20 + 20 * np.log10(255 / 219)
    assert scores.of_image(image + 0.1, image, ["psnr"], luma) == [
        pytest.approx(expected, abs=1e-3)
    ]
