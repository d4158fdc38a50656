import numpy as np
import pytest

from dcpt_jax.restore.tiling import Span, blended_spans, default_overlap, round_up, run_tiled


def reference_spans(length, tile, margin):
    """Spans of the reference's tiled inference: adjacent, with their context discarded.

    Each keeps `tile` pixels, fewer at the end of the axis, and has up to `margin` pixels of context
    at either side where the image has them.
    """
    spans = []
    for first in range(0, length, tile):
        last = min(first + tile, length)
        start, stop = max(first - margin, 0), min(last + margin, length)
        weights = np.zeros(stop - start)
        weights[first - start : last - start] = 1
        spans.append(Span(start, stop, weights))
    return spans


def total_weight(spans, length):
    total = np.zeros(length)
    for span in spans:
        total[span.start : span.stop] += span.weights
    return total


@pytest.mark.parametrize(
    ("length", "tile", "overlap"),
    [
        (100, 32, 8),
        (96, 32, 8),
        (33, 32, 8),
        (57, 32, 31),
        (64, 32, 0),
        (41, 8, 1),
        (1000, 512, 64),
    ],
)
def test_blended_spans_have_one_length_and_weights_that_add_up_to_one(length, tile, overlap):
    spans = blended_spans(length, tile, overlap)
    assert {span.stop - span.start for span in spans} == {tile}
    assert spans[0].start == 0
    assert spans[-1].stop == length
    assert np.abs(total_weight(spans, length) - 1).max() < 1e-12
    assert min(span.weights.min() for span in spans) >= 0


def test_an_axis_no_longer_than_a_tile_is_one_span():
    for length in (1, 7, 8):
        (span,) = blended_spans(length, 8, 4)
        assert (span.start, span.stop) == (0, length)
        assert (span.weights == 1).all()


def test_seams_are_linear_and_the_outermost_quarter_of_the_overlap_is_not_used():
    first, second = blended_spans(56, 32, 8)
    assert (first.start, second.start) == (0, 24)
    np.testing.assert_allclose(second.weights[:8], [0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1])
    np.testing.assert_allclose(first.weights[-8:], second.weights[:8][::-1])
    assert (second.weights[8:] == 1).all()


@pytest.mark.parametrize("multiple", [1, 8, 16])
def test_tiles_start_at_multiples_of_the_networks_size_multiple(multiple):
    for length in range(7 * multiple, 30 * multiple, multiple):
        tile = 6 * multiple
        overlap = default_overlap(tile, multiple)
        starts = [span.start for span in blended_spans(length, tile, overlap)]
        assert all(start % multiple == 0 for start in starts)


def test_an_overlap_that_leaves_no_step_is_refused():
    with pytest.raises(ValueError, match=r"overlap is 8, but must be .* less than tile 8"):
        blended_spans(20, 8, 8)


@pytest.mark.parametrize(
    ("tile", "multiple", "overlap"), [(1024, 16, 128), (512, 16, 64), (128, 16, 32), (16, 16, 0)]
)
def test_overlap_is_an_eighth_within_limits(tile, multiple, overlap):
    assert default_overlap(tile, multiple) == overlap


@pytest.mark.parametrize(("context", "overlap"), [(0, 64), (50, 64), (100, 112), (256, 128)])
def test_context_widens_the_overlap_up_to_a_quarter(context, overlap):
    assert default_overlap(512, 16, context=context) == overlap


def test_reference_spans_keep_each_pixel_once_with_the_available_context():
    spans = reference_spans(40, 16, 8)
    assert [(span.start, span.stop) for span in spans] == [(0, 24), (8, 40), (24, 40)]
    assert [int(span.weights.sum()) for span in spans] == [16, 16, 8]
    assert (total_weight(spans, 40) == 1).all()


@pytest.mark.parametrize("spans", [reference_spans, blended_spans])
def test_tiles_of_a_pointwise_function_give_the_function_of_the_whole(spans):
    image = np.random.default_rng(0).random((50, 23, 3))
    whole = run_tiled(lambda tile: tile**2, image, spans(50, 16, 6), spans(23, 16, 6))
    np.testing.assert_allclose(whole, image**2, rtol=1e-12)


def test_tiles_agree_with_the_whole_where_the_function_sees_less_than_is_thrown_away():
    def box(image):  # sees 2 pixels to each side; zero padding at the borders
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        return sum(
            padded[i : i + image.shape[0], j : j + image.shape[1]]
            for i in range(5)
            for j in range(5)
        )

    image = np.random.default_rng(0).random((50, 43, 3))
    rows, columns = blended_spans(50, 20, 8), blended_spans(43, 20, 8)
    np.testing.assert_allclose(run_tiled(box, image, rows, columns), box(image), rtol=1e-12)
    # With less overlap the borders of the tiles would show.
    rows, columns = blended_spans(50, 20, 4), blended_spans(43, 20, 4)
    assert np.abs(run_tiled(box, image, rows, columns) - box(image)).max() > 0.1


def test_tiles_keep_the_dtype_of_the_outputs():
    spans = blended_spans(12, 8, 4)
    for dtype in (np.float32, np.float64):
        assert run_tiled(np.copy, np.ones((12, 12, 3), dtype), spans, spans).dtype == dtype


def test_round_up():
    assert [round_up(size, 8) for size in (1, 8, 9)] == [8, 8, 16]
