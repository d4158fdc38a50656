import numpy as np
import pytest

from dcpt_jax.degradations import degrade
from dcpt_jax.degradations.low_light import linear_from_srgb, srgb_from_linear


def test_srgb_curve_at_known_points() -> None:
    # IEC 61966-2-1 by hand: black, the straight part, the knee, middle grey, white.
    image = np.array([0.0, 0.02, 0.04045, 0.5, 1.0], np.float32)
    light = [0.0, 0.02 / 12.92, 0.0031308, 0.2140411, 1.0]
    np.testing.assert_allclose(linear_from_srgb(image), light, atol=3e-7)
    np.testing.assert_allclose(srgb_from_linear(np.float32(light)), image, atol=1e-6)


def test_srgb_there_and_back() -> None:
    image = np.linspace(0, 1, 10001, dtype=np.float32)
    light = linear_from_srgb(image)
    assert light.dtype == np.float32 and light.min() >= 0 and light.max() <= 1
    assert (np.diff(light) > 0).all()
    np.testing.assert_allclose(srgb_from_linear(light), image, atol=1e-6)


@pytest.mark.parametrize("stops", [1.0, 2.0, 3.0])
def test_each_stop_halves_the_light(stops: float) -> None:
    image = np.full((96, 96, 3), 0.8, np.float32)
    light = linear_from_srgb(degrade(image, f"low_light:{stops}"))
    expected = float(linear_from_srgb(image)[0, 0, 0]) / 2**stops
    assert light.mean(dtype=np.float64) == pytest.approx(expected, rel=0.005)


def test_always_darkens() -> None:
    image = np.random.default_rng(0).random((32, 32, 3), dtype=np.float32)
    for seed in range(20):
        degraded = degrade(image, "low_light", seed=seed)
        assert degraded.mean() < 0.65 * image.mean()
        # Noise lifts single pixels of black, but not a pixel that was lit.
        assert (degraded[image > 0.3] < image[image > 0.3]).all()


def test_noise_is_that_of_a_sensor() -> None:
    deviations = {}
    for level in (0.0, 0.3, 1.0):
        flat = np.full((64, 64, 3), level, np.float32)
        light = linear_from_srgb(degrade(flat, "low_light:2", seed=3)).astype(np.float64)
        deviations[level] = light.std()
    assert deviations[1.0] > 2 * deviations[0.3] > 2 * deviations[0.0] > 0
    # Full wells of 1,500 to 6,000: a quarter of the light has this deviation.
    assert np.sqrt(0.25 / 6000) * 0.95 < deviations[1.0] < np.sqrt(0.25 / 1500) * 1.1


def test_relative_noise_grows_with_stops() -> None:
    flat = np.full((64, 64, 3), 0.6, np.float32)
    ratios = []
    for stops in (1, 2, 3, 4):
        light = linear_from_srgb(degrade(flat, f"low_light:{stops}", seed=1))
        ratios.append(light.std() / light.mean())
    assert ratios == sorted(ratios) and ratios[-1] > 2 * ratios[0]
