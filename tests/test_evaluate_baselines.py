import sys

import numpy as np
import pytest

from dcpt_jax import config as configs
from dcpt_jax import metrics
from dcpt_jax.data import held_out, tasks
from dcpt_jax.evaluate import baselines, run

METHODS = {method.name: method for method in baselines.METHODS}
NEEDS_PYWAVELETS = ("non-local means", "wavelets")


def method_named(name: str) -> baselines.Method:
    if name in NEEDS_PYWAVELETS:
        pytest.importorskip("pywt")
    return METHODS[name]


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A smooth scene with edges: float32 [96, 96, 3] in [0.15, 0.9]."""
    y, x = np.mgrid[:96, :96] / 96
    shades = np.stack([0.3 + 0.4 * x, 0.4 + 0.3 * y, 0.5 + 0.2 * x * y], axis=-1)
    shades[24:60, 30:72] += 0.2
    shades[70:, ::12] -= 0.15
    return shades.astype(np.float32)


def gain(name: str, degraded: np.ndarray, clean: np.ndarray) -> float:
    """Gain in PSNR of a method, in dB."""
    before = metrics.psnr(np.clip(degraded, 0, 1), clean)
    return metrics.psnr(method_named(name)(degraded), clean) - before


@pytest.mark.parametrize("name", NEEDS_PYWAVELETS)
@pytest.mark.parametrize("sigma", [15, 50])
def test_denoisers_remove_noise_of_unknown_strength(name, sigma, photo):
    noise = np.random.default_rng(0).normal(0, sigma / 255, photo.shape).astype(np.float32)
    assert gain(name, photo + noise, photo) > 4


@pytest.mark.parametrize("name", NEEDS_PYWAVELETS)
def test_denoisers_leave_a_clean_photo_alone(name, photo):
    assert metrics.psnr(method_named(name)(photo), photo) > 40


@pytest.mark.parametrize("name", ["gamma", "CLAHE"])
def test_a_dark_photo_gets_brighter_and_nearer_to_the_clean_one(name, photo):
    dark = 0.25 * photo**1.5
    assert METHODS[name](dark).mean() > 2 * dark.mean()
    assert gain(name, dark, photo) > 4


def test_gamma_takes_a_flat_photo_to_half():
    found = METHODS["gamma"](np.full((16, 16, 3), 0.2, np.float32))
    np.testing.assert_allclose(found, 0.5, atol=1e-6)


def test_deconvolution_sharpens_a_blur_that_is_not_its_own(photo):
    import cv2

    assert gain("Richardson-Lucy", cv2.GaussianBlur(photo, (0, 0), 2.0), photo) > 0.3


@pytest.mark.parametrize("name", METHODS)
def test_images_of_every_kind_stay_images(name, photo):
    rng = np.random.default_rng(0)
    kinds = {
        "odd and small": rng.uniform(0, 1, (11, 13, 3)),
        "out of range": rng.normal(0.5, 0.5, (24, 24, 3)),
        "black": np.zeros((24, 24, 3)),
        "white": np.ones((24, 24, 3)),
        "one edge": np.broadcast_to(np.arange(24)[:, None] >= 12, (24, 24))[..., None].repeat(3, 2),
    }
    for kind, image in kinds.items():
        image = image.astype(np.float32)
        before = image.copy()
        found = method_named(name)(image)
        assert (found.shape, found.dtype) == (image.shape, np.float32), kind
        assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1, kind
        np.testing.assert_array_equal(image, before)  # the network gets the same array


def test_values_that_are_not_finite_are_those_of_the_degraded_image():
    def broken(image):
        return np.where(image > 0.5, np.nan, 2.0)

    image = np.array([[[0.25, 0.75, 1.5]]], np.float32)
    found = baselines.Method("broken", broken, "", "")(image)
    np.testing.assert_array_equal(found, [[[1.0, 0.75, 1.0]]])


def test_a_missing_library_is_named_before_anything_is_read(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pywt", None)
    config = configs.load("evaluate")
    config.init_from = str(tmp_path / "no weights here")
    config.baselines = True
    with pytest.raises(ImportError, match=r'extra "train" .*pywt.*or set --config'):
        run.evaluate(config, tmp_path)


def test_methods_are_scored_on_the_samples_of_the_network():
    """By hand: errors of 0.1 and 0.2 are 20 and 14 dB; half of 0.1 is 26 dB."""

    def restored():
        for task, error in ((0, 0.1), (0, 0.1), (1, 0.2)):
            clean = np.full((12, 12, 3), 0.5, np.float32)
            yield held_out.Sample(task, clean + np.float32(error), clean, "photo"), clean + 0.05

    methods = (
        baselines.Method("as it is", lambda image: image, "none", "nobody"),
        baselines.Method("half way", lambda image: 0.5 + (image - 0.5) / 2, "none", "nobody"),
    )
    found = tasks.resolve_tasks("noise,haze")
    pictures = run.PictureSheet(["noise", "haze"], [2, 1], 12)
    floats = metrics.Convention(rounding="none")
    evaluation = run.score(found, restored(), None, pictures, metric=floats, methods=methods)
    as_it_is, half_way = evaluation.baselines
    assert as_it_is.psnr == pytest.approx((20, 20 - 20 * np.log10(2)), abs=1e-3)
    assert half_way.psnr == pytest.approx((20 + 20 * np.log10(2), 20), abs=1e-3)
    assert as_it_is.ssim == tuple(c.ssim_degraded for c in evaluation.classes)
    assert as_it_is.psnr == tuple(c.psnr_degraded for c in evaluation.classes)
    assert [c.psnr_restored for c in evaluation.classes] == pytest.approx([26.0206] * 2, abs=1e-3)
    text = evaluation.to_markdown()
    assert "| PSNR | degraded | network | as it is | half way |" in text
    assert "| noise | 20.00 | **26.02** | 20.00 | **26.02** |" in text
    assert "| haze | 13.98 | **26.02** | 13.98 | 20.00 |" in text
    assert "| mean | 16.99 | **26.02** | 16.99 | 23.01 |" in text
    assert "| SSIM | degraded | network | as it is | half way |" in text
    saved = evaluation.to_json()["baselines"]["half way"]
    assert saved["classes"]["haze"]["psnr"] == half_way.psnr[1]
    assert saved["mean"]["psnr"] == pytest.approx(23.0103, abs=1e-3)
