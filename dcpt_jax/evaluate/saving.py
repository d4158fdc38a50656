"""Writes the images of evaluated samples, for metrics of other programs."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dcpt_jax import images
from dcpt_jax.data import held_out

KINDS = ("degraded", "restored", "clean")


def save_each(
    restored: Iterable[tuple[held_out.Sample, np.ndarray]], names: Sequence[str], folder: Path | str
) -> Iterator[tuple[held_out.Sample, np.ndarray]]:
    """Writes the images of each sample, and yields the sample.

    The files are `FOLDER/CLASS/{degraded,restored,clean}/NAME.png`, 8-bit RGB, with the same names
    in all three folders. Characters that are not portable in file names are replaced by "_", and
    equal names are numbered. Until `finish` FOLDER is named `FOLDER.unfinished`.
    """
    unfinished = _unfinished(folder)
    if unfinished.exists():  # of an evaluation that was interrupted
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    used: set[tuple[int, str]] = set()
    for sample, image in restored:
        name = base = _file_name(sample.name)
        number = 1
        while (sample.task, name.lower()) in used:
            number += 1
            name = f"{base}_{number}"
        used.add((sample.task, name.lower()))
        class_folder = unfinished / _file_name(names[sample.task])
        for kind, pixels in zip(KINDS, (sample.degraded, image, sample.clean), strict=True):
            images.write_image(class_folder / kind / f"{name}.png", np.clip(pixels, 0, 1))
        yield sample, image


def finish(folder: Path | str) -> None:
    """Gives the images of `save_each` the name of their folder, which must be new or empty."""
    _unfinished(folder).rename(folder)


def _unfinished(folder: Path | str) -> Path:
    folder = Path(folder).absolute()
    return folder.with_name(f"{folder.name}.unfinished")


def _file_name(name: str) -> str:
    return "".join("_" if c in '/\\:*?"<>|' else c for c in name)
