"""Opens sources: from their texts, public datasets, or clean photos to degrade."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcpt_jax.data import dataset_files, datasets, spec
from dcpt_jax.data.datasets import DATASETS, Dataset
from dcpt_jax.data.pair_files import Pairing, pair_folders, pair_list
from dcpt_jax.data.pairs import PairSource
from dcpt_jax.data.photos import PhotoSource, bundled_photos
from dcpt_jax.data.registered import RegisteredSource
from dcpt_jax.data.sources import Cache, Concatenated, Source
from dcpt_jax.data.spec import SourceError
from dcpt_jax.data.tasks import Task
from dcpt_jax.images import listing


@dataclasses.dataclass(frozen=True)
class DescribedSource:
    """A source and where it comes from."""

    source: Source
    origin: str  # for people: "pairs of rain100l in DIR"
    dataset: Dataset | None = None  # the public dataset, if it is one
    missing: tuple[str, ...] = ()  # missing parts of the dataset
    is_test_set: bool = False  # whether it is the complete test data of the dataset


@dataclasses.dataclass(frozen=True)
class Missing:
    """The missing part of the published data of a class."""

    reasons: tuple[str, ...] = ()  # a message for each dataset
    note: str = ""  # in short; "" if nothing is missing


def open_source(text: str, *, task: str = "", cache: float = 512) -> DescribedSource:
    """Opens the training data of a source by its text, without a run.

    Args:
        text: as in `config.data.sources`, see `spec`.
        task: the class to select from a dataset that holds several.
        cache: limit in megabytes of decoded photos in memory.

    Raises:
        SourceError: for a text of another form, or a source that cannot be opened.
        FileNotFoundError: if a file or folder is missing.
        ImageError: if nothing in it can be read.
    """
    factory = SourceFactory("train", on_bad_file="skip", cache=Cache(cache))
    return factory.from_text(text, Task(task, "noise"))


class SourceFactory:
    """Opens the sources of one run; classes with the same clean photos share one source."""

    def __init__(
        self,
        split: str,
        *,
        root: str = "",
        root_key: str = "--config.data.root",
        datasets: str = "",
        **options: Any,
    ):
        """Options: `root` and `datasets` as in `config.data`, and those of `Source`."""
        self.split = split
        self._root = root
        self._root_key = root_key
        self._datasets = datasets
        self._options = options
        self._shared: dict[Any, Any] = {}
        self.published_classes: set[str] = set()  # names of classes with their published data

    def published(self, task: Task, stage: str) -> tuple[DescribedSource | None, Missing]:
        """The published datasets of a class, and what is missing of them."""
        names = list(task.published("restore" if self.split == "held_out" else stage)[0])
        if self.split == "held_out":
            names = list(dict.fromkeys(datasets.get(n).tested_on or n for n in names))
        if not names:
            return None, Missing()
        if not self._datasets:
            reason = f"its data are {', '.join(names)}, but config.data.datasets is empty"
            return None, Missing((reason,))
        described, missing = [], {}
        for name in names:
            try:
                folder = dataset_files.locate(name, self._datasets)
                described.append(self._dataset(name, folder, task))
            except dataset_files.DatasetError as error:
                missing[name] = str(error)
        if not described:
            note = f"{', '.join(names)} not found in {self._datasets}"
            return None, Missing(tuple(missing.values()), note)
        self.published_classes.add(task.name)
        note = f"without {', '.join(missing)}" if missing else ""
        data = _concatenate(described)
        return data, Missing((*missing.values(), *data.missing), note)

    def from_text(self, text: str, task: Task) -> DescribedSource:
        """The source of a class from its text in `config.data.sources`."""
        described = _concatenate([self._from_spec(*part, task) for part in spec.parse(text)])
        names = {name for stage in ("pretrain", "restore") for name in task.published(stage)[0]}
        if described.dataset is not None and described.dataset.name in names:
            self.published_classes.add(task.name)
        return described

    def _from_spec(self, kind: str, text: str, task: Task) -> DescribedSource:
        if kind == "photos":
            source = self._photos(listing.images_in(text), ("photos", text))
            return DescribedSource(source, f"photos of {text}")
        if kind == "pairs":
            degraded, clean, rule = spec.parse_pairs(text)
            source = self._pairs(pair_folders(degraded, clean, rule))
            return DescribedSource(source, f"pairs of {degraded} and {clean}")
        if kind == "list":
            file, clean_first = spec.parse_list(text)
            source = self._pairs(pair_list(file, clean_first=clean_first))
            return DescribedSource(source, f"pairs of the list {file}")
        if kind == "tfds":
            from dcpt_jax.data.tfds import TfdsSource

            source = TfdsSource(text, split=self.split, **self._options)
            origin = f"{source.noun}s of the TFDS dataset {text}"
            return DescribedSource(source, origin)
        if kind == "packed":
            from dcpt_jax.data.packed import PackedSource

            source = PackedSource(text, on_bad_file=self._options["on_bad_file"])
            dataset = DATASETS.get(source.dataset)
            origin = f"{source.noun}s packed in {text}"
            return DescribedSource(source, origin, dataset)
        if kind in spec.REGISTERED:
            source = RegisteredSource(kind, text, **self._options)
            origin = f"{source.noun}s of {kind}:{text}"
            return DescribedSource(source, origin)
        return self._dataset(kind, text, task)

    def _dataset(self, name: str, folder: Path | str, task: Task) -> DescribedSource:
        files = dataset_files.find(name, folder, self.split, task=task.name)
        if files.pairing is not None:
            source = self._pairs(files.pairing)
        else:
            source = self._photos(files.photos, (name, str(folder)))
        without = f" without {', '.join(files.missing)}" if files.missing else ""
        origin = f"{source.noun}s of {name} in {folder}{without}"
        missing = tuple(f"{name}: no {part} in {folder}" for part in files.missing)
        is_test_set = self.split == "held_out" and not missing
        return DescribedSource(source, origin, files.dataset, missing, is_test_set)

    def clean_photos(self) -> tuple[PhotoSource, str]:
        """The clean photos for synthetic classes, and their description for people."""
        if self._root:
            paths = listing.images_in(self._root, given_by=self._root_key)
            where = f"photos of {self._root}"
        else:
            paths, where = bundled_photos(self.split), "bundled photos"
        return self._photos(paths, ("root", self._root)), where

    def _photos(self, paths: Sequence[Path], key: Any) -> PhotoSource:
        """A source of photos, shared by all classes with the same `key`."""
        if key not in self._shared:
            self._shared[key] = PhotoSource(paths, **self._options)
        return self._shared[key]

    def _pairs(self, pairing: Pairing) -> PairSource:
        return PairSource(pairing, **self._options)


def _concatenate(described: Sequence[DescribedSource]) -> DescribedSource:
    if len(described) == 1:
        return described[0]
    if len({part.source.is_pairs for part in described}) > 1:
        raise SourceError(
            "the sources of a class must all be pairs, or all clean photos, not both: "
            + ", ".join(part.origin for part in described)
        )
    source = Concatenated([part.source for part in described])
    origin = " + ".join(part.origin for part in described)
    missing = tuple(part for part in described for part in part.missing)
    published = all(part.dataset is not None for part in described)
    dataset = described[0].dataset if published else None
    return DescribedSource(source, origin, dataset, missing)
