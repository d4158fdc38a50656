"""Packed sub-images in ArrayRecord files: the record format, reading and verifying.

`python -m dcpt_jax.data.pack` writes such files. A record is one sub-image, or the same region of
both photos of a pair: a short header and the raw pixels. Reading one of 256x256 pixels takes
0.07 ms. Decoding it as a PNG would take 1.5 ms, and decoding a whole megapixel PNG takes 30 ms.

A folder holds `part-00000.array_record`, ... and `manifest.json`. ArrayRecord verifies a 64-bit
hash at each read, so a damaged record counts as a bad file. The manifest has the sizes and CRC-32
of whole files, and a checksum of itself.
"""

import collections
import functools
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dcpt_jax import extras, files, images
from dcpt_jax.data import sources
from dcpt_jax.data.manifest import MANIFEST, Shard, read_manifest
from dcpt_jax.data.sources import Pair, Source, SourceReport

_VERSION = 1
# Magic, version, number of images (1, or 2: degraded, clean), bits of each, height, width, top,
# left, bytes of the name. Then the name in UTF-8, zeros up to a multiple of eight, and the pixels.
_HEADER = struct.Struct("<4sBBBBIIIIH")
_MAGIC = b"dcpt"
_FILES_OPEN = 64  # most open files per source


class Record(NamedTuple):
    """One sub-image, or a pair of them."""

    name: str  # name of the whole photo or pair
    top: int  # first row in the photo
    left: int  # first column
    images: tuple[np.ndarray, ...]  # (photo,) or (degraded, clean), uint8 or uint16 [h, w, 3] each


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
    """A record from its bytes, without copying the pixels; they are read-only."""
    if len(data) < _HEADER.size or data[: len(_MAGIC)] != _MAGIC:
        raise images.ImageError("not a sub-image written by dcpt_jax.data.pack")
    _, version, count, *bits, h, w, top, left, length = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise images.ImageError(f"its format is number {version}, but {_VERSION} is read here")
    pixels = [h * w * 3 * each // 8 for each in bits[:count]]
    start = _HEADER.size + length
    is_complete = start + -start % 8 + sum(pixels) == len(data)
    if count not in (1, 2) or not {*bits} <= {8, 16} or not h * w or not is_complete:
        raise images.ImageError("its header does not fit its content")
    name = data[_HEADER.size : start].decode("utf-8", "replace")
    start += -start % 8
    arrays = []
    for each in bits[:count]:
        arrays.append(np.frombuffer(data, f"<u{each // 8}", h * w * 3, start).reshape(h, w, 3))
        start += arrays[-1].nbytes
    return Record(name, top, left, tuple(arrays))


def open_array_record(path: Path) -> Any:
    """Opens a file for random access, also from several threads."""
    with extras.needed("train", "reading packed data"):
        from array_record.python import array_record_module

    # No read-ahead, which helps sequential reading only.
    reader = array_record_module.ArrayRecordReader(
        str(path), "readahead_buffer_size:0,max_parallelism:0"
    )
    if not reader.ok() or not reader.num_records():  # it opens any file without an error
        raise images.ImageError(f"{path} is missing, or not a complete ArrayRecord file")
    return reader


def size_error(folder: Path, shard: Shard) -> str | None:
    """A message if a file is missing or has the wrong size, else None."""
    path = folder / shard.file
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path}: {error.strerror}"
    if size != shard.bytes:
        return f"{path} has {size} bytes, but {shard.bytes} were written"
    return None


class PackedSource(Source):
    """Packed sub-images by index: photos uint8 or uint16 [h, w, 3], or `Pair`s of them; read-only.

    Attributes, besides those of `Source`:
        dataset: name of the public dataset that was packed, "" for others.
        size: largest height and width of a sub-image.
        files: files whose name, size and time identify the content, for the digest of `pack`.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        on_bad_file: str = "skip",
    ):
        """Opens a folder written by `dcpt_jax.data.pack` and checks the sizes of its files.

        Args:
            folder: the folder with the manifest, or the manifest itself.
            on_bad_file: "skip" skips damaged records, and files that are missing or have the wrong
                size; "refuse" stops at the first.

        Raises:
            FileNotFoundError: if there is no manifest.
            ImageError: if packing is not finished, if all files are bad, or for the first bad file
                if `on_bad_file` is "refuse".
        """
        super().__init__(on_bad_file=on_bad_file, cache=0)
        folder = Path(folder)
        self.folder = folder.parent if folder.name == MANIFEST else folder
        manifest = read_manifest(self.folder)
        if not manifest.complete:
            raise images.ImageError(
                f"{self.folder} is not finished: {manifest.done} of {manifest.inputs} "
                f"{manifest.kind} are packed; the same call of dcpt_jax.data.pack continues"
            )
        self.is_pairs = manifest.kind == "pairs"
        self.dataset = manifest.dataset
        self.size = manifest.options.size
        self.files = (self.folder / MANIFEST,)
        used, skipped = [], []
        for shard in manifest.shards:
            reason = size_error(self.folder, shard)
            if reason and on_bad_file == "refuse":
                raise sources.refused(images.ImageError(reason))
            if reason:
                skipped.append((self.folder / shard.file, reason))
            else:
                used.append(shard)
        sources.warn_of_each([reason for _, reason in skipped], "file")
        self._files = [shard.file for shard in used]
        self._ends = np.cumsum([shard.records for shard in used]) if used else np.zeros(0, int)
        count = manifest.inputs - len(manifest.skipped)
        self.report = SourceReport(
            f"{len(self)} sub-images of {count} {manifest.kind}",
            manifest.records,
            tuple(skipped),
            f"{manifest.records - len(self)} in {len(skipped)} damaged files left out",
        )
        if not len(self):
            reason = skipped[0][1] if skipped else "nothing was packed"
            raise images.ImageError(f"no sub-image in {self.folder} can be read: {reason}")
        self._start_readers()

    @property
    def noun(self) -> str:
        """What an item is, for people."""
        return "sub-image"

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the sub-images: file and number of the record."""
        return tuple("{}-{:06d}".format(*self._position(i)) for i in range(len(self)))

    def __len__(self) -> int:
        """Number of sub-images in use."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def describe(self, index: int) -> str:
        """File and number of a record, and the photo it comes from."""
        file, number = self._position(index)
        text = f"record {number} of {self.folder / file}"
        try:
            record = self.record(index)
        except images.ImageError:
            return text
        return f"{record.name} at row {record.top}, column {record.left} ({text})"

    def record(self, index: int) -> Record:
        """The sub-image with this index, and its origin."""
        file, number = self._position(index)
        try:
            (data,) = self._reader(file).read([number])
            record = decode(data)
            if len(record.images) != 1 + self.is_pairs:
                raise images.ImageError("its kind differs from that in the manifest")
            return record
        except Exception as error:  # the library raises RuntimeError, IndexError and others
            first = (str(error) or type(error).__name__).partition("; ")[0]
            raise images.ImageError(
                f"record {number} of {self.folder / file} cannot be read: {first}"
            ) from error

    def _decode(self, index: int) -> np.ndarray | Pair:
        arrays = self.record(index).images
        return Pair(*arrays) if self.is_pairs else arrays[0]

    def _position(self, index: int) -> tuple[str, int]:
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self._files[which], int(index - (self._ends[which - 1] if which else 0))

    def _reader(self, file: str) -> Any:
        """The open file; the least recently used ones are closed if there are too many."""
        with self._readers_lock:
            if file in self._readers:
                self._readers.move_to_end(file)
                return self._readers[file]
            reader = open_array_record(self.folder / file)
            self._readers[file] = reader
            if len(self._readers) > _FILES_OPEN:
                self._readers.popitem(last=False)  # closed once no thread uses it
            return reader

    def _start_readers(self) -> None:
        self._readers: collections.OrderedDict[str, Any] = collections.OrderedDict()
        self._readers_lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the open files."""
        left_out = ("_readers", "_readers_lock")
        return {key: value for key, value in vars(self).items() if key not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the settings, with no file open."""
        vars(self).update(state)
        self._start_readers()


def verify(
    folder: Path | str, *, progress: Callable[[int], None] = lambda count: None
) -> list[str]:
    """Compares the checksums of all files of a packed folder.

    Returns:
        A message for each problem.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    problems = []
    if not manifest.complete:
        problems.append(f"not finished: {manifest.done} of {manifest.inputs} {manifest.kind}")
    count = {"photos": 1, "pairs": 2}[manifest.kind]
    for shard in manifest.shards:
        path = folder / shard.file
        if reason := size_error(folder, shard):
            problems.append(reason)
            continue
        if files.crc32_of(path) == shard.crc32:
            progress(shard.records)
            continue
        problems.append(f"{path}: the checksum of the file is wrong")
        problems.extend(_damaged_records(path, shard, count))
        progress(shard.records)
    return problems


def _damaged_records(path: Path, shard: Shard, count: int) -> Iterator[str]:
    try:
        reader = open_array_record(path)
    except (images.ImageError, RuntimeError) as error:
        yield str(error)
        return
    if reader.num_records() != shard.records:
        yield f"{path}: it holds {reader.num_records()} records, not {shard.records}"
    for number in range(reader.num_records()):
        try:
            (data,) = reader.read([number])
            if len(decode(data).images) != count:
                raise images.ImageError("it is of another kind")
        except Exception as error:  # damage can raise anything
            yield f"record {number} of {path}: {str(error).partition('; ')[0]}"
