import numpy as np
import pytest

from dcpt_jax.degradations import degrade


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
