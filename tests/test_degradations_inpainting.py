import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcpt_jax.degradations import degrade
from dcpt_jax.degradations.inpainting import draw_holes

KINDS = ("lines", "boxes", "strokes")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    height=st.integers(16, 150),
    width=st.integers(16, 150),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 2**32),
)
def test_the_stated_share_is_covered(
    kind: str, height: int, width: int, share: float, seed: int
) -> None:
    mask = draw_holes(height, width, share, kind, np.random.default_rng(seed))
    assert mask.shape == (height, width) and set(np.unique(mask)) <= {0, 255}
    covered = (mask > 0).mean()
    # One line across reaches farthest beyond: 10 pixels, at most an eighth of the shorter side.
    assert share <= covered < share + 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_the_share_is_met_closely_at_training_size(kind: str) -> None:
    rng = np.random.default_rng(0)
    covered = [(draw_holes(128, 128, 0.2, kind, rng) > 0).mean() for _ in range(60)]
    assert 0.2 <= np.mean(covered) < 0.23


@pytest.mark.parametrize("kind", KINDS)
def test_more_strength_only_adds_holes(kind: str) -> None:
    small, large = (
        draw_holes(96, 80, share, kind, np.random.default_rng(5)) > 0 for share in (0.1, 0.4)
    )
    assert (large[small]).all() and large.sum() > 2 * small.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_holes_occur_everywhere(kind: str) -> None:
    rng = np.random.default_rng(1)
    shares = np.mean([draw_holes(48, 64, 0.3, kind, rng) > 0 for _ in range(150)], axis=0)
    assert shares.min() > 0.01 and shares.max() < 0.8


def test_shapes_match_their_names() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        # The very first box: a full upright rectangle, from a sixteenth to a quarter of the side.
        rows, columns = np.nonzero(draw_holes(128, 128, 1e-4, "boxes", rng))
        sides = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == sides[0] * sides[1]
        assert max(sides) <= 33
        # The first line: its area over its length is its thickness.
        rows, columns = np.nonzero(draw_holes(128, 128, 1e-4, "lines", rng))
        positions = np.stack([rows, columns]) - [[rows.mean()], [columns.mean()]]
        across, along = np.sqrt(12 * np.linalg.eigvalsh(np.cov(positions)))
        assert along < 20 or 4 < across < 12
        # A stroke turns: several stretches of a brush do not lie on one line.
        rows, columns = np.nonzero(draw_holes(128, 128, 0.15, "strokes", rng))
        assert np.ptp(rows) > 15 and np.ptp(columns) > 15


def test_the_rest_of_the_image_is_untouched_and_holes_have_one_colour() -> None:
    image = np.random.default_rng(0).uniform(0.1, 0.9, (64, 50, 3)).astype(np.float32)
    colours = []
    for seed in range(20):
        degraded = degrade(image, "inpainting:25", seed=seed)
        hole = (degraded != image).any(axis=-1)
        assert 0.25 <= hole.mean() < 0.45
        (colour,) = np.unique(degraded[hole])
        colours.append(float(colour))
    assert set(colours) == {0.0, 1.0} and 4 < colours.count(1.0) < 16


def test_large_photos_take_more_lines_not_thicker_ones() -> None:
    mask = draw_holes(600, 800, 0.2, "lines", np.random.default_rng(0)) > 0
    inner = mask[5:-5, 5:-5]
    # Of an 11 pixel wide shape nothing is left by a window of 11 x 11, but where lines cross.
    windows = np.lib.stride_tricks.sliding_window_view(mask, (11, 11))[::3, ::3]
    assert windows.all(axis=(2, 3)).mean() < 0.1 * inner.mean()
