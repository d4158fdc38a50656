"""The images for probing networks: crops of clean photos, degraded by class."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dcpt_jax import degradations, images
from dcpt_jax.data.mixing import hashed
from dcpt_jax.data.photos import PhotoSource
from dcpt_jax.data.pipeline import crop_at, crop_start
from dcpt_jax.data.tasks import Task


class ProbeImages(NamedTuple):
    """Degraded images, sorted by class."""

    degraded: np.ndarray  # float32 [n, crop, crop, 3]; in [0, 1] only if the degradation clips
    labels: np.ndarray  # int [n], index of the class
    num_photos: int  # number of photos that they are crops of


def probe_images(
    tasks: Sequence[Task], photos: PhotoSource, *, per_class: int, crop: int, seed: int = 0
) -> ProbeImages:
    """Degrades an equal number of crops with each class; the result depends only on the arguments.

    Each crop is used only once: otherwise the nearest neighbours of an image would be the same crop
    in other classes. If there are enough photos, each gives its centre crop to one class. Otherwise
    each photo gives several crops at different places, assigned to the classes in turn, so that the
    content of a photo does not predict the class.

    Args:
        tasks: the classes.
        photos: clean photos; those smaller than the crop are padded by reflection.
        per_class: number of images of each class, >= 1.
        crop: height and width in pixels, >= 1.
        seed: of the assignment of photos to classes, and of the degradations.

    Raises:
        ValueError: if a photo would have to give more crops than it has different ones.
        ImageError: if a photo cannot be read.
    """
    total = per_class * len(tasks)
    if len(photos) > total:  # evenly spread over the list
        chosen = [(2 * i + 1) * len(photos) // (2 * total) for i in range(total)]
    else:
        chosen = range(len(photos))
    # In file name order, a pattern in the names could correlate with the classes.
    order = np.random.default_rng(hashed(seed, "photos")).permutation(chosen).tolist()
    counts = [total // len(order) + (i < total % len(order)) for i in range(len(order))]
    positions = []
    for index, count in zip(order, counts, strict=True):
        size = photos.check(index)
        rng = np.random.default_rng(hashed(seed, photos.names[index]))
        try:
            positions.append(crop_positions(*size, crop, count, rng))
        except ValueError as error:
            raise ValueError(
                f"too few photos for {total} different crops: {photos.describe(index)}, "
                f"{size[1]}x{size[0]} pixels, {error}; use more or larger photos (--photos), or "
                "lower --images or --crop"
            ) from error
    parts = [degradations.parse(task.degradation) for task in tasks]
    degraded = np.empty((total, crop, crop, 3), np.float32)
    number = 0
    for index, corners in zip(order, positions, strict=True):
        pixels = photos.read(index)
        for corner in corners:
            row, label = divmod(number, len(tasks))
            rng = np.random.default_rng(
                hashed(seed, photos.names[index], *corner, tasks[label].name)
            )
            clean = images.to_float(crop_at(pixels, *corner, crop))
            degraded[label * per_class + row] = degradations.apply_parts(clean, parts[label], rng)
            number += 1
    labels = np.repeat(np.arange(len(tasks)), per_class)
    return ProbeImages(degraded, labels, len(order))


def crop_positions(
    height: int, width: int, crop: int, count: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Different positions of crops in a photo, spread over it, in random order.

    Returns:
        (top, left) of each crop.
    """
    num_tops, num_lefts = (max(side - crop, 0) + 1 for side in (height, width))
    if count > num_tops * num_lefts:
        raise ValueError(
            f"has {num_tops * num_lefts} different crops of {crop} pixels, not {count}"
        )
    rows = min(
        max(round(math.sqrt(count * num_tops / num_lefts)), math.ceil(count / num_lefts), 1),
        count,
        num_tops,
    )
    columns = math.ceil(count / rows)
    cells = rng.choice(rows * columns, count, replace=False)
    return [
        (crop_start(height, crop, row, rows), crop_start(width, crop, column, columns))
        for row, column in (divmod(cell, columns) for cell in cells.tolist())
    ]
