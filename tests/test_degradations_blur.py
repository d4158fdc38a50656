import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcpt_jax.degradations import degrade
from dcpt_jax.degradations.blur import camera_shake_kernel


@settings(max_examples=60, deadline=None, derandomize=True)
@given(extent=st.floats(0, 255), seed=st.integers(0, 2**32))
def test_kernel_is_a_share_of_light_per_pixel(extent: float, seed: int) -> None:
    kernel = camera_shake_kernel(extent, np.random.default_rng(seed))
    assert kernel.dtype == np.float32
    assert kernel.min() >= 0
    assert kernel.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    assert kernel.shape[0] % 2 == 1 and kernel.shape[1] % 2 == 1


@pytest.mark.parametrize("extent", [3.0, 7.0, 14.5, 21.0, 100.0])
def test_kernel_has_the_stated_extent_and_stays_centred(extent: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        kernel = camera_shake_kernel(extent, rng)
        lit = np.argwhere(kernel > 0)
        spans = np.ptp(lit, axis=0) + 1
        # A path between pixels lights the pixels on both sides: up to one and a bit more.
        assert extent - 1 <= spans.max() <= extent + 2
        for axis, length in enumerate(kernel.shape):
            profile = kernel.sum(axis=1 - axis, dtype=np.float64)
            assert profile @ (np.arange(length) - length // 2) == pytest.approx(0, abs=1e-3)


def test_kernel_of_up_to_one_pixel_is_the_identity() -> None:
    for extent in (0.0, 0.5, 1.0):
        kernel = camera_shake_kernel(extent, np.random.default_rng(0))
        np.testing.assert_array_equal(kernel, [[1.0]])


def test_every_kernel_of_the_drawn_range_blurs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        kernel = camera_shake_kernel(7.0, rng)
        assert kernel.max() < 0.4  # no path that dwells in one pixel
        rows, columns = np.indices(kernel.shape)
        spread = sum(
            (kernel * (index - length // 2) ** 2).sum()
            for index, length in ((rows, kernel.shape[0]), (columns, kernel.shape[1]))
        )
        assert spread > 1.0  # root mean square distance from the centre, in pixels


def test_kernels_take_all_directions_and_shapes() -> None:
    rng = np.random.default_rng(1)
    tall, wide, curly = 0, 0, 0
    for _ in range(200):
        height, width = camera_shake_kernel(21.0, rng).shape
        tall += height > 2 * width
        wide += width > 2 * height
        curly += min(height, width) > 0.6 * max(height, width)
    assert min(tall, wide, curly) > 20


def test_an_inner_point_of_light_becomes_the_kernel() -> None:
    image = np.zeros((61, 61, 3), np.float32)
    image[30, 30] = 1.0
    kernel = camera_shake_kernel(15.0, np.random.default_rng(2))
    degraded = degrade(image, "motion_blur:15", seed=2)
    rows, columns = kernel.shape
    window = degraded[30 - rows // 2 : 31 + rows // 2, 30 - columns // 2 : 31 + columns // 2]
    # OpenCV correlates, so the point shows the kernel turned by half a turn.
    for channel in range(3):
        np.testing.assert_allclose(window[..., channel], kernel[::-1, ::-1], atol=1e-6)
    assert degraded.sum(dtype=np.float64) == pytest.approx(3, abs=1e-3)


def test_flat_images_stay_flat_up_to_the_border() -> None:
    image = np.full((20, 33, 3), (0.2, 0.5, 0.9), np.float32)
    np.testing.assert_allclose(degrade(image, "motion_blur:21"), image, atol=1e-5)


def test_detail_always_goes() -> None:
    stripes = np.indices((64, 64)).sum(axis=0)[..., None] // 2 % 2 * np.ones(3)
    for seed in range(30):
        degraded = degrade(stripes, "motion_blur", seed=seed)
        # Even a path along the stripes is crooked enough to take some of their contrast.
        assert degraded.std() < 0.95 * stripes.std()
