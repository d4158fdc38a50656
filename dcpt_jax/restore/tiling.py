"""Cuts an image into tiles and blends their outputs. NumPy only.

Rows and columns are cut independently. A `Span` is an interval of one axis with a weight for each
of its pixels; at every pixel, the weights of all spans of an axis add up to one. A tile is a span
of rows and a span of columns, and the result is the weighted sum of the tiles.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

MIN_OVERLAP = 32


@dataclass(frozen=True)
class Span:
    """Interval of an axis: pixels `start` to `stop` (exclusive), `weights` float64 [stop - start].

    Pixels of weight 0 are context only.
    """

    start: int
    stop: int
    weights: np.ndarray


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `size`."""
    return -(-size // multiple) * multiple


def default_overlap(tile: int, multiple: int, *, context: int = 0) -> int:
    """Number of pixels shared by neighbouring tiles.

    An eighth of the tile, at least `MIN_OVERLAP`; more for a network that needs `context` pixels of
    surroundings, up to a quarter of the tile (1.8 times the work of tiles without overlap).

    Returns:
        A multiple of `multiple`, less than the tile.
    """
    overlap = max(tile // 8, MIN_OVERLAP, min(context, tile // 4))
    return min(round_up(overlap, multiple), tile - multiple)


def blended_spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Spans that cover an axis, with linearly blended seams.

    Neighbours share `overlap` pixels, the last two more: the last span is moved inwards to keep its
    length. Of the shared pixels, the outer quarter of a span, which has the least context, has
    weight 0; over the middle half the weight changes linearly from one span to the next. At the
    ends of the axis the weight is 1.

    Args:
        length: of the axis.
        tile: length of a span; an axis that is not longer has a single span.
        overlap: 0 <= overlap < tile.

    Returns:
        Spans in increasing order. If `length`, `tile` and `overlap` are multiples of a network's
        `size_multiple`, so are all starts: every tile is then aligned with the coarser levels of
        the network as in the whole image.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap is {overlap}, but must be at least 0 and less than tile {tile}")
    if length <= tile:
        return [Span(0, length, np.ones(length))]
    starts = [*range(0, length - tile, tile - overlap), length - tile]
    rising = _rise(overlap)
    weights = np.ones((len(starts), tile))
    weights[1:, :overlap] *= rising
    weights[:-1, tile - overlap :] *= rising[::-1]
    total = np.zeros(length)
    for start, row in zip(starts, weights, strict=True):
        total[start : start + tile] += row
    return [
        Span(start, start + tile, row / total[start : start + tile])
        for start, row in zip(starts, weights, strict=True)
    ]


def _rise(overlap: int) -> np.ndarray:
    """Weights at the start of a span, [overlap]; they and their mirror image add up to 1."""
    quarter = overlap // 4
    ramp = overlap - 2 * quarter
    return np.concatenate([np.zeros(quarter), (np.arange(ramp) + 0.5) / ramp, np.ones(quarter)])


def run_tiled(
    predict: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    rows: Sequence[Span],
    columns: Sequence[Span],
) -> np.ndarray:
    """Runs a function on each tile of [h, w, c] and adds up the weighted outputs.

    Returns:
        [h, w, c] in the dtype of the outputs.
    """
    blended = None
    for row, column in itertools.product(rows, columns):
        pixels = image[row.start : row.stop, column.start : column.stop]
        output = np.asarray(predict(np.ascontiguousarray(pixels)))
        if blended is None:
            blended = np.zeros((*image.shape[:2], output.shape[2]), output.dtype)
        weights = np.outer(row.weights, column.weights)[..., None].astype(output.dtype)
        blended[row.start : row.stop, column.start : column.stop] += output * weights
    return blended
