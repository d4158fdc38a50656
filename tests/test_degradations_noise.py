import numpy as np
import pytest

from dcpt_jax.degradations import degrade
from dcpt_jax.degradations.low_light import linear_from_srgb


@pytest.mark.parametrize("sigma", [1, 15, 25, 50, 120])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_mean_and_deviation(sigma: float, level: float) -> None:
    image = np.full((400, 400, 3), level, np.float32)
    noise = degrade(image, f"noise:{sigma}") - image
    # 480,000 draws: standard errors are 0.1 % of sigma (deviation) and 0.14 % (mean).
    assert noise.std() == pytest.approx(sigma / 255, rel=0.003)
    assert abs(noise.mean()) < 0.005 * sigma / 255


def test_is_gaussian_and_white() -> None:
    noise = degrade(np.full((256, 256, 3), 0.5, np.float32), "noise:25").astype(np.float64) - 0.5
    noise /= noise.std()
    assert abs(np.mean(noise**3)) < 0.03
    assert np.mean(noise**4) == pytest.approx(3, abs=0.06)
    for shifted in (noise[1:] * noise[:-1], noise[:, 1:] * noise[:, :-1]):
        assert abs(shifted.mean()) < 0.01
    assert np.abs(np.corrcoef(noise.reshape(-1, 3).T) - np.eye(3)).max() < 0.02


def test_the_same_image_never_meets_the_same_noise_twice() -> None:
    image = np.full((32, 32, 3), 0.5, np.float32)
    rng = np.random.default_rng(0)
    first, second = (degrade(image, "noise:25", seed=rng) - image for _ in range(2))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1


# --- Poisson-Gaussian ---


def _linear_statistics(level: float, strength: float, seed: int = 0) -> tuple[float, float, float]:
    """Light before, and the mean and variance of the light after, relative to white."""
    image = np.full((256, 256, 3), level, np.float32)
    light = linear_from_srgb(degrade(image, f"poisson_noise:{strength}", seed=seed))
    light = light.astype(np.float64)
    return float(linear_from_srgb(image)[0, 0, 0]), light.mean(), light.var()


@pytest.mark.parametrize("strength", [5, 12, 20])
def test_shot_noise_grows_with_the_light_and_keeps_its_mean(strength: float) -> None:
    electron = (strength / 255) ** 2
    lights, means, variances = zip(
        *(_linear_statistics(level, strength) for level in (0.55, 0.65, 0.75)), strict=True
    )
    np.testing.assert_allclose(means, lights, rtol=0.003)
    slope, read_variance = np.polyfit(lights, variances, 1)
    assert slope == pytest.approx(electron, rel=0.04)
    # Read noise of 1 to 3 electrons; 0.5 more for the error of a fit so far from light 0.
    assert -0.5 < read_variance / electron**2 < 12


def test_read_noise_differs_from_image_to_image() -> None:
    electron = (20 / 255) ** 2
    read = [
        (variance - light * electron) / electron**2
        for light, _, variance in (_linear_statistics(0.45, 20, seed) for seed in range(12))
    ]
    assert 0.5 < min(read) < 3 and 5 < max(read) < 9.5


def test_shot_noise_is_skewed_like_poisson() -> None:
    image = np.full((256, 256, 3), 0.6, np.float32)
    electron = (36 / 255) ** 2
    electrons = float(linear_from_srgb(image)[0, 0, 0]) / electron  # 16 of 50
    light = linear_from_srgb(degrade(image, "poisson_noise:36", seed=6)).astype(np.float64)
    centred = light - light.mean()
    read = centred.var() / electron**2 - electrons
    skewness = np.mean(centred**3) / centred.std() ** 3
    assert skewness == pytest.approx(electrons / (electrons + read) ** 1.5, abs=0.03)
    assert skewness > 0.1


def test_black_is_noisy_and_stays_within_the_range() -> None:
    black = degrade(np.zeros((64, 64, 3), np.float32), "poisson_noise:20")
    assert black.min() == 0 and 0.3 < (black == 0).mean() < 0.7
    white = degrade(np.ones((64, 64, 3), np.float32), "poisson_noise:20")
    assert white.max() <= 1 and 0.3 < (white > 1 - 1e-6).mean() < 0.7
