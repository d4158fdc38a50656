import ml_dtypes
import numpy as np
import pytest

from dcpt_jax import metrics
from tests.golden import read_arrays, read_json


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    clean = rng.random((40, 52, 3)).astype(np.float32)
    return clean, np.clip(clean + rng.normal(0, 0.1, clean.shape), 0, 1).astype(np.float32)


def test_psnr_by_hand():
    a = np.zeros((4, 4, 3), np.float32)
    np.testing.assert_allclose(metrics.psnr(a, a + 0.1, rounding="none"), 20.0, atol=1e-5)
    # 0.1 is 25.5 of 255, which rounds to 26 (round half to even).
    np.testing.assert_allclose(metrics.psnr(a, a + np.float32(0.1)), 20 * np.log10(255 / 26))
    assert metrics.psnr(a, a) == np.inf


def test_values_equal_the_reference():
    pairs = read_arrays("metrics/pairs.npz")
    compared = 0
    for case in read_json("metrics/metrics.json")["values"]:
        clean = pairs[f"{case['pair']}/gt"].astype(np.float32) / np.float32(255)
        image = pairs[f"{case['pair']}/img"]
        options = {
            "crop": case["crop_border"],
            "channel": "y" if case["test_y_channel"] else "rgb",
        }
        if case["image_range"] == 255:
            options["rounding"] = "uint8"
        elif case["image_range"] == 1 and not case["test_y_channel"]:
            options["rounding"] = "none"
        else:
            continue
        expected = float(case["psnr"])
        np.testing.assert_allclose(metrics.psnr(image, clean, **options), expected, rtol=1e-9)
        np.testing.assert_allclose(metrics.ssim(image, clean, **options), case["ssim"], rtol=1e-7)
        compared += 1
    assert compared >= 10


def test_floats_in_luma_equal_the_references_tensor_version():
    pairs = read_arrays("metrics/pairs.npz")
    for case in read_json("metrics/metrics.json")["values"]:
        if "psnr_pt" not in case or not np.isfinite(float(case["psnr_pt"])):
            continue
        clean = pairs[f"{case['pair']}/gt"].astype(np.float32) / np.float32(255)
        options = {
            "crop": case["crop_border"],
            "channel": "y" if case["test_y_channel"] else "rgb",
            "rounding": "none",
        }
        image = pairs[f"{case['pair']}/img"]
        error = 10 ** (-metrics.psnr(image, clean, **options) / 10)
        # The tensor version adds 1e-12 to the error and works in float32.
        np.testing.assert_allclose(-10 * np.log10(error + 1e-12), case["psnr_pt"], atol=2e-4)


@pytest.mark.parametrize("crop", [0, 3])
def test_floats_in_luma_are_rounded_to_float32_as_in_the_reference(crop):
    rng = np.random.default_rng(0)
    a = rng.random((20, 24, 3)).astype(np.float32)
    b = a + rng.normal(0, 1e-4, a.shape).astype(np.float32)

    def luma(image):
        red, green, blue = np.moveaxis(image.astype(np.float64), -1, 0)
        y = (24.966 * blue + 128.553 * green + 65.481 * red + 16) / 255
        return y.astype(np.float32).astype(np.float64)[crop : 20 - crop, crop : 24 - crop]

    expected = -10 * np.log10(np.mean((luma(a) - luma(b)) ** 2))
    found = metrics.psnr(a, b, crop=crop, channel="y", rounding="none")
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_ssim_equals_scikit_image(pair):
    skimage_metrics = pytest.importorskip("skimage.metrics")
    a, b = (image.astype(np.float64) for image in pair)
    expected, _ = skimage_metrics.structural_similarity(
        a, b, channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    np.testing.assert_allclose(metrics.ssim(a, b, rounding="none"), expected, atol=1e-10)


def test_symmetry_and_identity(pair):
    a, b = pair
    assert metrics.psnr(a, b) == metrics.psnr(b, a)
    assert metrics.ssim(a, a) == 1.0
    assert metrics.ssim(a, b) < 1.0
    assert metrics.ssim(np.full_like(a, 0.5), np.full_like(a, 0.5)) == 1.0


def test_crop_leaves_the_border_out(pair):
    a, b = pair
    changed = b.copy()
    changed[:3] = 0
    assert metrics.psnr(a, b, crop=3) == metrics.psnr(a, changed, crop=3)
    assert metrics.psnr(a, b, crop=2) != metrics.psnr(a, changed, crop=2)


def test_out_of_range_values_are_clipped_before_rounding():
    a = np.ones((12, 12, 3), np.float32)
    assert metrics.psnr(a, a + 0.5) == np.inf
    assert metrics.psnr(a, a + 0.5, rounding="none") < 7


def test_bfloat16_images_are_images(pair):
    a = pair[0].astype(ml_dtypes.bfloat16)
    assert metrics.psnr(a, pair[1]) == metrics.psnr(a.astype(np.float32), pair[1])


def test_errors_name_the_expected_values(pair):
    a, b = pair
    with pytest.raises(ValueError, match="equal shape"):
        metrics.psnr(a, b[:-1])
    with pytest.raises(ValueError, match="divide by 255"):
        metrics.psnr((a * 255).astype(np.uint8), b)
    for metric in (metrics.psnr, metrics.ssim):
        with pytest.raises(ValueError, match=r"expected images in \[0, 1\], .*: divide by 255"):
            metric(a * 255, b * 255)
    with pytest.raises(ValueError, match="'rgb', 'y'"):
        metrics.psnr(a, b, channel="luma")
    with pytest.raises(ValueError, match="'uint8', 'none'"):
        metrics.ssim(a, b, rounding="float")
    with pytest.raises(ValueError, match="crop"):
        metrics.psnr(a, b, crop=20)
    with pytest.raises(ValueError, match="11x11"):
        metrics.ssim(a[:8], b[:8])


def test_convention_has_a_name():
    assert str(metrics.Convention()) == "RGB, rounded to 8 bits"
    assert str(metrics.Convention(crop=4, channel="y", rounding="none")) == (
        "Y of YCbCr, unrounded floats, 4 pixels cut from each side"
    )
