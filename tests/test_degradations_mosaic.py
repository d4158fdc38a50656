import numpy as np
import pytest

from dcpt_jax.degradations import degrade
from dcpt_jax.degradations.mosaic import demosaic

PATTERNS = ("RGGB", "GRBG", "GBRG", "BGGR")
COLOURS = np.float32(
    [[0.9, 0.1, 0.2], [0.1, 0.8, 0.3], [0.2, 0.3, 1.0], [0.7, 0.6, 0.0], [0.0, 0.5, 0.5], [1, 1, 1]]
)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (1, 1), (2, 5), (5, 1)])
@pytest.mark.parametrize("pattern", range(4))
def test_one_colour_passes_unchanged_up_to_the_border(size: tuple, pattern: int) -> None:
    for colour in COLOURS:
        image = np.tile(colour, (*size, 1))
        np.testing.assert_allclose(demosaic(image, pattern), image, atol=1e-5)


@pytest.mark.parametrize("pattern", range(4))
def test_patches_keep_their_colours(pattern: int) -> None:
    image = np.repeat(COLOURS.reshape(2, 3, 3), 11, axis=0).repeat(11, axis=1)
    demosaiced = demosaic(image, pattern)
    for row in range(2):
        for column in range(3):
            inner = np.s_[11 * row + 3 : 11 * row + 8, 11 * column + 3 : 11 * column + 8]
            np.testing.assert_allclose(demosaiced[inner], image[inner], atol=1e-5)


@pytest.mark.parametrize("pattern", range(4))
def test_measured_values_stay_and_the_others_are_guessed(pattern: int) -> None:
    image = np.random.default_rng(0).random((18, 23, 3), dtype=np.float32)
    demosaiced = demosaic(image, pattern)
    for position, letter in enumerate(PATTERNS[pattern]):
        row, column = divmod(position, 2)
        channel = "RGB".index(letter)
        error = np.abs(demosaiced - image)[row::2, column::2].max(axis=(0, 1))
        assert error[channel] < 1e-5
        assert np.delete(error, channel).min() > 0.1


def test_edge_aware_means_along_edges() -> None:
    # Grey vertical stripes, four pixels wide: green follows them exactly.
    stripes = np.arange(32) // 4 % 2 * np.float32(0.6) + np.float32(0.2)
    image = np.broadcast_to(stripes[None, :, None], (32, 32, 3))
    error = np.abs(demosaic(image, 0) - image)
    assert error[..., 1].max() < 0.01
    assert error[..., [0, 2]].max() > 0.1


def test_fine_detail_gets_false_colours() -> None:
    data = pytest.importorskip("skimage.data")
    grey = data.camera()[200:264, 200:264, None].astype(np.float32) / 255 * np.ones(3, np.float32)
    assert np.ptp(degrade(grey, "mosaic"), axis=-1).max() > 0.1


def test_all_four_phases_are_drawn() -> None:
    image = np.random.default_rng(0).random((16, 16, 3), dtype=np.float32)
    patterns = np.stack([demosaic(image, pattern) for pattern in range(4)])
    drawn = np.stack([degrade(image, "mosaic", seed=seed) for seed in range(40)])
    agree = np.abs(drawn[:, None] - patterns).max(axis=(2, 3, 4)) < 1e-6
    assert (agree.sum(axis=1) == 1).all() and (agree.sum(axis=0) > 3).all()


def test_strength_is_the_share_of_the_error() -> None:
    image = np.random.default_rng(0).random((20, 16, 3), dtype=np.float32)
    whole, part = (degrade(image, f"mosaic:{share}", seed=3) - image for share in (1, 0.25))
    np.testing.assert_allclose(part, 0.25 * whole, atol=1e-6)
