"""Restoring one image of any size with a network: whole, or in tiles where it is large.

Tiles do not give what the whole image gives, for none of the networks. Convolutions see a limited
neighbourhood, and wherever that lies inside the tile the outputs agree but for rounding. But NAFNet
also averages over the whole image, and Restormer and PromptIR compare their channels over all of
its pixels: a tile has other averages, so its output differs by an amount that varies slowly from
tile to tile, and blended seams hide the steps. NAFNet's tiles share one average instead (see
`averages`), for which each is computed twice. SwinIR sees no further than its windows reach, but
its shifted windows wrap around: pixels near a border attend to those of the opposite border, for a
tile as for the whole image, so tiles differ near theirs.

Measured on a 512x512 photo with networks of the reference's test weights, which are random and
stronger than trained ones: tiles of 256 pixels differ from the whole by 66 % of the network's own
change (root mean square) for Restormer, 25 % for PromptIR and 5 to 6 % for SwinIR (where more than
half of the pixels agree but for rounding). For NAFNet with a `tlc_size` of 32, whose averages are
local, it is 0.6 %; what tiles cost the bundled NAFNet is in `averages`.
"""

import functools
import itertools
import logging
import math
import numbers
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dcpt_jax.images import checked_image
from dcpt_jax.models.formulation import ACCELERATOR, formulated
from dcpt_jax.restore.averages import averages_over_image, channel_weights, with_channel_weights
from dcpt_jax.restore.ensemble import self_ensemble
from dcpt_jax.restore.tiling import blended_spans, default_overlap, round_up, run_tiled, tiles

# Working memory (without the weights) up to which an image runs whole. A constant and not what this
# machine has free, so that a photo gives the same result everywhere.
MEMORY_BUDGET = 2 * 2**30  # bytes
# Tiles are not halved below this when memory runs out: smaller ones see too little of the image.
MIN_TILE = 128
# Working memory in units of the largest array of the forward pass. XLA on CPUs needs, for the
# networks of the paper at 256x256, 2.0 for NAFNet and 1.7 for Restormer and PromptIR (other sizes:
# up to 3.0). For SwinIR, whose windows are cut out, turned and weighted, it is 5.1, and 6.4 with
# twice the hidden channels: XLA keeps each constant of the GELU as a map of their size. The rest is
# a reserve for other devices.
_ARRAYS_AT_ONCE = {"nafnet": 4, "restormer": 4, "promptir": 4, "swinir": 7}
# Compiled programs that are kept: a folder of photos can have a different shape for each.
_COMPILED_SHAPES = 16


def restore(
    model: nn.Module, params: Any, image: Any, tile: int | None = None, ensemble: bool = False
) -> np.ndarray:
    """Restores one image; this is `dcpt_jax.restore`.

    Args:
        model: restoration network, e.g. from `dcpt_jax.load`.
        params: its parameters.
        image: [h, w, 3] floating-point array, RGB in [0, 1], of any size >= 1x1.
        tile: side of the tiles in pixels, rounded up to `model.size_multiple`; an image that is not
            larger runs whole. NAFNet computes each tile twice (see `averages`). None: whole as long
            as the working memory is estimated to stay below 2 GiB (for the networks of the paper:
            about 1 megapixel for NAFNet, 0.25 for Restormer and PromptIR, 0.14 for SwinIR), else
            the largest tiles that do.
        ensemble: mean over the eight flips and quarter turns of the image or of each tile; takes
            eight times as long.

    Returns:
        [h, w, 3] float32, clipped to [0, 1]: a finished image. What the network gives unclipped,
        `Predictor.raw` returns.

    Raises:
        ValueError: if `image` or `tile` is something else; the message says what is expected.
        MemoryError: if not even the smallest tiles fit into memory.
    """
    return Predictor(model, params, tile=tile, ensemble=ensemble)(image)


class Predictor:
    """A network ready to restore images: weights on the device, tiles that fit into memory.

    Tiles have one shape and are compiled once; whole images are compiled once for each padded size.
    If the device runs out of memory, tiles of half the side are used from then on.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Any,
        *,
        tile: int | None = None,
        ensemble: bool = False,
        report: Callable[[str], None] = logging.warning,
        tile_done: Callable[[int, int], None] | None = None,
    ):
        """Moves the weights to the device; `restore` describes the first arguments.

        `report` is called with a message when tiles are made smaller, `tile_done` after each tile
        with the number done and the number of all, in which a tile computed twice counts twice.
        """
        if tile is not None and (
            not isinstance(tile, numbers.Integral) or isinstance(tile, bool) or tile < 1
        ):
            raise ValueError(f"tile is {tile!r}, but must be None or an integer >= 1 (pixels)")
        for key in ("params", "network"):
            if key in params:
                raise ValueError(
                    f"params must be the network's parameters alone; pass the entry {key!r} of it"
                )
        self._model = model
        self._params = jax.device_put(params)
        self._tile = None if tile is None else round_up(int(tile), model.size_multiple)
        self._ensemble = ensemble
        self._report = report
        self._tile_done = tile_done
        self._limit: int | None = None  # set when memory has run out

    def __call__(self, image: Any) -> np.ndarray:
        """Restores an image; [h, w, 3] float32 clipped to [0, 1]. See `restore`."""
        restored = self.raw(image)
        return np.clip(restored, 0, 1, out=restored).astype(np.float32, copy=False)

    def raw(self, image: Any) -> np.ndarray:
        """The network's output for an image, [h, w, 3] float32 or, from a float64 network, float64.

        Takes and raises what `restore` does; the output is not clipped.
        """
        image = checked_image(image)
        height, width = image.shape[:2]
        padded = padded_to_multiple(
            image.astype(jnp.promote_types(self._model.dtype, jnp.float32), copy=False),
            self._model.size_multiple,
        )
        while True:
            tile = self._tile_for(*padded.shape[:2])
            try:
                return self._run(padded, tile)[:height, :width]
            except jax.errors.JaxRuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                reason = str(error).strip().splitlines()[0][:200]
            # Outside the except block, so that the failed run's arrays are let go of.
            self._shrink(min(tile, max(padded.shape[:2])), reason)

    def _run(self, padded: np.ndarray, tile: int) -> np.ndarray:
        predict = functools.partial(_output, self._model, self._params)
        if tile < max(padded.shape[:2]):
            predict = self._in_tiles(tile, padded.shape[:2])
        if self._ensemble:
            return self_ensemble(predict, padded)
        return np.array(predict(padded))  # a copy: device memory may be read-only

    def _in_tiles(self, tile: int, size: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
        """A function that runs an image of this height and width, or turned, in tiles."""
        overlap = default_overlap(tile, self._model.size_multiple, context=self._context())
        spans = {length: blended_spans(length, tile, overlap) for length in size}
        shared = averages_over_image(self._model)
        count = math.prod(len(spans[length]) for length in size)
        count *= (2 if shared else 1) * (8 if self._ensemble else 1)
        numbers = itertools.count(1)

        def counted(function: Callable[..., Any], *arguments: Any) -> Any:
            result = function(self._model, *arguments)
            if self._tile_done is not None:
                self._tile_done(next(numbers), count)
            return result

        def predict(image: np.ndarray) -> np.ndarray:
            cuts = [spans[length] for length in image.shape[:2]]
            params = self._params
            if shared:
                found, areas = [], []
                for row, column, pixels in tiles(image, *cuts):
                    found.append(counted(channel_weights, params, pixels))
                    areas.append(row.weights.sum() * column.weights.sum())  # that it contributes
                params = with_channel_weights(params, found, areas)
            return run_tiled(functools.partial(counted, _output, params), image, *cuts)

        return predict

    def _context(self) -> int:
        """Pixels around a tile's part of the result that its local averages need to be right."""
        tlc_size = getattr(self._model, "tlc_size", None)
        return 0 if tlc_size is None else 2 * max(tlc_size)

    def _tile_for(self, height: int, width: int) -> int:
        """Side of the tiles for an image, which runs whole if that is not less than its sides."""
        side = self._tile
        if side is None:
            side = max(height, width)
            if side > 2 * MIN_TILE:  # small images need no estimate
                pixels = MEMORY_BUDGET // bytes_per_pixel(self._model, self._params)
                if height * width > pixels:
                    multiple = self._model.size_multiple
                    side = max(math.isqrt(pixels), MIN_TILE) // multiple * multiple or multiple
        return side if self._limit is None else min(side, self._limit)

    def _shrink(self, side: int, reason: str) -> None:
        """Halves the tiles, or raises MemoryError if they are as small as they may be."""
        half = round_up(max(side // 2, MIN_TILE), self._model.size_multiple)
        if half >= side:
            raise MemoryError(f"the device has no memory even for {side}x{side} pixels: {reason}")
        self._limit = half
        self._report(
            f"out of memory with {side} pixels a side; going on with tiles of {half}x{half} pixels"
        )


def padded_to_multiple(image: np.ndarray, multiple: int) -> np.ndarray:
    """Pads [h, w, c] by reflection at the bottom and right, as the networks do inside `apply`.

    Done here too so that all sizes with the same padded size share one compiled program.
    """
    bottom, right = (-size % multiple for size in image.shape[:2])
    if not bottom and not right:
        return image
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="reflect")


def bytes_per_pixel(model: nn.Module, params: Any) -> int:
    """Estimated working memory of a network for each pixel of an image, without its weights.

    A multiple of the largest array of the forward pass, which is traced and not run. Traced with
    whole maps on every backend, so that an image is cut into the same tiles everywhere.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    leaves, structure = jax.tree.flatten(shapes)
    return _bytes_per_pixel(model, structure, tuple(leaves))


@functools.lru_cache(maxsize=_COMPILED_SHAPES)
def _bytes_per_pixel(model: nn.Module, structure: Any, leaves: tuple) -> int:
    side = round_up(2 * MIN_TILE, model.size_multiple)
    image = jax.ShapeDtypeStruct((side, side, 3), jnp.float32)
    params = jax.tree.unflatten(structure, leaves)
    with formulated(ACCELERATOR):
        traced = jax.make_jaxpr(functools.partial(_forward, model))(params, image)
    largest = _largest_array(traced.jaxpr)
    at_once = _ARRAYS_AT_ONCE.get(model.architecture, max(_ARRAYS_AT_ONCE.values()))
    return math.ceil(at_once * largest / side**2)


def _largest_array(jaxpr: Any) -> int:
    """Bytes of the largest array that a traced function makes, inner functions included.

    Numbers count as four bytes at least: XLA on CPUs computes bfloat16 in float32.
    """
    largest = 0
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            largest = max(largest, variable.aval.size * max(variable.aval.dtype.itemsize, 4))
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                largest = max(largest, _largest_array(inner))
    return largest


def _output(model: nn.Module, params: Any, image: np.ndarray) -> np.ndarray:
    """The network's output for an image whose size suits it, as it is."""
    return np.asarray(_compiled(model, image.shape)(params, image))


@functools.lru_cache(maxsize=_COMPILED_SHAPES)
def _compiled(model: nn.Module, shape: tuple[int, ...]) -> Callable[[Any, Any], jax.Array]:
    """Compiled forward pass for one image shape; the programs least recently used are dropped."""
    del shape  # a function of its own for each shape, so that its program can be dropped
    return jax.jit(functools.partial(_forward, model))


def _forward(model: nn.Module, params: Any, image: jax.Array) -> jax.Array:
    return model.apply({"params": params}, image[None])[0]


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
