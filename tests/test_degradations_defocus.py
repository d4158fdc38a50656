import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcpt_jax.degradations import degrade
from dcpt_jax.degradations.defocus import aperture_kernel, disc_kernel, polygon_kernel
from dcpt_jax.degradations.low_light import linear_from_srgb, srgb_from_linear


def moments(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean position [2] from the centre and covariance [2, 2] of a kernel's light."""
    half = kernel.shape[0] // 2
    offsets = np.indices(kernel.shape).reshape(2, -1) - half
    weights = kernel.ravel().astype(np.float64)
    return offsets @ weights, (offsets * weights) @ offsets.T


@settings(max_examples=60, deadline=None, derandomize=True)
@given(radius=st.floats(0, 60), seed=st.integers(0, 2**32))
def test_kernel_is_a_share_of_light_per_pixel(radius: float, seed: int) -> None:
    kernel = aperture_kernel(radius, np.random.default_rng(seed))
    assert kernel.dtype == np.float32
    assert kernel.min() >= 0
    assert kernel.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    assert kernel.shape[0] == kernel.shape[1] and kernel.shape[0] % 2 == 1
    mean, _ = moments(kernel)
    np.testing.assert_allclose(mean, 0, atol=0.04 if radius < 2 else 0.015)


@pytest.mark.parametrize("radius", [2.0, 3.3, 6.0, 15.0])
def test_disc_is_round_even_and_of_the_stated_radius(radius: float) -> None:
    kernel = disc_kernel(radius)
    for turned in (kernel.T, kernel[::-1], kernel[:, ::-1]):
        np.testing.assert_array_equal(kernel, turned)
    # Pi r^2 fully lit pixels; variance r^2 / 4 per axis, and that of a pixel.
    assert 1 / kernel.max() == pytest.approx(np.pi * radius**2, rel=0.01)
    _, covariance = moments(kernel)
    np.testing.assert_allclose(covariance, (radius**2 / 4 + 1 / 12) * np.eye(2), atol=0.04)
    rows, columns = np.indices(kernel.shape) - kernel.shape[0] // 2
    distance = np.hypot(rows, columns)
    assert np.ptp(kernel[distance < radius - 0.8]) == 0
    assert (kernel[distance > radius + 0.8] == 0).all()
    on_edge = kernel[np.abs(distance - radius) < 0.4] / kernel.max()
    assert ((on_edge > 0) & (on_edge < 1)).all()  # soft


@pytest.mark.parametrize("blades", [5, 6, 8])
def test_polygon_has_its_corners_and_the_area_of_the_disc(blades: int) -> None:
    rotation = 0.3
    kernel = polygon_kernel(20.0, blades, rotation)
    lit = kernel / kernel.max()
    assert lit.sum() == pytest.approx(np.pi * 20**2, rel=0.01)
    rows, columns = np.indices(kernel.shape) - kernel.shape[0] // 2
    direction, distance = np.arctan2(rows, columns), np.hypot(rows, columns)
    # The reach in the direction of a corner and in that of a side's middle.
    reaches = []
    for start in (np.pi / blades, 0.0):
        off = (direction - rotation - start + np.pi / blades) % (2 * np.pi / blades)
        near = np.abs(off - np.pi / blades) < 0.04
        reaches.append(distance[near & (lit > 0.5)].max())
    assert reaches[1] / reaches[0] == pytest.approx(np.cos(np.pi / blades), abs=0.05)


def test_both_shapes_are_drawn_with_many_blades_and_rotations() -> None:
    rng = np.random.default_rng(0)
    kernels = [aperture_kernel(6.0, rng).tobytes() for _ in range(60)]
    disc = disc_kernel(6.0).tobytes()
    assert 15 < kernels.count(disc) < 45
    assert len(set(kernels)) == 60 - kernels.count(disc) + 1


def test_kernel_of_up_to_half_a_pixel_is_the_identity() -> None:
    for radius in (0.0, 0.3, 0.5):
        np.testing.assert_array_equal(disc_kernel(radius), [[1.0]])


def test_an_inner_point_of_light_becomes_the_kernel() -> None:
    image = np.zeros((41, 41, 3), np.float32)
    image[20, 20] = 1.0
    rng = np.random.default_rng(4)
    kernel = aperture_kernel(5.0, rng)
    light = linear_from_srgb(degrade(image, "defocus_blur:5", seed=4))
    half = kernel.shape[0] // 2
    window = light[20 - half : 21 + half, 20 - half : 21 + half]
    for channel in range(3):
        # OpenCV correlates, so the point shows the kernel turned by half a turn.
        np.testing.assert_allclose(window[..., channel], kernel[::-1, ::-1], atol=1e-6)
    assert light.sum(dtype=np.float64) == pytest.approx(3, abs=1e-3)


def test_bright_points_stay_brighter_than_by_blurring_srgb() -> None:
    image = np.zeros((33, 33, 3), np.float32)
    image[16, 16] = 1.0
    middle = degrade(image, "defocus_blur:4", seed=0)[16, 16]
    np.testing.assert_allclose(middle, srgb_from_linear(np.float32([1 / (np.pi * 16)] * 3)), 0.05)
    assert (middle > 5 / (np.pi * 16)).all()


def test_flat_images_stay_flat_up_to_the_border() -> None:
    image = np.full((20, 33, 3), (0.2, 0.5, 0.9), np.float32)
    for seed in range(4):
        np.testing.assert_allclose(degrade(image, "defocus_blur:6", seed=seed), image, atol=1e-5)
