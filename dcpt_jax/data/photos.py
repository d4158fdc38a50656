"""Clean photos: from a folder, or bundled with installed packages.

At the start the header of every file is checked (`images.check_image`), in folders of up to
`sources.CHECK_LIMIT` files. Bad files are skipped, or stop the run, see `on_bad_file`. Damage that
only decoding finds, such as a wrong checksum, is handled while the stream runs; see `sources`.
"""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcpt_jax import extras, images
from dcpt_jax.data import sources
from dcpt_jax.data.sources import Source, SourceReport
from dcpt_jax.images.listing import FileList

# Photos bundled with installed packages, as "package/file". The lists are disjoint.
TRAIN_PHOTOS = (
    "skimage/data/astronaut.png",
    "skimage/data/rocket.jpg",
    "skimage/data/motorcycle_left.png",
    "skimage/data/motorcycle_right.png",
    "sklearn/datasets/images/china.jpg",
    "skimage/data/camera.png",
    "skimage/data/brick.png",
    "skimage/data/grass.png",
    "skimage/data/gravel.png",
    "skimage/data/coins.png",
    "skimage/data/hubble_deep_field.jpg",
)
HELD_OUT_PHOTOS = (
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "sklearn/datasets/images/flower.jpg",
)
_SPLITS = {"train": TRAIN_PHOTOS, "held_out": HELD_OUT_PHOTOS}
_DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


def bundled_photos(split: str) -> list[Path]:
    """Paths of the photos bundled with installed packages, without importing these.

    Raises:
        ImportError: if a package is not installed.
        FileNotFoundError: if the installed version does not contain a photo.
        ValueError: for another split.
    """
    if split not in _SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(_SPLITS)}")
    paths = []
    for entry in _SPLITS[split]:
        package, file = entry.split("/", 1)
        with extras.needed(
            "train",
            f"the bundled photo {file}",
            instead="name a folder of photos with --config.data.root",
        ):
            spec = importlib.util.find_spec(package)
            if spec is None or not spec.submodule_search_locations:
                raise ModuleNotFoundError(f"{_DISTRIBUTIONS[package]} is not installed")
        path = Path(spec.submodule_search_locations[0], file)
        if not path.is_file():
            raise FileNotFoundError(
                f"the installed {_DISTRIBUTIONS[package]} has no {file}: install another version, "
                "or name a folder of photos with --config.data.root"
            )
        paths.append(path)
    return paths


class PhotoSource(Source):
    """Clean photos by index: uint8 or uint16 [h, w, 3], RGB, read-only; see `Source`.

    Attributes:
        paths: the files in use.
    """

    def __init__(self, paths: Sequence[Path | str], **options: Any):
        """Checks the headers of all files, if there are at most `sources.CHECK_LIMIT`.

        Args:
            paths: the files.
            **options: of `Source`.

        Raises:
            ImageError: for the first bad file if `on_bad_file` is "refuse", or if all are bad.
            ValueError: for no paths.
        """
        super().__init__(**options)
        if not paths:
            raise ValueError("a source of photos needs at least one file")
        skipped = list(getattr(paths, "inaccessible", ()))
        if skipped and self.on_bad_file == "refuse":
            raise sources.refused(images.ImageError(skipped[0][1]))
        total = len(paths) + len(skipped)
        checked = len(paths) <= sources.CHECK_LIMIT
        self.paths = paths if isinstance(paths, FileList) else tuple(map(Path, paths))
        if checked:
            files = self.paths = tuple(self.paths)
            good, bad = sources.check_each(self.check, len(files), self.on_bad_file)
            self.paths = tuple(files[i] for i in good)
            skipped += [(files[i], str(error)) for i, error in bad]
        sources.warn_of_each([reason for _, reason in skipped], "photo")
        if not self.paths:
            raise images.ImageError(f"none of {total} photos can be read; first: {skipped[0][1]}")
        self.report = SourceReport(
            f"{len(self.paths)} photos",
            total,
            tuple(skipped),
            f"{len(skipped)} of {total} files left out as unreadable",
            checked=checked,
            left_out=getattr(paths, "left_out", {}),
        )

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the photos: the stem, or a unique part of the path."""
        return sources.unique_names(self.paths)

    def __len__(self) -> int:
        """Number of files in use."""
        return len(self.paths)

    def describe(self, index: int) -> str:
        """The file of a photo."""
        return str(self.paths[index])

    def check(self, index: int) -> tuple[int, int]:
        """Height and width of a photo by its header; ImageError if it cannot be an image."""
        return images.check_image(self.paths[index], max_pixels=self._max_pixels).size

    def _decode(self, index: int) -> np.ndarray:
        return images.read_pixels(
            self.paths[index], max_pixels=self._max_pixels, colour=self._colour
        )
