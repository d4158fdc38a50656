"""Restoration of one image of any size: whole, or in tiles if it is large.

For all networks the result in tiles differs from that of the whole image. Convolutions have a
limited receptive field, and pixels whose field is inside the tile agree up to rounding. But NAFNet
also averages over the whole image, and Restormer and PromptIR compute channel attention over all
its pixels: the averages of a tile differ, so its output is off by an amount that varies slowly from
tile to tile, with the steps hidden by blended seams. NAFNet's tiles therefore share their averages
(see `averages`). SwinIR's receptive field is limited by its windows, but its shifted windows wrap
around: pixels near a border attend to those at the opposite border, in a tile as in the whole
image, so tiles differ near their borders.

Measured on a 512x512 photo with the networks of the reference's test weights, which are random and
stronger than trained ones: tiles of 256 pixels differ from the whole by 66 % of the network's
residual (root mean square) for Restormer, 25 % for PromptIR and 5 to 6 % for SwinIR (where more
than half of the pixels agree up to rounding). For NAFNet with a `tlc_size` of 32, whose averages
are local, it is 0.6 %; `averages` gives the figures of the bundled NAFNet.
"""

import functools
import logging
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dcpt_jax.images import checked_image
from dcpt_jax.models.formulation import ACCELERATOR, formulated
from dcpt_jax.restore.averages import uses_image_averages, with_image_averages
from dcpt_jax.restore.ensemble import self_ensemble
from dcpt_jax.restore.tiling import blended_spans, default_overlap, round_up, run_tiled

# Largest working memory (without the weights) for running an image whole. A constant instead of the
# free memory, so that a photo gives the same result on every machine.
MEMORY_BUDGET = 2 * 2**30  # bytes
# Smallest side to which tiles are halved if memory runs out: smaller ones have too little context.
MIN_TILE = 128
# Working memory in units of the largest array of the forward pass. XLA on CPUs needs, for the
# paper's networks at 256x256, 2.0 for NAFNet and 1.7 for Restormer and PromptIR (other sizes: up to
# 3.0). For SwinIR it is 5.1, because of the cutting, rolling and weighting of windows, and 6.4 with
# twice the hidden channels: XLA keeps each constant of the GELU as a map of their size. The rest is
# a reserve for other devices.
_ARRAYS_AT_ONCE = {"nafnet": 4, "restormer": 4, "promptir": 4, "swinir": 7}
# Number of compiled programs to keep, as each photo of a folder may have a different shape.
_COMPILED_SHAPES = 16


def restore(
    model: nn.Module, params: Any, image: Any, tile: int | None = None, ensemble: bool = False
) -> np.ndarray:
    """Restores one image; this is `dcpt_jax.restore`. Inside `jax.jit`, use `model.apply` instead.

    Args:
        model: restoration network, e.g. from `dcpt_jax.load`.
        params: its parameters.
        image: [h, w, 3] floating-point array, RGB in [0, 1], of any size >= 1x1.
        tile: side of the tiles in pixels, rounded up to `model.size_multiple`; images up to this
            size run whole. Tiles of NAFNet share averages (see `averages`). None: whole if the
            estimated working memory is below 2 GiB (for the networks of the paper: about 1
            megapixel for NAFNet, 0.25 for Restormer and PromptIR, 0.14 for SwinIR), otherwise the
            largest tiles within this limit.
        ensemble: mean over the eight flips and quarter turns of the image or of each tile; takes
            eight times as long.

    Returns:
        [h, w, 3] float32, clipped to [0, 1]. `Predictor.raw` returns the unclipped output.

    Raises:
        ValueError: if `image` or `tile` is invalid; the message says what is expected.
        MemoryError: if even the smallest tiles do not fit into memory.
    """
    return Predictor(model, params, tile=tile, ensemble=ensemble)(image)


class Predictor:
    """A network ready to restore images, with its weights on the device.

    All tiles have one shape and are compiled once; whole images are compiled once for each padded
    size. If the device runs out of memory, tiles of half the side are used from then on.
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
        """Moves the weights to the device; see `restore` for the first arguments.

        `report` is called with a message when the tile size is reduced, and `tile_done` with the
        number of tiles done and in total, after each tile and each patch for shared averages.
        """
        if tile is not None and (
            not isinstance(tile, numbers.Integral) or isinstance(tile, bool) or tile < 1
        ):
            raise ValueError(f"tile is {tile!r}, but must be None or an integer >= 1 (pixels)")
        if not isinstance(model, nn.Module) or not isinstance(params, Mapping):
            raise TypeError(
                "expected a network and its parameters, as dcpt_jax.load returns them, not "
                f"{type(model).__name__} and {type(params).__name__}"
            )
        for key in ("params", "network"):
            if key in params:
                raise ValueError(
                    f"params must be the network's parameters only; pass params[{key!r}]"
                )
        self._model = model
        self._params = jax.device_put(params)
        self._tile = None if tile is None else round_up(int(tile), model.size_multiple)
        self._ensemble = ensemble
        self._report = report
        self._tile_done = tile_done
        self._limit: int | None = None  # side of the tiles; set when memory has run out

    def __call__(self, image: Any) -> np.ndarray:
        """Restores an image; [h, w, 3] float32 clipped to [0, 1]. See `restore`."""
        restored = self.raw(image)
        return np.clip(restored, 0, 1, out=restored).astype(np.float32, copy=False)

    def raw(self, image: Any) -> np.ndarray:
        """The network's output for an image: [h, w, 3] float32, or float64 from a float64 network.

        Arguments and exceptions as for `restore`; the output is not clipped.
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
            # Outside the except block, so that the arrays of the failed run are released.
            self._shrink(min(tile, max(padded.shape[:2])), reason)

    def _run(self, padded: np.ndarray, tile: int) -> np.ndarray:
        predict = functools.partial(_output, self._model, self._params)
        if tile < max(padded.shape[:2]):
            predict = self._in_tiles(tile, padded.shape[:2])
        if self._ensemble:
            return self_ensemble(predict, padded)
        return np.array(predict(padded))  # a copy: device memory may be read-only

    def _in_tiles(self, tile: int, size: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
        """A function that runs an image of this height and width, or transposed, in tiles."""
        overlap = default_overlap(tile, self._model.size_multiple, context=self._context())
        spans = {length: blended_spans(length, tile, overlap) for length in size}
        count = math.prod(len(spans[length]) for length in size) * (8 if self._ensemble else 1)
        done = 0

        def report(new: int) -> None:
            nonlocal done
            done += new
            if self._tile_done is not None:
                self._tile_done(done, count)

        def predict(image: np.ndarray) -> np.ndarray:
            params = self._params
            if uses_image_averages(self._model):
                params = with_image_averages(
                    self._model, params, image, tile, patch_done=functools.partial(report, 0)
                )

            def output(pixels: np.ndarray) -> np.ndarray:
                result = _output(self._model, params, pixels)
                report(1)
                return result

            return run_tiled(output, image, *(spans[n] for n in image.shape[:2]))

        return predict

    def _context(self) -> int:
        """Pixels of context around a tile's part of the result that its local averages need."""
        tlc_size = getattr(self._model, "tlc_size", None)
        return 0 if tlc_size is None else 2 * max(tlc_size)

    def _tile_for(self, height: int, width: int) -> int:
        """Side of the tiles for an image; it runs whole if it is not larger."""
        side = self._tile
        if side is None:
            side = max(height, width)
            if side > 2 * MIN_TILE:  # smaller images need no estimate
                pixels = MEMORY_BUDGET // bytes_per_pixel(self._model, self._params)
                if height * width > pixels:
                    multiple = self._model.size_multiple
                    side = max(math.isqrt(pixels), MIN_TILE) // multiple * multiple or multiple
        return side if self._limit is None else min(side, self._limit)

    def _shrink(self, side: int, reason: str) -> None:
        """Halves the tile size; raises MemoryError if it is already the smallest."""
        half = round_up(max(side // 2, MIN_TILE), self._model.size_multiple)
        if half >= side:
            raise MemoryError(
                f"the device has too little memory even for {side}x{side} pixels: {reason}"
            )
        self._limit = half
        self._report(
            f"out of memory at {side}x{side} pixels; continuing with tiles of {half}x{half} pixels"
        )


def padded_to_multiple(image: np.ndarray, multiple: int) -> np.ndarray:
    """Pads [h, w, c] by reflection at the bottom and right, as the networks do inside `apply`.

    Done here too, so that all sizes with the same padded size share one compiled program.
    """
    bottom, right = (-size % multiple for size in image.shape[:2])
    if not bottom and not right:
        return image
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="reflect")


def bytes_per_pixel(model: nn.Module, params: Any) -> int:
    """Estimated working memory of a network per pixel of an image, without its weights.

    A multiple of the largest array of the forward pass, which is traced but not run. Traced for
    accelerators on every backend, so that an image is cut into the same tiles everywhere.
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
    """Bytes of the largest array in a traced function, inner functions included.

    Elements count as at least four bytes: XLA on CPUs computes bfloat16 in float32.
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
    """The network's unclipped output for an image that needs no padding."""
    return np.asarray(_compiled(model, image.shape)(params, image))


@functools.lru_cache(maxsize=_COMPILED_SHAPES)
def _compiled(model: nn.Module, shape: tuple[int, ...]) -> Callable[[Any, Any], jax.Array]:
    """Compiled forward pass for one image shape; the least recently used programs are dropped."""
    del shape  # cached per shape, so that old compiled programs are released
    return jax.jit(functools.partial(_forward, model))


def _forward(model: nn.Module, params: Any, image: jax.Array) -> jax.Array:
    return model.apply({"params": params}, image[None])[0]


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
