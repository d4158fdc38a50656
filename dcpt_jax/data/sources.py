"""Where clean photos come from: a folder, or those inside installed packages.

A `PhotoSource` is a sequence of decoded photos, as Grain takes it (`__len__`, `__getitem__`). The
rules for files that cannot be read:

* At the start every file is checked without decoding it (`images.check_image`), in folders of up to
  `CHECK_LIMIT` files. What fails is left out, or stops the run, as `on_bad_file` says.
* What shows only in decoding (a wrong checksum) is found while the stream runs. There the next
  photo in the list takes the bad one's place. That depends on the files alone, so the stream stays
  the same for any number of worker processes and after a restart.

Every file that is not used is named in the log, once per process, and counted.
"""

import collections
import dataclasses
import functools
import importlib.util
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcpt_jax import images

# Photos that come inside installed packages, as "package/file". None is in both lists.
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

CHECK_LIMIT = 5000  # files; checking them takes seconds on a slow disk
_NAMED_LIMIT = 20  # bad files named one by one at the start

_logger = logging.getLogger(__name__)


def bundled_photos(split: str) -> list[Path]:
    """Paths of the photos inside installed packages, without importing those packages.

    Args:
        split: "train", or "held_out" for the photos that are never trained on.

    Raises:
        ImportError: if a package is not installed.
        FileNotFoundError: if the installed version does not hold a photo.
        ValueError: for another split.
    """
    if split not in _SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(_SPLITS)}")
    paths = []
    for entry in _SPLITS[split]:
        package, file = entry.split("/", 1)
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ImportError(
                f"the bundled photos need {_DISTRIBUTIONS[package]}: install it, or name a folder "
                "of photos with --config.data.root"
            )
        path = Path(spec.submodule_search_locations[0], file)
        if not path.is_file():
            raise FileNotFoundError(
                f"the installed {_DISTRIBUTIONS[package]} has no {file}: install another version, "
                "or name a folder of photos with --config.data.root"
            )
        paths.append(path)
    return paths


def folder_photos(root: Path | str) -> list[Path]:
    """Paths of the images below a folder; see `images.list_images` for which and in which order.

    Raises:
        FileNotFoundError: if there is no such folder or no image in it.
    """
    try:
        paths = images.list_images(root)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{error}; --config.data.root takes an existing folder of photos"
        ) from error
    if not paths:
        raise FileNotFoundError(
            f"no images in the folder {root} given by --config.data.root; looked in it and its "
            f"sub-folders for files named {' '.join(sorted(images.IMAGE_SUFFIXES))}"
        )
    return paths


@dataclasses.dataclass(frozen=True)
class PhotoReport:
    """What became of the files of a source at the start.

    Attributes:
        found: number of files given.
        used: the files that remain.
        skipped: (file, reason) of those left out.
        checked: False where there were too many files to check before the run.
    """

    found: int
    used: tuple[Path, ...]
    skipped: tuple[tuple[Path, str], ...]
    checked: bool

    def summary(self) -> str:
        """One line: how many photos are used and how many were left out."""
        text = f"{len(self.used)} photos"
        if self.skipped:
            text += f" ({len(self.skipped)} of {self.found} files left out as unreadable)"
        return text if self.checked else text + " (too many to check each before the run)"


def inspect_photos(
    paths: Sequence[Path | str], on_bad_file: str = "skip", *, max_pixels: int = images.MAX_PIXELS
) -> PhotoReport:
    """Checks files without decoding them and logs a warning for each that cannot be used.

    Args:
        paths: the files; more than `CHECK_LIMIT` are not checked.
        on_bad_file: "skip" leaves bad files out, "refuse" stops at the first.
        max_pixels: larger images count as bad.

    Raises:
        ImageError: for the first bad file where `on_bad_file` is "refuse", or if all are bad.
        ValueError: for another `on_bad_file`, or no paths.
    """
    if on_bad_file not in ("skip", "refuse"):
        raise ValueError(f"on_bad_file must be 'skip' or 'refuse', not {on_bad_file!r}")
    if not paths:
        raise ValueError("a source of photos needs at least one file")
    files = tuple(Path(path) for path in paths)
    if len(files) > CHECK_LIMIT:
        return PhotoReport(len(files), files, (), checked=False)
    used, skipped = [], []
    for path in files:
        try:
            images.check_image(path, max_pixels=max_pixels)
        except images.ImageError as error:
            if on_bad_file == "refuse":
                raise _refused(error) from error
            skipped.append((path, str(error)))
        else:
            used.append(path)
    for _, reason in skipped[:_NAMED_LIMIT]:
        _logger.warning("photo left out: %s", reason)
    if len(skipped) > _NAMED_LIMIT:
        _logger.warning("... and %d more photos left out", len(skipped) - _NAMED_LIMIT)
    if not used:
        raise images.ImageError(f"none of {len(files)} photos can be read; first: {skipped[0][1]}")
    return PhotoReport(len(files), tuple(used), tuple(skipped), checked=True)


class PhotoSource(Sequence):
    """Photos by index, decoded when asked for and kept in a bounded cache.

    Decoding a whole photo for one crop is what starves training, so the photos used last stay in
    memory. Worker processes get a copy with an empty cache of the same limit.

    Attributes:
        report: what became of the files at the start.
        paths: the files in use.
        on_bad_file: "skip" or "refuse".
        unreadable: index -> reason, of files that failed in decoding, in this process so far.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        *,
        on_bad_file: str = "skip",
        cache_megabytes: float = 512,
        max_pixels: int = images.MAX_PIXELS,
    ):
        """Checks the files; see `inspect_photos` for arguments and errors.

        Args:
            paths: image files.
            on_bad_file: what to do with files that cannot be read.
            cache_megabytes: limit of the decoded photos kept in memory, in each process; 0 = none.
            max_pixels: larger images count as bad.
        """
        if cache_megabytes < 0:
            raise ValueError(f"cache_megabytes must be 0 or larger, not {cache_megabytes}")
        self.report = inspect_photos(paths, on_bad_file, max_pixels=max_pixels)
        self.paths = self.report.used
        self.on_bad_file = on_bad_file
        self.unreadable: dict[int, str] = {}
        self._max_pixels = max_pixels
        self._cache_bytes = int(cache_megabytes * 1e6)
        self._start_cache()

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """A name of each photo: its stem, or as much of its path as makes it unique."""
        candidates = ([p.stem for p in self.paths], [p.name for p in self.paths], self.paths)
        counts = [collections.Counter(column) for column in candidates]
        return tuple(
            next((str(n) for n, c in zip(row, counts, strict=True) if c[n] == 1), str(row[-1]))
            for row in zip(*candidates, strict=True)
        )

    def __len__(self) -> int:
        """Number of files in use."""
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """A photo, uint8 or uint16 [h, w, 3], RGB, read-only; the next one in place of a bad one.

        Raises:
            ImageError: for a bad file where `on_bad_file` is "refuse", or if all are bad.
            IndexError: if the index is out of range.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"photo {index} of {len(self)}")
        for step in range(len(self)):
            try:
                return self.read((index + step) % len(self))
            except images.ImageError as error:
                if self.on_bad_file == "refuse":
                    raise _refused(error) from error
        raise images.ImageError(f"none of {len(self)} photos can be read")

    def read(self, index: int) -> np.ndarray:
        """The photo with this index, and no other in its place.

        Raises:
            ImageError: if it cannot be read.
        """
        with self._lock:
            if index in self.unreadable:
                raise images.ImageError(self.unreadable[index])
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        try:
            pixels = images.read_pixels(self.paths[index], max_pixels=self._max_pixels)
        except images.ImageError as error:
            with self._lock:  # two threads may have met the same file
                is_new = index not in self.unreadable
                self.unreadable[index] = str(error)
                count = len(self.unreadable)
            if is_new and self.on_bad_file == "skip":
                _logger.warning("photo skipped (%d so far): %s", count, error)
            raise
        pixels.setflags(write=False)  # it is shared by all crops made of it
        with self._lock:
            self._keep(index, pixels)
        return pixels

    def _keep(self, index: int, pixels: np.ndarray) -> None:
        if pixels.nbytes > self._cache_bytes or index in self._cache:
            return
        self._cache[index] = pixels
        self._cached_bytes += pixels.nbytes
        while self._cached_bytes > self._cache_bytes:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes

    def _start_cache(self) -> None:
        self._cache: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the cache and its lock."""
        left_out = ("_cache", "_cached_bytes", "_lock")
        return {key: value for key, value in vars(self).items() if key not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the settings, with an empty cache."""
        vars(self).update(state)
        self._start_cache()

    def __repr__(self) -> str:
        """Short, since Grain shows it in its messages."""
        return f"PhotoSource({len(self)} photos)"


def _refused(error: images.ImageError) -> images.ImageError:
    return images.ImageError(
        f"{error} (--config.data.on_bad_file=skip leaves such files out and goes on)"
    )
