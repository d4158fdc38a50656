"""Sub-images in ArrayRecord files: the record format and the manifest.

`python -m dcpt_jax.data.pack` writes such files. A record is one sub-image, or the same part of
both photos of a pair, as plain pixels behind a short header, so reading it is copying it: 0.07 ms
for 256x256 pixels against 1.5 ms if it were a PNG, and 30 ms for the PNG of a megapixel of which a
crop uses a fiftieth.

A folder of packed sub-images holds `part-00000.array_record`, ... and `manifest.json`. ArrayRecord
keeps a 64-bit hash of each record and compares it at each read, so a damaged record is told from
the others and counts as a bad file; the manifest has sizes and CRC-32 of whole files.
"""

import dataclasses
import json
import struct
import typing
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dcpt_jax import extras, files, images

MANIFEST = "manifest.json"
SUFFIX = ".array_record"
KINDS = ("photos", "pairs")

_FORMAT = "dcpt_jax sub-images"
_VERSION = 1
# Magic, version, images (1, or 2: degraded, clean), bits of each, height, width, top, left, bytes
# of the name. The name follows in UTF-8, then zeros up to a multiple of eight, then the pixels.
_HEADER = struct.Struct("<4sBBBBIIIIH")
_MAGIC = b"dcpt"


class Record(NamedTuple):
    """One sub-image, or a pair of them.

    Attributes:
        name: of the photo or pair that it is a part of.
        top: first row in that photo.
        left: first column.
        images: (photo,) or (degraded, clean), uint8 or uint16 [h, w, 3] each.
    """

    name: str
    top: int
    left: int
    images: tuple[np.ndarray, ...]


def encode(record: Record) -> bytes:
    """The bytes of a record."""
    h, w, _ = record.images[0].shape
    bits = [8 * pixels.itemsize for pixels in record.images]
    name = record.name.encode("utf-8", "backslashreplace")[:65535]
    header = _HEADER.pack(
        *(_MAGIC, _VERSION, len(bits), bits[0], bits[-1]),
        *(h, w, record.top, record.left, len(name)),
    )
    length = len(header) + len(name)
    pixels = (image.astype(image.dtype.newbyteorder("<")).tobytes() for image in record.images)
    return b"".join((header, name, bytes(-length % 8), *pixels))


def decode(data: bytes) -> Record:
    """A record from its bytes, without copying the pixels; they are read-only.

    Raises:
        ImageError: if this is no record of this format.
    """
    if len(data) < _HEADER.size or data[: len(_MAGIC)] != _MAGIC:
        raise images.ImageError("it is no sub-image written by dcpt_jax.data.pack")
    _, version, count, *bits, h, w, top, left, length = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise images.ImageError(f"its format is number {version}, but {_VERSION} is read here")
    pixels = [h * w * 3 * each // 8 for each in bits[:count]]
    start = _HEADER.size + length
    whole = start + -start % 8 + sum(pixels) == len(data)
    if count not in (1, 2) or not {*bits} <= {8, 16} or not h * w or not whole:
        raise images.ImageError("its header does not fit its content")
    name = data[_HEADER.size : start].decode("utf-8", "replace")
    start += -start % 8
    found = []
    for each in bits[:count]:
        found.append(np.frombuffer(data, f"<u{each // 8}", h * w * 3, start).reshape(h, w, 3))
        start += found[-1].nbytes
    return Record(name, top, left, tuple(found))


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file of a folder.

    Attributes:
        file: its name in the folder.
        records: number of its records.
        bytes: its size.
        crc32: of the whole file.
        inputs: photos or pairs up to whose number (not included) it and those before it reach.
    """

    file: str
    records: int
    bytes: int
    crc32: int
    inputs: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a folder of packed sub-images holds.

    Attributes:
        kind: "photos" or "pairs".
        options: with which they were cut and written.
        inputs: number of photos or pairs to go through.
        digest: SHA-256 of their names and of their files' sizes and times, which tells whether a
            second call is for the same.
        origin: where they came from, for people.
        left_out: (file, reason) of those that were left out before.
        shards: finished files.
        skipped: (name, reason) of inputs that could not be read so far.
        complete: True when all inputs were gone through.
        dataset: name of the public data set that they are of, "" for others.
        task: class that was taken of a data set that holds several, "" for others.
    """

    kind: str
    options: dict[str, Any]
    inputs: int
    digest: str
    origin: str
    left_out: tuple[tuple[str, str], ...] = ()
    shards: tuple[Shard, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    complete: bool = False
    dataset: str = ""
    task: str = ""

    @property
    def records(self) -> int:
        """Number of sub-images."""
        return sum(shard.records for shard in self.shards)

    @property
    def done(self) -> int:
        """Number of inputs whose sub-images are in finished files."""
        return self.shards[-1].inputs if self.shards else 0

    def write(self, folder: Path) -> None:
        """Writes `manifest.json`; it is replaced whole or not at all."""
        text = {"format": _FORMAT, "version": _VERSION, "records": self.records}
        text |= dataclasses.asdict(self)
        files.write_json(folder / MANIFEST, text, indent=1)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        FileNotFoundError: if there is none.
        ImageError: if it cannot be used.
    """
    path = folder / MANIFEST
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
        if text.pop("format") != _FORMAT or text.pop("version") != _VERSION:
            raise ValueError("another format")
        text.pop("records")
        text["shards"] = tuple(Shard(**shard) for shard in text["shards"])
        for key in ("left_out", "skipped"):
            text[key] = tuple((str(name), str(reason)) for name, reason in text[key])
        manifest = Manifest(**text)
        for one in (manifest, *manifest.shards):
            _check_fields(one)
        if manifest.kind not in KINDS:
            raise ValueError(f"kind is {manifest.kind!r}")
        if type(manifest.options["size"]) is not int:
            raise ValueError(f"size is {manifest.options['size']!r}")
        return manifest
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} holds no {MANIFEST}: it is no folder written by dcpt_jax.data.pack"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise images.ImageError(
            f"{path} is no manifest that is read here ({error}); pack the photos again"
        ) from error


def _check_fields(one: Manifest | Shard) -> None:
    """Raises ValueError for a value of another type than its field's, or a number below 0."""
    for field in dataclasses.fields(one):
        value = getattr(one, field.name)
        expected = typing.get_origin(field.type) or field.type
        if type(value) is not expected or (expected is int and value < 0):
            raise ValueError(f"{field.name} is {value!r}")


def open_array_record(path: Path) -> Any:
    """A reader of single records; it may be used by several threads.

    Raises:
        ImageError: if this is no complete ArrayRecord file.
    """
    with extras.needed("train", "reading packed data"):
        from array_record.python import array_record_module

    # By default it reads ahead, which is right for reading in order only.
    reader = array_record_module.ArrayRecordReader(
        str(path), "readahead_buffer_size:0,max_parallelism:0"
    )
    if not reader.ok() or not reader.num_records():  # it opens anything without complaint
        raise images.ImageError(f"{path} is missing, or no complete ArrayRecord file")
    return reader


def size_error(folder: Path, shard: Shard) -> str | None:
    """What is wrong with a file as seen from outside, or None."""
    path = folder / shard.file
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path}: {error.strerror}"
    if size != shard.bytes:
        return f"{path} has {size} bytes, but {shard.bytes} were written"
    return None


def file_crc32(path: Path) -> int:
    """CRC-32 of a file's content."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc
