import itertools

import cv2
import numpy as np
import pytest

from dcpt_jax.degradations import degrade, real


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    """Forty float32 [96, 96, 3] crops of two photos."""
    data = pytest.importorskip("skimage.data")
    rng = np.random.default_rng(3)
    found = []
    for photo in (data.astronaut(), data.coffee()):
        for _ in range(20):
            top, left = (rng.integers(length - 96) for length in photo.shape[:2])
            found.append(photo[top : top + 96, left : left + 96].astype(np.float32) / 255)
    return found


def test_typical_results_can_be_restored(crops: list[np.ndarray]) -> None:
    errors = [
        np.mean((degrade(crop, "real", seed=seed) - crop) ** 2) for seed, crop in enumerate(crops)
    ]
    psnrs = -10 * np.log10(errors)
    assert 24 < np.median(psnrs) < 30
    assert np.percentile(psnrs, 5) > 19 and np.percentile(psnrs, 95) < 38
    assert np.std(psnrs) > 1.5  # as different as photos are


@pytest.mark.parametrize("size", [(96, 96), (75, 90)])
def test_nothing_is_displaced(size: tuple[int, int]) -> None:
    shifts = []
    for seed in range(40):
        noise = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
        texture = cv2.GaussianBlur(noise, (0, 0), 2.0)
        clean = np.clip(0.5 + 0.2 * texture / texture.std(), 0, 1)
        degraded = degrade(np.stack([clean] * 3, axis=-1), "real:1.5", seed=seed)
        shifts.append(_shift(clean, cv2.cvtColor(degraded, cv2.COLOR_RGB2GRAY)))
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.01
    assert np.abs(shifts).max() < 0.1


def _shift(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Shift of `b` relative to `a` in pixels (x, y): least squares on the gradient of `a`."""
    a, b = (cv2.GaussianBlur(image, (0, 0), 1.5)[8:-8, 8:-8] for image in (a, b))
    vertical, horizontal = np.gradient(a)
    columns = np.stack([-horizontal, -vertical, a, np.ones_like(a)], axis=-1).reshape(-1, 4)
    return np.linalg.lstsq(columns, (b - a).ravel(), rcond=None)[0][:2]


def test_the_measure_of_shifts_sees_half_a_pixel(crops: list[np.ndarray]) -> None:
    grey = cv2.cvtColor(crops[0], cv2.COLOR_RGB2GRAY)
    moved = cv2.warpAffine(grey, np.float32([[1, 0, 0.5], [0, 1, -0.25]]), (96, 96))
    np.testing.assert_allclose(_shift(grey, moved), [0.5, -0.25], atol=0.1)


@pytest.mark.parametrize("filtering", real._FILTERS)
@pytest.mark.parametrize("between", [23, 31, 40, 57])
def test_scaling_there_and_back_keeps_a_ramp(filtering: int, between: int, monkeypatch) -> None:
    monkeypatch.setattr(real, "_FILTERS", (filtering,))
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 40, dtype=np.float32)
    image = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 1 - ramp), axis=-1)
    back = real._resized(real._resized(image, (between, between), rng), (40, 40), rng)
    step = 1 / 39  # of the ramp per pixel
    error = (back - image)[6:-6, 6:-6].mean(axis=(0, 1))
    assert np.abs(error).max() < 0.03 * step


def test_kernels_are_centred_and_as_wide_as_stated() -> None:
    gaussian = real.blur_kernel((1.5, 1.5), 0.3)
    one = cv2.getGaussianKernel(9, 1.5)
    np.testing.assert_allclose(gaussian, one @ one.T, atol=1e-6)
    rng = np.random.default_rng(0)
    for kind, shape in itertools.product(real._KINDS, (1.0, 2.0, 4.0)):
        kernel = real.blur_kernel((2.0, 0.7), rng.uniform(0, np.pi), kind=kind, shape=shape)
        assert kernel.dtype == np.float32 and kernel.shape[0] % 2 == 1
        assert kernel.min() >= 0 and kernel.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)
    long = real.blur_kernel((2.0, 0.7), 0.0)
    steps = np.arange(len(long)) - len(long) // 2
    assert np.sqrt((long.sum(axis=0) * steps**2).sum()) == pytest.approx(2.0, rel=0.1)
    assert np.sqrt((long.sum(axis=1) * steps**2).sum()) == pytest.approx(0.7, rel=0.1)
    flat, peaked = (real.blur_kernel((2.0, 2.0), 0, kind="generalised", shape=s) for s in (4, 0.5))
    centre = len(flat) // 2
    assert flat[centre, centre + 1] > 0.99 * flat[centre, centre]
    assert peaked[centre, centre + 1] < 0.9 * peaked[centre, centre]


def test_a_very_low_strength_changes_very_little(crops: list[np.ndarray]) -> None:
    for strength in (1e-9, 1e-60):
        degraded = [degrade(crops[0], f"real:{strength}", seed=seed) for seed in range(10)]
        assert np.isfinite(degraded).all()
        assert np.median([np.abs(one - crops[0]).mean() for one in degraded]) < 0.03


def test_sinc_filters_cut_off_and_ring() -> None:
    for x, value in ((0.5, 0.2422685), (1.0, 0.4400506), (10.0, 0.0434727), (20.0, 0.0668331)):
        assert np.interp(x, *real._J1) == pytest.approx(value, abs=1e-4)
    kernel = real.sinc_kernel(np.pi / 2, 5)
    assert kernel.shape == (11, 11) and kernel.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-7)
    np.testing.assert_allclose(kernel, kernel[::-1], atol=1e-7)
    spectrum = np.abs(np.fft.rfft(kernel.sum(axis=0), 64))
    assert spectrum[:8].min() > 0.8 and spectrum[26:].max() < 0.15
    edge = np.where(np.arange(32) < 16, 0.25, 0.75) * np.ones((32, 1))
    ringing = cv2.filter2D(edge, cv2.CV_64F, real.sinc_kernel(np.pi / 1.5, 5))
    assert ringing.max() > 0.8 and ringing.min() < 0.2


def test_noise_is_normal_and_grows_with_light_where_it_is_shot_noise() -> None:
    assert np.abs(real._NORMAL.mean()) < 1e-6
    assert (real._NORMAL**4).mean() == pytest.approx(3, rel=0.02)
    size, ranges = (128, 128), real.PASSES[0]
    dark, bright = (np.full((*size, 3), level, np.float32) for level in (0.1, 0.6))
    kinds, greys = [], []
    for seed in range(60):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        noise = [
            real._add_noise(image, ranges, size, 0.5, rng) - image
            for image, rng in zip((dark, bright), rngs, strict=True)
        ]
        deviations = [one.std() for one in noise]
        assert 0 < deviations[1] < 0.05 and np.abs(noise[1].mean()) < 0.002
        kinds.append(deviations[1] / deviations[0])
        greys.append(bool(np.ptp(noise[1], axis=-1).max() < 1e-6))
    shot = np.array(kinds) > 1.7
    np.testing.assert_allclose(np.array(kinds)[shot], np.sqrt(6), rtol=0.1)
    np.testing.assert_allclose(np.array(kinds)[~shot], 1, rtol=0.1)
    assert 0.3 < shot.mean() < 0.7 and 0.2 < np.mean(greys) < 0.6


def test_the_grid_of_the_compression_begins_anywhere(crops: list[np.ndarray]) -> None:
    starts = []
    rng = np.random.default_rng(0)
    for crop in crops * 2:
        compressed = real._compress(crop, real.PASSES[0], (96, 96), 2.0, rng)
        assert compressed.shape == crop.shape and compressed.dtype == np.float32
        steps = np.abs(np.diff(compressed - crop, axis=1)).mean(axis=(0, 2))
        starts.append(np.argmax([steps[start::8].mean() for start in range(8)]))
    counts = np.bincount(starts, minlength=8)
    assert counts.min() >= 3 and counts.max() <= 25


def test_order_is_drawn(crops: list[np.ndarray], monkeypatch) -> None:
    """The steps of a pass come first, compression and scaling back last, in either order."""
    called: list[str] = []

    def spy(name):
        original = getattr(real, name)

        def step(*arguments):
            called.append(name)
            return original(*arguments)

        monkeypatch.setattr(real, name, step)

    for name in ("_blur", "_scale", "_add_noise", "_compress", "_scale_back"):
        spy(name)
    firsts, ends = set(), set()
    for seed in range(40):
        called.clear()
        degrade(crops[0], "real:1", seed=seed)
        assert len(called) == 9
        assert sorted(called[4:7]) == ["_add_noise", "_blur", "_scale"]
        firsts.add(called[0])
        ends.add(tuple(called[7:]))
    assert firsts == {"_blur", "_scale", "_add_noise", "_compress"}
    assert ends == {("_compress", "_scale_back"), ("_scale_back", "_compress")}
