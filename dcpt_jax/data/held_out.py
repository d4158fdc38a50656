"""Deterministic samples for evaluation, from the data of each class, held out where possible.

Clean photos are degraded by their class, the same way at every call. Samples are whole images, or
crops on a regular grid.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dcpt_jax import degradations, images
from dcpt_jax.data.classes import TrainingClass
from dcpt_jax.data.mixing import hashed
from dcpt_jax.data.pipeline import crop_at, crop_start
from dcpt_jax.data.sources import Pair, arrays_of

SMALLEST = 11  # pixels, the window of SSIM; smaller whole images are skipped with a warning

_logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    """A degraded image for evaluation.

    Attributes:
        task: class index.
        degraded: float32 [h, w, 3]; in [0, 1] only if the degradation clips.
        clean: float32 [h, w, 3], in [0, 1].
        name: name of the photo or pair, with the number of the crop if there are several.
    """

    task: int
    degraded: np.ndarray
    clean: np.ndarray
    name: str


def samples(
    classes: Sequence[TrainingClass],
    *,
    size: int,
    per_photo: int,
    seed: int = 0,
) -> Iterator[Sample]:
    """The samples of all classes, one class after the other; see `samples_of`."""
    for label, training_class in enumerate(classes):
        yield from samples_of(label, training_class, size=size, per_photo=per_photo, seed=seed)


def samples_of(
    label: int,
    training_class: TrainingClass,
    *,
    size: int,
    per_photo: int,
    seed: int = 0,
    most_photos: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Sample]:
    """The samples of one class, the same at every call; one image is in memory at a time.

    The positions of the crops depend only on the seed and the photo's name, and the degradation
    also on the name of the class. So results are comparable between runs with different sets of
    photos or classes.

    Args:
        label: class index.
        training_class: the class; its source's `on_bad_file` decides about bad files.
        size: height and width of the crops, in pixels; smaller images are extended by reflection.
            0 = whole images; those below `SMALLEST` are skipped.
        per_photo: crops per image, from the cells of a regular grid; a single one is in the centre.
            Ignored for whole images.
        seed: of the degradation, and of the choice of cells if the grid has more than `per_photo`.
        most_photos: maximum number of images, evenly spread over the list; 0 = all.
        part: (i, n) selects every n-th image, from the i-th on; may be empty.

    Raises:
        ImageError: if no image can be read (not checked for a part), or for the first bad file if
            the source refuses them.
        ValueError: if `size` is negative or `per_photo` below 1.
    """
    if size < 0 or per_photo < 1:
        raise ValueError(
            f"size must be at least 0 and per_photo at least 1, not {size} and {per_photo}"
        )
    parts = degradations.parse(training_class.task.degradation)
    any_read = False
    indices = _spread(len(training_class.source), most_photos)[part[0] :: part[1]]
    for index in indices:
        name = training_class.source.names[index]
        try:
            item = training_class.source.read(index)
        except images.ImageError:  # the source has logged it
            if training_class.source.on_bad_file == "refuse":
                raise
            continue
        sides = arrays_of(item)[0].shape[:2]
        if not size and min(sides) < SMALLEST:
            _logger.warning(
                "%s left out: %dx%d pixels are too small to measure", name, *sides[::-1]
            )
            continue
        any_read = True
        for crop_name, crop in _crops(item, name, size, per_photo, seed):
            clean = images.to_float(crop[-1])
            if training_class.is_synthetic:
                rng = np.random.default_rng(hashed(seed, crop_name, training_class.name))
                clip = training_class.task.clip_noise
                degraded = degradations.apply_parts(clean, parts, rng, clip=clip)
            else:
                degraded = images.to_float(crop[0])
            yield Sample(label, degraded, clean, crop_name)
    if not any_read and part == (0, 1):
        raise images.ImageError(
            f"none of the {len(indices)} photos tried for {training_class.name} can be read"
        )


def count(training_class: TrainingClass, *, size: int, per_photo: int) -> int:
    """Number of samples from `samples_of` if all files can be read."""
    return len(training_class.source) * (per_photo if size else 1)


def _spread(count: int, most: int) -> Sequence[int]:
    """Indices of at most `most` of `count` items, evenly spread; 0 = all."""
    if not most or count <= most:
        return range(count)
    return [(2 * i + 1) * count // (2 * most) for i in range(most)]


def _crops(
    item: np.ndarray | Pair, name: str, size: int, per_photo: int, seed: int
) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
    """(name, (crop of each array)) of a photo or pair."""
    arrays = arrays_of(item)
    if not size:
        yield name, arrays
        return
    h, w = arrays[0].shape[:2]
    rows = min(per_photo, max(1, round(math.sqrt(per_photo * h / w))))
    columns = math.ceil(per_photo / rows)
    rng = np.random.default_rng(hashed(seed, name))
    cells = np.sort(rng.choice(rows * columns, per_photo, replace=False))
    for number, (row, column) in enumerate(zip(*divmod(cells, columns), strict=True)):
        top, left = crop_start(h, size, row, rows), crop_start(w, size, column, columns)
        crop = tuple(crop_at(pixels, top, left, size) for pixels in arrays)
        yield name if per_photo == 1 else f"{name}-{number + 1}", crop
