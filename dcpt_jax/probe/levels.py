"""Features of many images at every level of a network, with bounded memory."""

import functools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dcpt_jax.interruption import Interruption

BATCH_SIZE = 8


class Level(NamedTuple):
    """Features of one level of a network.

    Attributes:
        flattened: float32 [n, h * w * c].
        pooled: float32 [n, 2 * c]: mean, then standard deviation over the positions, of each
            channel.
        shape: (h, w, c) of the features of one image.
    """

    flattened: np.ndarray
    pooled: np.ndarray
    shape: tuple[int, int, int]


def features(
    model: Any,
    params: Any,
    images: np.ndarray | Sequence[np.ndarray],
    *,
    batch_size: int = BATCH_SIZE,
    folder: Path | str | None = None,
) -> tuple[Level, ...]:
    """Computes the features of many images that the degradation classifier uses as input.

    Args:
        model: restoration network of `dcpt_jax.create_model`.
        params: its parameters, as returned by `dcpt_jax.load`.
        images: [n, h, w, 3] float, RGB in [0, 1].
        batch_size: number of images computed at a time.
        folder: where to write the flattened features, one memory-mapped file per level; None keeps
            them in memory. The caller deletes the files.

    Returns:
        The levels, finest first (SwinIR: last stage first). Row i of each belongs to image i.

    Raises:
        ValueError: if `images` is not a batch of images, or `batch_size` is below 1.
        OSError: if there is too little disk space.
    """
    if len(np.shape(images)) != 4 or not len(images) or batch_size < 1:
        raise ValueError(
            "expected at least one image, [n, h, w, 3], and batch_size >= 1; got "
            f"{np.shape(images)} and {batch_size}"
        )
    batch_size = min(batch_size, len(images))
    params = jax.device_put(params)
    dtype = np.asarray(images[0]).dtype  # the network refuses integers
    one_batch = jax.ShapeDtypeStruct((batch_size, *np.shape(images)[1:]), dtype)
    shapes = jax.eval_shape(functools.partial(_features, model), params, one_batch)
    shapes = [maps.shape[1:] for maps, _ in shapes]
    if folder is not None:
        _check_space(folder, len(images) * sum(map(np.prod, shapes)) * 4)
    levels = []
    for number, shape in enumerate(shapes, 1):
        size = (len(images), int(np.prod(shape)))
        if folder is None:
            flattened = np.empty(size, np.float32)
        else:
            file = Path(folder, f"level_{number}.f32")
            flattened = np.memmap(file, np.float32, "w+", shape=size)
        pooled = np.empty((len(images), 2 * shape[-1]), np.float32)
        levels.append(Level(flattened, pooled, shape))
    with Interruption() as interruption:
        for start in range(0, len(images), batch_size):
            interruption.check()
            start = min(start, len(images) - batch_size)  # full batches: one program
            rows = slice(start, start + batch_size)
            batch = np.asarray(images[rows], np.float32)
            for level, (maps, pooled) in zip(levels, _features(model, params, batch), strict=True):
                level.flattened[rows] = np.asarray(maps).reshape(batch_size, -1)
                level.pooled[rows] = pooled
    return tuple(levels)


@functools.partial(jax.jit, static_argnums=0)
def _features(model: Any, params: Any, images: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """(features [b, h, w, c], mean and standard deviation of each channel [b, 2c]) by level."""
    maps = model.apply({"params": params}, images, method="features")
    maps = [level.astype(jnp.float32) for level in maps]
    pooled = [jnp.concatenate([x.mean((1, 2)), x.std((1, 2))], axis=-1) for x in maps]
    return list(zip(maps, pooled, strict=True))


def _check_space(folder: Path | str, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"the features need {needed / 2**30:.1f} GiB in {folder}, where {free / 2**30:.1f} GiB "
            "are free; set TMPDIR to a folder on a larger disk, or lower --images or --crop"
        )
