import cv2
import numpy as np
import pytest

from dcpt_jax.degradations import degrade
from dcpt_jax.degradations.snow import snow_flakes
from dcpt_jax.degradations.weather import rain_streaks


def shapes(opacity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas of all blobs; longest over shortest deviation of those of 9 pixels and up."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(
        (opacity > 0.25).astype(np.uint8)
    )
    areas = statistics[1:, cv2.CC_STAT_AREA]
    elongations = []
    for label in range(1, count):
        if areas[label - 1] >= 9:
            spread = np.linalg.eigvalsh(np.cov(np.nonzero(labels == label)))
            elongations.append(np.sqrt((spread[1] + 1 / 12) / (spread[0] + 1 / 12)))
    return areas, np.array(elongations)


def test_flakes_are_soft_translucent_and_visible_in_small_crops() -> None:
    for seed in range(30):
        opacity = snow_flakes(64, 64, 4.0, np.random.default_rng(seed))
        assert opacity.dtype == np.float32 and opacity.min() >= 0 and opacity.max() <= 0.97
        assert 0.005 < (opacity > 0.25).mean() < 0.4  # seen, and the scene is seen as well
        assert len(np.unique(opacity)) > 30  # soft edges, no hard mask


def test_flakes_have_many_sizes_and_small_ones_are_the_most() -> None:
    rng = np.random.default_rng(0)
    areas = np.concatenate([shapes(snow_flakes(256, 256, 3.0, rng))[0] for _ in range(5)])
    quarter, half, most, nearly_all = np.percentile(areas, [25, 50, 90, 99])
    assert quarter < 10 and most > 2 * half and nearly_all > 5 * half


def test_flakes_are_rounder_than_rain() -> None:
    rng = np.random.default_rng(0)
    flakes = np.concatenate([shapes(snow_flakes(192, 192, 2.0, rng))[1] for _ in range(8)])
    streaks = np.concatenate([shapes(rain_streaks(192, 192, 2.0, rng))[1] for _ in range(8)])
    assert np.median(flakes) < 2 < 4 < np.median(streaks)


def test_flakes_of_one_image_drift_one_way() -> None:
    directions = []
    for seed in range(40):
        opacity = snow_flakes(256, 256, 4.0, np.random.default_rng(seed))
        vertical, horizontal = (np.diff(opacity, axis=axis).astype(float) for axis in (0, 1))
        gradient = np.stack([vertical[:, :-1].ravel(), horizontal[:-1].ravel()])
        values, vectors = np.linalg.eigh(gradient @ gradient.T)
        directions.append((values[1] / values[0], abs(vectors[0, 0])))  # least change: the way
    ratios, vertical_shares = np.array(directions).T
    assert np.percentile(ratios, 90) > 1.25  # in some images fast, in no image streaks
    assert ratios.max() < 3
    assert np.median(vertical_shares[ratios > 1.15]) > 0.7  # snow falls


def test_amount_of_snow_follows_the_density_evenly() -> None:
    rng = np.random.default_rng(0)
    amounts = [
        np.mean([snow_flakes(96, 96, density, rng) for _ in range(60)]) for density in (1, 2, 4)
    ]
    assert amounts[1] / amounts[0] == pytest.approx(2, rel=0.25)
    assert amounts[2] / amounts[1] == pytest.approx(2, rel=0.25)
    field = np.mean([snow_flakes(64, 64, 8.0, rng) for _ in range(200)], axis=0)
    middle = field[16:48, 16:48].mean()
    for border in (field[:3], field[-3:], field[:, :3], field[:, -3:]):
        assert border.mean() == pytest.approx(middle, rel=0.2)


def test_no_snow_at_density_0() -> None:
    np.testing.assert_array_equal(snow_flakes(20, 20, 0.0, np.random.default_rng(0)), 0)


def test_snow_brightens_the_dark_without_colour_and_never_outshines_its_sky() -> None:
    for seed in range(10):
        dark = degrade(np.full((48, 48, 3), 0.1, np.float32), "snow:10", seed=seed)
        assert np.ptp(dark, axis=-1).max() < 1e-6
        assert dark.min() > 0.1 and dark.max() < 1
        sky = degrade(np.ones((48, 48, 3), np.float32), "snow:10", seed=seed)
        assert sky.min() >= 0.85 - 1e-6


def test_veil_thickens_with_the_density() -> None:
    black = np.zeros((64, 64, 3), np.float32)
    veils = [
        np.mean([degrade(black, f"snow:{density}", seed=seed).min() for seed in range(10)])
        for density in (2, 6, 14)
    ]
    assert 0 < veils[0] < 0.5 * veils[1] < 0.4 * veils[2]
    assert veils[2] < 0.15
