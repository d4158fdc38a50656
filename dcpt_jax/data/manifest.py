"""`manifest.json` of a folder of packed sub-images: what the folder holds."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcpt_jax import files, images

MANIFEST = "manifest.json"
SUFFIX = ".array_record"
KINDS = ("photos", "pairs")
COMPRESSIONS = ("none", "zstd")
_FORMAT = "dcpt_jax sub-images"
_VERSION = 1
_LARGEST = 2**48  # of the numbers
_NAMED = 20  # wrong values that a message names


@dataclasses.dataclass(frozen=True)
class Options:
    """How photos are cut and written; a folder is written with one set of them."""

    size: int = 256  # largest height and width of a sub-image
    stride: int = 192  # largest distance between the corners of neighbouring sub-images
    compression: str = "none"  # one of `COMPRESSIONS`
    shard_megabytes: int = 1000  # size at which a file is closed and the next one started


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file of a folder."""

    file: str  # its name in the folder
    records: int  # number of its records
    bytes: int  # its size
    crc32: int  # of the whole file
    inputs: int  # number of photos or pairs that are in it and the files before it


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a folder of packed sub-images holds."""

    kind: str  # "photos" or "pairs"
    options: Options  # with which they were cut and written
    inputs: int  # number of photos or pairs to go through
    # SHA-256 of their names and of their files' sizes and times, which tells whether a second call
    # is for the same ones
    digest: str
    origin: str  # where they come from, for people
    # (file, reason) of those that were left out before packing
    left_out: tuple[tuple[str, str], ...] = ()
    shards: tuple[Shard, ...] = ()  # finished files
    # (name, reason) of inputs that could not be read so far
    skipped: tuple[tuple[str, str], ...] = ()
    complete: bool = False  # True when all inputs have been gone through
    dataset: str = ""  # name of the public dataset they belong to, "" for others
    task: str = ""  # class that was taken of a dataset that holds several, "" for others

    @property
    def records(self) -> int:
        """Number of sub-images."""
        return sum(shard.records for shard in self.shards)

    @property
    def done(self) -> int:
        """Number of inputs whose sub-images are in finished files."""
        return self.shards[-1].inputs if self.shards else 0

    def write(self, folder: Path) -> None:
        """Writes `manifest.json` atomically."""
        content = {"format": _FORMAT, "version": _VERSION, "records": self.records}
        content |= dataclasses.asdict(self)
        files.write_json(folder / MANIFEST, content, indent=1)


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"part-{number:05d}{SUFFIX}"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder."""
    path = folder / MANIFEST
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a regular file")
        return _parse_manifest(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} holds no {MANIFEST}: it was not written by dcpt_jax.data.pack"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise images.ImageError(
            f"{path} is not a usable manifest ({error}); pack the photos again"
        ) from error


def _parse_manifest(content: Any) -> Manifest:
    """A manifest from its JSON values; ValueError that names all that are wrong."""
    problems: list[str] = []

    def value(table: Any, where: str, key: str, valid: Callable[[Any], bool], expected: str) -> Any:
        if not isinstance(table, dict) or key not in table:
            problems.append(f"{where}{key} is missing")
        elif not valid(table[key]):
            shown = repr(table[key])
            shown = shown if len(shown) < 80 else f"{shown[:80]}..."
            problems.append(f"{where}{key} is {shown}, but must be {expected}")
        else:
            return table[key]
        return None

    def whole(table: Any, where: str, key: str, least: int, most: int = _LARGEST) -> int:
        def valid(number: Any) -> bool:
            return type(number) is int and least <= number <= most

        found = value(table, where, key, valid, f"a whole number from {least} to {most}")
        return least if found is None else found

    def text(table: Any, where: str, key: str, known: tuple[str, ...] = ()) -> str:
        def valid(text: Any) -> bool:
            return isinstance(text, str) and (not known or text in known)

        expected = " or ".join(map(repr, known)) or "a text"
        return value(table, where, key, valid, expected) or ""

    def entries(key: str) -> tuple[tuple[str, str], ...]:
        def valid(rows: Any) -> bool:
            return isinstance(rows, list) and all(
                isinstance(row, list) and len(row) == 2 and all(isinstance(t, str) for t in row)
                for row in rows
            )

        return tuple(map(tuple, value(content, "", key, valid, "a list of [name, reason]") or ()))

    text(content, "", "format", (_FORMAT,))
    whole(content, "", "version", _VERSION, _VERSION)
    cut = value(content, "", "options", lambda found: isinstance(found, dict), "a table") or {}
    size = whole(cut, "options.", "size", 1)
    options = Options(
        size,
        whole(cut, "options.", "stride", 1, size),
        text(cut, "options.", "compression", COMPRESSIONS),
        whole(cut, "options.", "shard_megabytes", 1),
    )
    inputs = whole(content, "", "inputs", 0)
    most = _LARGEST if problems else inputs
    shards: list[Shard] = []
    rows = value(content, "", "shards", lambda found: isinstance(found, list), "a list") or ()
    for i, row in enumerate(rows):
        where = f"shards[{i}]."
        size = whole(row, where, "bytes", 1)
        shards.append(
            Shard(
                text(row, where, "file", (shard_name(i),)),
                whole(row, where, "records", 1, size),
                size,
                whole(row, where, "crc32", 0, 2**32 - 1),
                whole(row, where, "inputs", shards[-1].inputs if shards else 0, most),
            )
        )
    manifest = Manifest(
        kind=text(content, "", "kind", KINDS),
        options=options,
        inputs=inputs,
        digest=text(content, "", "digest"),
        origin=text(content, "", "origin"),
        left_out=entries("left_out"),
        shards=tuple(shards),
        skipped=entries("skipped"),
        complete=bool(
            value(content, "", "complete", lambda found: type(found) is bool, "true or false")
        ),
        dataset=text(content, "", "dataset"),
        task=text(content, "", "task"),
    )
    if not problems:
        whole(content, "", "records", manifest.records, manifest.records)
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ValueError("; ".join(problems[:_NAMED]) + more)
    return manifest
