"""Finds the files of public datasets in the folders to which users unpacked them.

Nothing is downloaded. Folder names are matched case-insensitively; an exact match takes precedence.
"""

import dataclasses
import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dcpt_jax.data import pair_files
from dcpt_jax.data.datasets import Dataset, Folders, get
from dcpt_jax.data.pair_files import Pairing
from dcpt_jax.data.spec import SourceError
from dcpt_jax.images import listing
from dcpt_jax.images.listing import FileList


@dataclasses.dataclass(frozen=True)
class DatasetFiles:
    """The files found of one split of a dataset."""

    dataset: Dataset
    split: str  # "train" or "held_out"
    pairing: Pairing | None  # its pairs, or None for clean photos
    photos: FileList | None  # its clean photos, or None for pairs
    # The missing parts, each as the first of its alternative layouts
    missing: tuple[str, ...] = ()


class DatasetError(FileNotFoundError):
    """A dataset was not found; the message says what was expected and what was found."""


# CDD-11's names of the single degradations, in the order used by its folder names.
_CDD11_WORDS = {"low_light": "low", "haze": "haze", "rain": "rain", "snow": "snow"}


def locate(name: str, root: Path | str) -> Path:
    """The folder of a dataset below the folder of all datasets."""
    dataset = get(name)
    for candidate in (dataset.name, dataset.title, *dataset.folders):
        for path, _ in _matching(Path(root), candidate):
            return path
    known = ", ".join(dict.fromkeys((dataset.name, dataset.title, *dataset.folders)))
    raise DatasetError(
        f"{dataset.title} is not in {root}: {_content(Path(root))}; looked for {known}"
    )


def find(name: str, folder: Path | str, split: str, *, task: str = "") -> DatasetFiles:
    """The files of one split of a dataset.

    Raises:
        DatasetError: if nothing is found; says which folders were expected and what was found.
        ValueError: for an unknown name or split.
    """
    dataset, folder = get(name), Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{dataset.title}: no such folder: {folder}")
    files, missing, reasons = [], [], []
    for part in dataset.split(split):
        part_reasons: list[str] = []
        part_files = next(filter(None, (_open(folder, f, task, part_reasons) for f in part)), None)
        if part_files is None:
            missing.append(str(part[0]))
            reasons += part_reasons
        else:
            files.append(part_files)
    if not files:
        raise DatasetError(
            f"{dataset.title} has no {split.replace('_', '-')} data in {folder}: "
            f"{_content(folder)}. Expected: {dataset.tree(split, cdd11_folder(task))}"
            + "".join(f"; {reason}" for reason in dict.fromkeys(reasons))
        )
    if isinstance(files[0], Pairing):
        return DatasetFiles(dataset, split, pair_files.concatenate(files), None, tuple(missing))
    return DatasetFiles(dataset, split, None, listing.concatenate(files), tuple(missing))


def cdd11_folder(task: str) -> str:
    """CDD-11's folder of a class: "low_haze_rain" for "low_light+rain+haze"; "" if it has none."""
    parts = re.sub(r":[^+]*", "", task).split("+")
    if not _CDD11_WORDS.keys() >= set(parts):
        return ""
    return "_".join(word for name, word in _CDD11_WORDS.items() if name in parts)


def _open(
    folder: Path, folders: Folders, task: str, reasons: list[str]
) -> Pairing | FileList | None:
    """The files in one layout, or None; if its folders exist, adds the reason to `reasons`."""
    if "{kind}" in folders.degraded:
        kind = cdd11_folder(task)
        if not kind:
            reasons.append(f"it has no class {task!r}")
            return None
        folders = dataclasses.replace(folders, degraded=folders.degraded.format(kind=kind))
    if not folders.degraded:
        folders_found = [path for path, _ in _matching(folder, folders.clean)]
        photos = [_photos_in(path, folders) for path in folders_found]
        photos = [files for files in photos if files]
        return listing.concatenate(photos) if photos else None
    pairings = []
    for degraded, names in _matching(folder, folders.degraded):
        for clean, _ in _matching(folder, _filled(folders.clean, names)):
            try:
                pairing = pair_files.pair_folders(
                    degraded, clean, folders.rule, border=folders.border, deep=folders.deep
                )
            except (SourceError, OSError) as error:
                reasons.append(str(error))
            else:
                pairings.append(pairing)
            break
    return pair_files.concatenate(pairings) if pairings else None


def _photos_in(folder: Path, folders: Folders) -> FileList:
    files = listing.list_images(folder, deep=folders.deep)
    if not folders.without:
        return files
    unwanted = re.compile("|".join(map(fnmatch.translate, folders.without)))
    keep = [
        i
        for i, name in enumerate(files.names())
        if not any(map(unwanted.match, name.lower().split("/")[:-1]))
    ]
    return files.take(keep)


def _filled(pattern: str, names: tuple[str, ...]) -> str:
    for name in names:
        pattern = pattern.replace("*", name, 1)
    return pattern


def _matching(folder: Path, pattern: str) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Folders that match a pattern, in order, and the names matched by its "*"."""
    first, _, rest = pattern.strip("/").partition("/")
    if first in ("", "."):
        if folder.is_dir():
            yield folder, ()
        return
    if first == "*":
        for name in _folders_in(folder):
            for path, names in _matching(folder / name, rest):
                yield path, (name, *names)
        return
    known = [name for name in _folders_in(folder) if name.lower() == first.lower()]
    for name in sorted(known, key=lambda name: name != first):
        matches = list(_matching(folder / name, rest))
        yield from matches
        if matches and name == first:
            return  # the exact match; other spellings of it are ignored


def _folders_in(folder: Path) -> list[str]:
    """Names of the sub-folders; [] if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (e.name for e in entries if not e.name.startswith(".") and e.is_dir()),
            )
    except OSError:
        return []


def _content(folder: Path) -> str:
    """The sub-folders of a folder, for messages."""
    if not folder.is_dir():
        return "there is no such folder"
    names = _folders_in(folder)
    if not names:
        return "it holds no folders"
    return (
        "it holds " + ", ".join(names[:12]) + (f" and {len(names) - 12} more" * (len(names) > 12))
    )
