"""TFDS datasets of images as sources.

TensorFlow is not required, and nothing is downloaded: the dataset must be prepared already, in the
file format "array_record". `python -m dcpt_jax.data.tfds_build` prepares one from folders of pairs.

The stored bytes are decoded by `images`, as those of files in folders. The decoder of TFDS wraps
16-bit values and misreads palettes.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcpt_jax import extras, images
from dcpt_jax.data.pairs import SizeError
from dcpt_jax.data.sources import Pair, Source, SourceReport

# Feature names of the two images of a pair, (degraded, clean).
PAIR_FEATURES = (
    ("degraded", "clean"),
    ("lq", "gt"),
    ("input", "target"),
    ("low", "high"),
    ("blur", "sharp"),
    ("hazy", "clear"),
)
_SPLITS = {"train": "train", "held_out": "test"}


class TfdsError(FileNotFoundError):
    """A TFDS dataset cannot be read; the message says why, and what to do."""


class TfdsSource(Source):
    """The photos or pairs of one split, read-only; bad files are handled as in folders.

    Attributes, besides those of `Source`:
        files: all files of the dataset.
    """

    def __init__(self, text: str, *, split: str = "train", **options: Any):
        """Opens a prepared dataset.

        Args:
            text: "NAME[/CONFIG][:SPLIT]", a dataset in the data folder of TFDS (`TFDS_DATA_DIR`, or
                ~/tensorflow_datasets), or "FOLDER[:SPLIT]", the folder of a dataset or of its
                versions. SPLIT has the syntax of TFDS, such as "train[:50%]".
            split: "train" or "held_out" (the split "test"), if `text` names none.
            **options: of `Source`.

        Raises:
            ImportError: if tensorflow-datasets is not installed.
            TfdsError: if the dataset is not prepared, not in ArrayRecord files, or has no such
                images.
        """
        super().__init__(**options)
        name, _, chosen = text.partition(":")
        self._split = chosen or _SPLITS[split]
        self._name = name
        self._records, self._keys, folder = _open(name, self._split)
        self.files = tuple(sorted(p for p in folder.glob("*") if p.is_file()))
        self.is_pairs = len(self._keys) == 2
        self.report = SourceReport(f"{len(self)} {self.noun}s", len(self))

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Split and number of each example."""
        return tuple(f"{self._split}-{i:06}" for i in range(len(self)))

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._records)

    def describe(self, index: int) -> str:
        """Number, dataset and split of an example."""
        return f"example {index} of {self._name}:{self._split}"

    def _decode(self, index: int) -> np.ndarray | Pair:
        try:
            example = self._records[index]
        except Exception as error:  # the libraries raise RuntimeError, DecodeError and others
            raise images.ImageError(
                f"{self.describe(index)} cannot be read: {first_line(error)}"
            ) from error
        pixels = [
            images.decode_pixels(
                example[key],
                f"{key} of {self.describe(index)}",
                max_pixels=self._max_pixels,
                colour=self._colour,
            )
            for key in self._keys
        ]
        if not self.is_pairs:
            return pixels[0]
        if pixels[0].shape != pixels[1].shape:
            raise SizeError(
                f"{self.describe(index)}: the photos of a pair have different sizes, "
                f"{pixels[0].shape[:2]} and {pixels[1].shape[:2]}"
            )
        return Pair(*pixels)

    def __repr__(self) -> str:
        """Short, since Grain prints it in messages."""
        return f"TfdsSource({self._name}:{self._split}, {len(self)} {self.noun}s)"


def import_tfds() -> Any:
    """Imports TFDS; ImportError with advice if it is not installed."""
    with extras.needed(
        "tfds", "a TFDS dataset", instead="name folders with pairs:DEGRADED_DIR,CLEAN_DIR"
    ):
        import tensorflow_datasets as tfds
    return tfds


def _open(name: str, split: str) -> tuple[Sequence[Any], tuple[str, ...], Path]:
    """(records of a split with undecoded images, names of these features, folder)."""
    tfds = import_tfds()
    try:
        builder = _builder(tfds, name)
        keys = _image_keys(tfds, builder.info.features, name)
        decoders = {key: tfds.decode.SkipDecoding() for key in keys}
        records = builder.as_data_source(split, decoders=decoders)
        return records, keys, Path(builder.data_path)
    except (TfdsError, ImportError):
        raise
    except Exception as error:  # TFDS raises many types, some with long messages
        raise TfdsError(
            f"{split!r} of the TFDS dataset {name} cannot be read: {first_line(error)}. A dataset "
            "must be prepared on this machine with file_format='array_record', in the folder "
            "TFDS_DATA_DIR or ~/tensorflow_datasets, or be named by its folder"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error message; those of TFDS can be very long."""
    lines = filter(None, map(str.strip, str(error).splitlines()))
    return next(lines, type(error).__name__)[:300].rstrip(".:")


def _builder(tfds: Any, name: str) -> Any:
    folder = Path(name).expanduser()
    if not (folder.is_dir() or name.startswith((os.sep, ".", "~"))):
        return tfds.builder(name)
    version_folder = folder if (folder / "dataset_info.json").is_file() else None
    if version_folder is None:
        infos = sorted(folder.glob("*/dataset_info.json")) if folder.is_dir() else []
        infos = infos or (sorted(folder.glob("*/*/dataset_info.json")) if folder.is_dir() else [])
        if len({info.parent.parent for info in infos}) > 1:
            several = ", ".join(str(info.parent.parent) for info in infos)
            raise TfdsError(f"{name} holds several TFDS datasets, name one: {several}")
        if not infos:
            raise TfdsError(f"there is no TFDS dataset in {name}: no dataset_info.json")
        version_folder = max(infos, key=lambda info: _version(info.parent.name)).parent
    return tfds.builder_from_directory(str(version_folder))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in text.split("."))


def _image_keys(tfds: Any, features: Any, name: str) -> tuple[str, ...]:
    """Feature names of the two images of a pair, or of the single image."""
    image_keys = [
        key for key, feature in features.items() if isinstance(feature, tfds.features.Image)
    ]
    for pair in PAIR_FEATURES:
        if set(pair) <= set(image_keys):
            return pair
    if "image" in image_keys or len(image_keys) == 1:
        return ("image" if "image" in image_keys else image_keys[0],)
    known_pairs = ", ".join("/".join(pair) for pair in PAIR_FEATURES)
    raise TfdsError(
        f"the TFDS dataset {name} has the images {', '.join(image_keys) or 'none'}; known: the "
        f"pairs {known_pairs}, or a single image"
    )
