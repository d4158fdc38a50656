import numpy as np
import pytest

from dcpt_jax.degradations import degrade
from dcpt_jax.degradations.weather import rain_streaks, smooth_depth


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((48, 40, 3), dtype=np.float32)


# --- haze ---


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (16, 1), (33, 64)])
def test_depth_lies_between_nearest_and_one(size: tuple[int, int]) -> None:
    for seed in range(20):
        depth = smooth_depth(*size, np.random.default_rng(seed))
        assert depth.shape == size and depth.dtype == np.float32
        assert depth.max() == pytest.approx(1, abs=1e-5)
        assert depth.min() >= 0.1 - 1e-5
        if size == (33, 64):
            assert depth.min() <= 0.4 + 1e-5


def test_depth_is_smooth_and_farther_at_the_top() -> None:
    slopes, farther = [], []
    for seed in range(60):
        depth = smooth_depth(64, 64, np.random.default_rng(seed))
        slopes.append(max(np.abs(np.diff(depth, axis=axis)).max() for axis in (0, 1)))
        farther.append(depth[:16].mean() - depth[-16:].mean())
    assert max(slopes) < 0.1
    assert np.mean(farther) > 0.15


def test_haze_tends_to_one_nearly_grey_airlight(image: np.ndarray) -> None:
    for seed in range(20):
        degraded = degrade(image, "haze:300", seed=seed)
        airlight = degraded[0, 0]
        np.testing.assert_allclose(degraded, np.broadcast_to(airlight, image.shape), atol=1e-6)
        assert airlight.min() >= 0.7 * 0.95 - 1e-6 and airlight.max() <= 1
        assert np.ptp(airlight) <= 0.05


def test_haze_follows_the_scattering_model(image: np.ndarray) -> None:
    beta = 1.3
    airlight = degrade(image, "haze:1000", seed=4)
    transmission = (degrade(image, f"haze:{beta}", seed=4) - airlight) / (image - airlight)
    usable = np.abs(image - airlight) > 0.1
    depth = smooth_depth(48, 40, np.random.default_rng(4))
    expected = np.broadcast_to(np.exp(-beta * depth)[..., None], image.shape)
    np.testing.assert_allclose(transmission[usable], expected[usable], atol=1e-4)


def test_haze_takes_contrast_pixel_by_pixel(image: np.ndarray) -> None:
    airlight = degrade(image, "haze:1000", seed=2)
    distances = [np.abs(degrade(image, f"haze:{beta}", seed=2) - airlight) for beta in (0, 1, 2)]
    assert (distances[1] <= distances[0] + 1e-6).all()
    assert (distances[2] <= distances[1] + 1e-6).all()


# --- rain ---


def test_rain_only_brightens(image: np.ndarray) -> None:
    for seed in range(20):
        degraded = degrade(image, "rain", seed=seed)
        assert (degraded >= image - 1e-6).all()
        assert degraded.mean() > image.mean() + 0.01


def test_rain_is_colourless() -> None:
    degraded = degrade(np.full((32, 32, 3), 0.3, np.float32), "rain:10")
    assert np.ptp(degraded, axis=-1).max() < 1e-6


def test_streaks_are_soft_bright_and_visible_in_small_crops() -> None:
    for seed in range(30):
        streaks = rain_streaks(64, 64, 4.0, np.random.default_rng(seed))
        assert streaks.dtype == np.float32 and streaks.min() >= 0 and streaks.max() <= 1
        assert 0.02 < (streaks > 0.25).mean() < 0.4  # seen, and the scene is seen as well
        levels = np.unique(streaks)
        assert len(levels) > 30  # anti-aliased edges and fading ends, no hard mask


def test_streaks_run_along_one_direction_near_the_vertical() -> None:
    for seed in range(10):
        streaks = rain_streaks(256, 256, 6.0, np.random.default_rng(seed))
        vertical, horizontal = (np.diff(streaks, axis=axis) for axis in (0, 1))
        assert (horizontal**2).sum() > 1.5 * (vertical**2).sum()
        # Structure tensor: one direction dominates, whatever the wind.
        gradient = np.stack([vertical[:, :-1].ravel(), horizontal[:-1].ravel()])
        small, large = np.linalg.eigvalsh(gradient @ gradient.T)
        assert large > 3 * small


def test_amount_of_rain_follows_the_density_evenly() -> None:
    rng = np.random.default_rng(0)
    amounts = [
        np.mean([rain_streaks(96, 96, density, rng) for _ in range(30)]) for density in (1, 2, 4)
    ]
    assert amounts[1] / amounts[0] == pytest.approx(2, rel=0.25)
    assert amounts[2] / amounts[1] == pytest.approx(2, rel=0.25)
    columns = np.mean([rain_streaks(64, 64, 8.0, rng) for _ in range(200)], axis=0)
    middle = columns[16:48, 16:48].mean()
    for border in (columns[:3], columns[-3:], columns[:, :3], columns[:, -3:]):
        assert border.mean() == pytest.approx(middle, rel=0.2)


def test_no_rain_at_density_0() -> None:
    np.testing.assert_array_equal(rain_streaks(20, 20, 0.0, np.random.default_rng(0)), 0)
