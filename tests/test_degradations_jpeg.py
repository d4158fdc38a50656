import itertools

import cv2
import numpy as np
import pytest

from dcpt_jax.degradations import degrade
from dcpt_jax.degradations.jpeg import jpeg_file


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    data = pytest.importorskip("skimage.data")
    return data.astronaut()[100:228, 150:278].astype(np.float32) / 255


def blockiness(image: np.ndarray) -> float:
    """Mean step across the borders of 8 x 8 blocks over the mean step inside them."""
    steps = np.abs(np.diff(image, axis=1)).mean(axis=(0, 2))
    across = np.arange(len(steps)) % 8 == 7
    return float(steps[across].mean() / steps[~across].mean())


def test_files_shrink_and_blocks_show_as_strength_grows(photo: np.ndarray) -> None:
    sizes = [len(jpeg_file(photo, quality)) for quality in (50, 40, 30, 20, 10, 3)]
    assert all(larger > 1.1 * smaller for larger, smaller in itertools.pairwise(sizes)), sizes
    shown = [blockiness(degrade(photo, f"jpeg:{strength}")) for strength in (50, 70, 80, 90, 97)]
    assert blockiness(photo) < 1.1 and shown[-2] > 1.3
    assert all(less < more for less, more in itertools.pairwise(shown)), shown


@pytest.mark.parametrize("quality", [10, 30, 50])
def test_strength_is_100_minus_the_quality_of_opencv(photo: np.ndarray, quality: int) -> None:
    pixels = np.rint(photo[..., ::-1] * 255).astype(np.uint8)
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    expected = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1] / 255
    np.testing.assert_allclose(degrade(photo, f"jpeg:{100 - quality}"), expected, atol=1e-6)
    # A fraction counts as the nearest whole quality.
    np.testing.assert_allclose(degrade(photo, f"jpeg:{100.4 - quality}"), expected, atol=1e-6)


def test_colours_keep_their_places() -> None:
    for colour in np.eye(3, dtype=np.float32):
        degraded = degrade(np.broadcast_to(colour, (32, 48, 3)), "jpeg:60")
        np.testing.assert_allclose(degraded.mean(axis=(0, 1)), colour, atol=0.06)


def test_the_result_is_that_of_8_bits_and_needs_no_luck(photo: np.ndarray) -> None:
    degraded = degrade(photo, "jpeg:75", seed=1)
    np.testing.assert_allclose(degraded * 255, np.rint(degraded * 255), atol=1e-4)
    np.testing.assert_array_equal(degraded, degrade(photo, "jpeg:75", seed=2))
