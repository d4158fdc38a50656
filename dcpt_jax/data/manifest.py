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
_LARGEST = 2**48  # largest number accepted
_NAMED = 20  # most problems named in a message


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of cutting and storing photos, the same for a whole folder."""

    size: int = 256  # largest height and width of a sub-image
    stride: int = 192  # largest distance between the corners of neighbouring sub-images
    compression: str = "none"  # one of `COMPRESSIONS`
    shard_megabytes: int = 1000  # approximate size of each file


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file of a folder."""

    file: str  # its name in the folder
    records: int  # number of its records
    bytes: int  # its size
    crc32: int  # of the whole file
    inputs: int  # number of photos or pairs in this file and those before it


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Content of a folder of packed sub-images."""

    kind: str  # "photos" or "pairs"
    options: Options
    inputs: int  # number of photos or pairs to pack
    # SHA-256 over their names and their files' sizes and times; a later call compares it
    digest: str
    origin: str  # description of the source, for people
    # (file, reason) of inputs skipped before packing
    left_out: tuple[tuple[str, str], ...] = ()
    shards: tuple[Shard, ...] = ()  # finished files
    # (name, reason) of inputs found unreadable so far
    skipped: tuple[tuple[str, str], ...] = ()
    complete: bool = False  # whether all inputs have been processed
    dataset: str = ""  # name of the public dataset they belong to, "" for others
    task: str = ""  # class selected from a dataset that holds several, "" for others

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
        content["checksum"] = files.crc32_of_json(content)
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
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{folder} holds no {MANIFEST}: it was not written by dcpt_jax.data.pack"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise images.ImageError(
            f"{path} is not a usable manifest ({error}); pack the photos again"
        ) from error


class _Values:
    """Reads checked values from the tables of a manifest, and collects all problems."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def value(
        self, table: Any, where: str, key: str, valid: Callable[[Any], bool], expected: str
    ) -> Any:
        """The value of a key; None, with a problem noted, if it is missing or invalid."""
        if not isinstance(table, dict) or key not in table:
            self.problems.append(f"{where}{key} is missing")
            return None
        if not valid(table[key]):
            text = repr(table[key])
            text = text if len(text) < 80 else f"{text[:80]}..."
            self.problems.append(f"{where}{key} is {text}, but must be {expected}")
            return None
        return table[key]

    def integer(self, table: Any, where: str, key: str, least: int, most: int = _LARGEST) -> int:
        """A whole number in a range."""

        def valid(number: Any) -> bool:
            return type(number) is int and least <= number <= most

        expected = f"an integer from {least} to {most}" if least < most else str(most)
        number = self.value(table, where, key, valid, expected)
        return least if number is None else number

    def text(self, table: Any, where: str, key: str, known: tuple[str, ...] = ()) -> str:
        """A text, one of `known` if given."""

        def valid(text: Any) -> bool:
            return isinstance(text, str) and (not known or text in known)

        expected = " or ".join(map(repr, known)) or "a text"
        return self.value(table, where, key, valid, expected) or ""

    def entries(self, table: Any, key: str) -> tuple[tuple[str, str], ...]:
        """A list of pairs of texts."""

        def valid(rows: Any) -> bool:
            return isinstance(rows, list) and all(
                isinstance(row, list) and len(row) == 2 and all(isinstance(t, str) for t in row)
                for row in rows
            )

        rows = self.value(table, "", key, valid, "a list of [name, reason]")
        return tuple(map(tuple, rows or ()))


def _parse_manifest(content: Any) -> Manifest:
    """A manifest from its JSON values; ValueError that lists all problems."""
    values = _Values()
    value, integer, text = values.value, values.integer, values.text
    text(content, "", "format", (_FORMAT,))
    integer(content, "", "version", _VERSION, _VERSION)
    cut = value(content, "", "options", lambda v: isinstance(v, dict), "a table") or {}
    size = integer(cut, "options.", "size", 1)
    options = Options(
        size,
        integer(cut, "options.", "stride", 1, size),
        text(cut, "options.", "compression", COMPRESSIONS),
        integer(cut, "options.", "shard_megabytes", 1),
    )
    inputs = integer(content, "", "inputs", 0)
    most = _LARGEST if values.problems else inputs
    shards: list[Shard] = []
    rows = value(content, "", "shards", lambda v: isinstance(v, list), "a list") or ()
    for i, row in enumerate(rows):
        where = f"shards[{i}]."
        size = integer(row, where, "bytes", 1)
        shards.append(
            Shard(
                text(row, where, "file", (shard_name(i),)),
                integer(row, where, "records", 1, size),
                size,
                integer(row, where, "crc32", 0, 2**32 - 1),
                integer(row, where, "inputs", shards[-1].inputs if shards else 0, most),
            )
        )
    complete = value(content, "", "complete", lambda v: type(v) is bool, "true or false")
    manifest = Manifest(
        kind=text(content, "", "kind", KINDS),
        options=options,
        inputs=inputs,
        digest=text(content, "", "digest"),
        origin=text(content, "", "origin"),
        left_out=values.entries(content, "left_out"),
        shards=tuple(shards),
        skipped=values.entries(content, "skipped"),
        complete=bool(complete),
        dataset=text(content, "", "dataset"),
        task=text(content, "", "task"),
    )
    if not values.problems:
        integer(content, "", "records", manifest.records, manifest.records)
        crc32 = files.crc32_of_json({k: v for k, v in content.items() if k != "checksum"})
        integer(content, "", "checksum", crc32, crc32)
    if problems := values.problems:
        suffix = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ValueError("; ".join(problems[:_NAMED]) + suffix)
    return manifest
