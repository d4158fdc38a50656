"""Cutting an image into tiles and putting the outputs together again. NumPy only.

Rows and columns are cut independently: a `Span` is a piece of one axis together with the weight of
each of its pixels, and the weights of all spans of an axis add up to one at every pixel. A tile is
a span of rows and a span of columns, and the whole is the weighted sum of the tiles.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

MIN_OVERLAP = 32


@dataclass(frozen=True)
class Span:
    """Piece of an axis: pixels `start` to `stop` (exclusive) with `weights` float64 [stop - start].

    Where the weight is 0 a pixel is context only.
    """

    start: int
    stop: int
    weights: np.ndarray


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `size`."""
    return -(-size // multiple) * multiple


def default_overlap(tile: int, multiple: int, *, context: int = 0) -> int:
    """Pixels that neighbouring tiles share.

    An eighth of the tile, at least `MIN_OVERLAP`; more for a network that needs `context` pixels
    around it, up to a quarter of the tile (which makes the work 1.8 times that without overlap).

    Returns:
        A multiple of `multiple`, less than the tile.
    """
    wanted = max(tile // 8, MIN_OVERLAP, min(context, tile // 4))
    return min(round_up(wanted, multiple), tile - multiple)


def blended_spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Spans of one length whose seams are blended linearly.

    Neighbours share `overlap` pixels, the last two more: the last span is moved inwards to keep its
    length. Of the shared pixels, the outer quarter of a span, which knows least of what lies
    beyond, has weight 0, and over the middle half the weight passes from one span to the next in a
    straight line. At the ends of the axis the weight is 1.

    Args:
        length: of the axis.
        tile: length of a span; a single span covers an axis that is not longer.
        overlap: 0 <= overlap < tile.

    Returns:
        Spans in rising order. If `length`, `tile` and `overlap` are multiples of a network's
        `size_multiple`, so are all starts: every tile is then aligned with the network's coarser
        levels as the whole image would be.
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
    """Weights at the start of a span, [overlap]; added to their mirror image they give 1."""
    quarter = overlap // 4
    ramp = overlap - 2 * quarter
    return np.concatenate([np.zeros(quarter), (np.arange(ramp) + 0.5) / ramp, np.ones(quarter)])


def tiles(
    image: np.ndarray, rows: Sequence[Span], columns: Sequence[Span]
) -> Iterator[tuple[Span, Span, np.ndarray]]:
    """Each tile of [h, w, c], row by row: its rows, its columns, and its pixels in one piece."""
    for row, column in itertools.product(rows, columns):
        piece = image[row.start : row.stop, column.start : column.stop]
        yield row, column, np.ascontiguousarray(piece)


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
    whole = None
    for row, column, pixels in tiles(image, rows, columns):
        output = np.asarray(predict(pixels))
        if whole is None:
            whole = np.zeros((*image.shape[:2], output.shape[2]), output.dtype)
        weights = np.outer(row.weights, column.weights)[..., None].astype(output.dtype)
        whole[row.start : row.stop, column.start : column.stop] += output * weights
    return whole
