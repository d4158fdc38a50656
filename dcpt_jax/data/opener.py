"""Single sources of data: opening what `config.data.sources` names, and public data sets."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcpt_jax.data import datasets as public
from dcpt_jax.data import listing, pairs, sources
from dcpt_jax.data.classes import TrainingClass, synthetic_origin
from dcpt_jax.data.decoded import DecodedCache
from dcpt_jax.data.pair_source import PairSource
from dcpt_jax.data.tasks import Task

KINDS = ("photos", "pairs", "list", "tfds", "packed")
_FORMS = (
    "photos:DIR, pairs:DEGRADED_DIR,CLEAN_DIR[,RULE], list:FILE, tfds:NAME[/CONFIG][:SPLIT], "
    "packed:DIR, or DATASET:DIR with one of "
)


class SourceError(ValueError):
    """A source of data that cannot be opened; the message names the class, the key and why."""


@dataclasses.dataclass(frozen=True)
class Opened:
    """A source that was opened.

    Attributes:
        source: its items.
        what: what they are, for people: "pairs of rain100l in DIR".
        is_pairs: False for clean photos.
        dataset: the public data set it is of, or None.
        missing: parts of the data set that are not there.
        is_test_set: whether it is all of the data set's own test data.
    """

    source: Any
    what: str
    is_pairs: bool
    dataset: public.Dataset | None = None
    missing: tuple[str, ...] = ()
    is_test_set: bool = False


@dataclasses.dataclass(frozen=True)
class Missing:
    """What of a class's published data is not there.

    Attributes:
        reasons: one for each data set, with what was looked for.
        note: in a few words; "" for nothing.
    """

    reasons: tuple[str, ...] = ()
    note: str = ""


def parse_sources(text: str) -> list[tuple[str, str]]:
    """Splits the text of a source into (kind, rest); checks the form and opens nothing.

    Args:
        text: one of these, or several joined by ";":
            photos:DIR: clean photos, to which the class's synthetic degradation is applied.
            pairs:DEGRADED_DIR,CLEAN_DIR[,RULE]: pairs in two folders, see `data.pairs` for rules.
            list:FILE: pairs named in a text file, see `pairs.pair_list`.
            tfds:NAME[/CONFIG][:SPLIT]: a TFDS set in ArrayRecord files, see `data.tfds_source`.
            packed:DIR: what `data.pack` has written.
            DATASET:DIR: a public data set in the folder given, see `data.datasets`.

    Raises:
        SourceError: for a text of another form.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        kind, colon, rest = part.partition(":")
        if not colon or not rest or kind not in (*KINDS, *public.DATASETS):
            raise SourceError(
                f"{part!r} is no source of data; known: {_FORMS}{', '.join(public.DATASETS)}; "
                "several joined by ;"
            )
        if kind == "pairs":
            try:
                _pairs_arguments(rest)
            except pairs.PairError as error:
                raise SourceError(str(error)) from error
        found.append((kind, rest))
    if not found:
        raise SourceError(f"{text!r} names no source of data")
    return found


def open_source(
    text: str,
    *,
    task: str = "",
    split: str = "train",
    on_bad_file: str = "skip",
    cache_megabytes: DecodedCache | float = 512,
) -> Opened:
    """Opens a source of data by its text, without a run.

    Args:
        text: as `config.data.sources` takes it.
        task: class that is wanted of data sets that hold several.
        split: "train" or "held_out", where the source has several.
        on_bad_file: "skip" or "refuse".
        cache_megabytes: of decoded photos kept in memory.

    Raises:
        SourceError: for a text of another form, or a source that cannot be opened.
        FileNotFoundError: if a file or folder is missing.
        ImageError: if nothing in it can be read.
    """
    opener = Opener(split, on_bad_file=on_bad_file, cache_megabytes=cache_megabytes)
    return opener.stated(text, Task(task, "noise"))


class Opener:
    """Opens sources for one run: one cache for all, and every folder of photos once."""

    def __init__(self, split: str, *, root: str = "", datasets: str = "", **options: Any):
        """Opens nothing yet.

        Args:
            split: "train" or "held_out".
            root: folder of clean photos; "" = bundled ones.
            datasets: folder of public data sets; "" = none.
            **options: of all sources, see `PhotoSource`.
        """
        self.split = split
        self._root = root
        self._datasets = datasets
        self._options = options
        self._shared: dict[Any, Any] = {}
        self.from_data_set: dict[str, public.Dataset] = {}

    def training_class(self, task: Task, opened: Opened | None, missing: Missing) -> TrainingClass:
        """The class made of what was opened, or of clean photos where nothing was."""
        note = f" ({missing.note})" if missing.note else ""
        if opened is None:
            photos, where = self._clean_photos()
            origin = synthetic_origin(task, f"{len(photos)} {where}") + note
            return TrainingClass(task, photos, origin, is_synthetic=True)
        test_set = opened.dataset.name if opened.is_test_set else ""
        if opened.is_pairs:
            what = opened.what + note
            return TrainingClass(task, opened.source, what, is_synthetic=False, test_set=test_set)
        fixed = opened.dataset.degradation if opened.dataset is not None else ""
        # That of a class as such; "noise:15" asks for a strength of its own.
        if self.split == "held_out" and fixed.partition(":")[0] == task.name:
            task = dataclasses.replace(task, degradation=fixed)
        origin = synthetic_origin(task, f"{len(opened.source)} {opened.what}") + note
        test_set = test_set and f"{test_set} {task.degradation}"
        return TrainingClass(task, opened.source, origin, is_synthetic=True, test_set=test_set)

    def published(self, task: Task, stage: str) -> tuple[Opened | None, Missing]:
        """The data of the class's data sets, and what of them is missing."""
        names = list(task.published("restore" if self.split == "held_out" else stage)[0])
        if self.split == "held_out":
            names = list(dict.fromkeys(public.get(n).tested_on or n for n in names))
        if not names:
            return None, Missing()
        if not self._datasets:
            reason = f"its data are {', '.join(names)}, but config.data.datasets is empty"
            return None, Missing((reason,))
        found, missing = [], {}
        for name in names:
            try:
                folder = public.locate(name, self._datasets)
                found.append(self._dataset(name, folder, task))
            except public.DatasetError as error:
                missing[name] = str(error)
        if not found:
            note = f"{', '.join(names)} not found in {self._datasets}"
            return None, Missing(tuple(missing.values()), note)
        self.from_data_set[task.name] = found[0].dataset
        note = f"without {', '.join(missing)}" if missing else ""
        opened = _joined(found)
        return opened, Missing((*missing.values(), *opened.missing), note)

    def stated(self, text: str, task: Task) -> Opened:
        """What `config.data.sources` says of a class."""
        opened = _joined([self._source(kind, rest, task) for kind, rest in parse_sources(text)])
        names = {name for stage in ("pretrain", "restore") for name in task.published(stage)[0]}
        if opened.dataset is not None and opened.dataset.name in names:
            self.from_data_set[task.name] = opened.dataset
        return opened

    def _source(self, kind: str, rest: str, task: Task) -> Opened:
        if kind == "photos":
            try:
                paths = listing.list_files(rest)
            except NotADirectoryError as error:
                raise SourceError(str(error)) from error
            if not paths:
                raise SourceError(f"no images in the folder {rest}")
            return Opened(self._photos(paths, ("photos", rest)), f"photos of {rest}", False)
        if kind == "pairs":
            degraded, clean, rule = _pairs_arguments(rest)
            try:
                pairing = pairs.pair_folders(degraded, clean, rule)
            except pairs.PairError as error:
                raise SourceError(str(error)) from error
            return Opened(self._pairs(pairing), f"pairs of {degraded} and {clean}", True)
        if kind == "list":
            try:
                pairing = pairs.pair_list(rest)
            except pairs.PairError as error:
                raise SourceError(str(error)) from error
            return Opened(self._pairs(pairing), f"pairs of the list {rest}", True)
        if kind == "tfds":
            from dcpt_jax.data.tfds_source import TfdsSource

            source = TfdsSource(rest, split=self.split, **self._options)
            return Opened(source, f"{source.noun}s of the TFDS set {rest}", source.is_pairs)
        if kind == "packed":
            from dcpt_jax.data.packed_source import PackedSource

            source = PackedSource(rest, on_bad_file=self._options["on_bad_file"])
            dataset = public.DATASETS.get(source.dataset)
            return Opened(source, f"{source.noun}s packed in {rest}", source.is_pairs, dataset)
        return self._dataset(kind, rest, task)

    def _dataset(self, name: str, folder: Path | str, task: Task) -> Opened:
        found = public.find(name, folder, self.split, task=task.name)
        is_pairs = found.pairing is not None
        if is_pairs:
            source = self._pairs(found.pairing)
        else:
            source = self._photos(found.photos, (name, str(folder)))
        without = f" without {', '.join(found.missing)}" if found.missing else ""
        what = f"{source.noun}s of {name} in {folder}{without}"
        missing = tuple(f"{name}: no {part} in {folder}" for part in found.missing)
        is_test_set = self.split == "held_out" and not missing
        return Opened(source, what, is_pairs, found.dataset, missing, is_test_set)

    def _clean_photos(self) -> tuple[sources.PhotoSource, str]:
        if self._root:
            paths, where = sources.folder_photos(self._root), f"photos of {self._root}"
        else:
            paths, where = sources.bundled_photos(self.split), "bundled photos"
        return self._photos(paths, ("root", self._root)), where

    def _photos(self, paths: Sequence[Path], key: Any) -> sources.PhotoSource:
        """A source of photos, the same one for all classes made of them."""
        if key not in self._shared:
            self._shared[key] = sources.PhotoSource(paths, **self._options)
        return self._shared[key]

    def _pairs(self, pairing: pairs.Pairing) -> PairSource:
        return PairSource(pairing, **self._options)


def _joined(found: Sequence[Opened]) -> Opened:
    if len(found) == 1:
        return found[0]
    if len({one.is_pairs for one in found}) > 1:
        raise SourceError(
            "a class is made either of pairs or of clean photos, not of both: "
            + ", ".join(one.what for one in found)
        )
    source = sources.Concatenated([one.source for one in found])
    what = " + ".join(one.what for one in found)
    missing = tuple(part for one in found for part in one.missing)
    published = all(one.dataset is not None for one in found)
    dataset = found[0].dataset if published else None
    return Opened(source, what, found[0].is_pairs, dataset, missing)


def _pairs_arguments(text: str) -> tuple[str, str, str]:
    """(degraded folder, clean folder, rule) of a text such as "A,B,reside"."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 3) or not all(parts):
        raise pairs.PairError(
            f"pairs:{text} has to name two folders and perhaps a rule: "
            f"pairs:DEGRADED_DIR,CLEAN_DIR[,RULE]; rules: {pairs.RULES}"
        )
    rule = parts[2] if len(parts) == 3 else "same"
    pairs.parse_rule(rule)
    return parts[0], parts[1], rule
