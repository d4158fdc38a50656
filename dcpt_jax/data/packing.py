"""Cutting photos or pairs into sub-images, writing these to ArrayRecord files, and verifying them.

Photos are cut into a grid of equal steps that covers all of them: as few sub-images as possible
that begin at most `stride` pixels after each other, the last of them at the border. What is smaller
than a sub-image is kept whole. The files depend only on the photos and the options. `packed`
describes them and reads them.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcpt_jax import extras, images
from dcpt_jax.data import packed
from dcpt_jax.data.packed import Manifest, Record, Shard

_WRITERS = {"none": "group_size:1,uncompressed", "zstd": "group_size:1,zstd:3"}


class PackError(Exception):
    """Packing cannot be carried out; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How photos are cut and written; a folder is written with one set of them.

    Attributes:
        size: largest height and width of a sub-image.
        stride: largest distance of neighbouring sub-images' corners.
        compression: "none" or "zstd".
        shard_megabytes: size at which a file is closed and the next one begun.
    """

    size: int = 256
    stride: int = 192
    compression: str = "none"
    shard_megabytes: int = 1000


def corners(length: int, size: int, stride: int) -> list[int]:
    """Where sub-images begin along an axis: from 0 to the last place, in equal steps."""
    if length <= size:
        return [0]
    steps = math.ceil((length - size) / stride)
    return [round(i * (length - size) / steps) for i in range(steps + 1)]


def cut(name: str, item: Any, options: Options) -> list[bytes]:
    """The records of a photo, uint8 or uint16 [h, w, 3], or of a pair of such."""
    pixels = (item,) if isinstance(item, np.ndarray) else tuple(item)
    h, w, _ = pixels[0].shape
    size = options.size
    return [
        packed.encode(
            Record(name, t, l, tuple(image[t : t + size, l : l + size] for image in pixels))
        )
        for t in corners(h, size, options.stride)
        for l in corners(w, size, options.stride)  # noqa: E741
    ]


def pack(
    source: Any,
    output: Path | str,
    *,
    is_pairs: bool,
    origin: str = "",
    dataset: str = "",
    task: str = "",
    options: Options | None = None,
    threads: int = 1,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda count: None,
) -> Manifest:
    """Packs a source; goes on where an interrupted call for the same source stopped.

    Args:
        source: photos or pairs; what cannot be read is left out and listed in the manifest.
        output: folder for the files.
        is_pairs: what the source holds.
        origin: where it is from, for people.
        dataset: name of the public data set that it is, "" for others.
        task: class that was taken of a data set that holds several, "" for others.
        options: see `Options`; its defaults if None.
        threads: that read and cut photos; each holds one of them.
        overwrite: whether what is in the folder, packed of something else or otherwise, is deleted.
        progress: is called with the number of inputs that were done.

    Returns:
        The finished manifest.

    Raises:
        PackError: if the folder holds something else or cannot be written, or no input can be read.
    """
    options = options or Options()
    folder = Path(output)
    names = source.names
    new = Manifest(
        kind="pairs" if is_pairs else "photos",
        options=dataclasses.asdict(options),
        inputs=len(source),
        digest=_digest(source),
        origin=origin,
        dataset=dataset,
        task=task,
        left_out=tuple((str(file), reason) for file, reason in source.report.skipped),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise PackError(f"--output {folder} is no folder: give another one") from None
    except OSError as error:
        raise PackError(f"cannot make the folder --output {folder}: {error.strerror}") from error
    try:
        manifest = _begin(folder, new, overwrite)
        progress(manifest.inputs if manifest.complete else manifest.done)
        if not manifest.complete:
            with _records_in_order(source, names, options, manifest.done, threads) as records:
                manifest = _write_shards(folder, manifest, options, names, records, progress)
    except OSError as error:
        raise _cannot_write(folder, error.strerror or error) from error
    if not manifest.records:
        reason = manifest.skipped[0][1] if manifest.skipped else "there is none"
        raise PackError(f"none of {len(source)} {new.kind} can be packed; first: {reason}")
    return manifest


def _begin(folder: Path, new: Manifest, overwrite: bool) -> Manifest:
    """What is in the folder already, if it belongs to this call; else a new manifest."""
    for path in folder.glob(".*.partial"):
        path.unlink()
    try:
        old = packed.read_manifest(folder)
    except FileNotFoundError:
        if not overwrite and any(folder.glob(f"*{packed.SUFFIX}")):
            raise PackError(
                f"--output {folder} holds ArrayRecord files that were not written here; give "
                "another folder, or --overwrite deletes them"
            ) from None
        old = None
    except images.ImageError as error:
        if not overwrite:
            raise PackError(f"{error}; or --overwrite starts anew") from error
        old = None
    if old is not None:
        differences = [
            f"{key} {getattr(old, key)!r} there, {getattr(new, key)!r} asked for"
            for key in ("kind", "options", "inputs")
            if getattr(old, key) != getattr(new, key)
        ]
        if old.digest != new.digest and not differences:
            differences = [f"the {new.kind} differ or have changed"]
        if not differences and not overwrite:
            for shard in old.shards:
                if reason := packed.size_error(folder, shard):
                    raise PackError(f"{reason}; --overwrite packs all again")
            return old
        if not overwrite:
            raise PackError(
                f"--output {folder} holds something else ({'; '.join(differences)}): give another "
                "folder, or --overwrite deletes what is there"
            )
    (folder / packed.MANIFEST).unlink(missing_ok=True)
    for path in folder.glob(f"part-*{packed.SUFFIX}"):
        path.unlink()
    new.write(folder)
    return new


def _digest(source: Any) -> str:
    """SHA-256 of the names of all items, and of the names, sizes and times of all their files."""
    lines = list(source.names)
    for part in getattr(source, "parts", (source,)):
        for attribute in ("paths", "degraded", "clean", "files"):
            for path in getattr(part, attribute, ()):
                lines.append(path.name)
                with contextlib.suppress(OSError):  # gone since it was listed
                    status = path.stat()
                    lines.append(f"{status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "backslashreplace")).hexdigest()


@contextlib.contextmanager
def _records_in_order(
    source: Any, names: Sequence[str], options: Options, start: int, threads: int
) -> Iterator[Iterator[tuple[int, list[bytes] | str]]]:
    """Numbers of inputs from `start` on, with their records, or with why there are none."""

    def make(index: int) -> list[bytes] | str:
        try:
            return cut(names[index], source.read(index), options)
        except images.ImageError as error:
            return str(error)

    def results() -> Iterator[tuple[int, list[bytes] | str]]:
        waiting: collections.deque[tuple[int, concurrent.futures.Future]] = collections.deque()
        for index in range(start, len(source)):
            waiting.append((index, pool.submit(make, index)))
            if len(waiting) > threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()

    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        yield results()
    finally:
        pool.shutdown(cancel_futures=True)


def _write_shards(
    folder: Path,
    manifest: Manifest,
    options: Options,
    names: Sequence[str],
    records: Iterator[tuple[int, list[bytes] | str]],
    progress: Callable[[int], None],
) -> Manifest:
    """Writes the files from the first missing one on; the manifest grows with each."""
    writer, skipped = None, list(manifest.skipped)
    try:
        for index, found in records:
            if isinstance(found, str):
                skipped.append((names[index], found))
            else:
                if writer is None:
                    writer = _ShardWriter(folder, len(manifest.shards), options.compression)
                writer.write(found)
            progress(1)
            if writer is not None and writer.bytes >= options.shard_megabytes * 1e6:
                shards = (*manifest.shards, writer.finish(index + 1))
                writer = None
                manifest = dataclasses.replace(manifest, shards=shards, skipped=tuple(skipped))
                manifest.write(folder)
        if writer is not None:
            shards = (*manifest.shards, writer.finish(manifest.inputs))
            writer = None
            manifest = dataclasses.replace(manifest, shards=shards)
    finally:
        if writer is not None:
            writer.abandon()
    manifest = dataclasses.replace(manifest, skipped=tuple(skipped), complete=True)
    if manifest.records:
        manifest.write(folder)
    return manifest


class _ShardWriter:
    """One file while it is written, under another name."""

    def __init__(self, folder: Path, number: int, compression: str):
        with extras.needed("train", "packing data"):
            from array_record.python import array_record_module

        self._path = folder / f"part-{number:05d}{packed.SUFFIX}"
        self._partial = folder / f".{self._path.name}.partial"
        self._partial.touch()  # an unwritable folder raises here what says so
        self._writer = array_record_module.ArrayRecordWriter(
            str(self._partial), _WRITERS[compression]
        )
        self._records = self.bytes = 0

    def write(self, records: Sequence[bytes]) -> None:
        """Appends records."""
        try:
            for record in records:
                self._writer.write(record)
                self._records += 1
                self.bytes += len(record)
        except RuntimeError as error:
            raise _cannot_write(self._partial.parent, error) from error

    def finish(self, inputs: int) -> Shard:
        """Closes the file and gives it its name; it is on the disk before the manifest says so."""
        try:
            self._writer.close()
            written = packed.open_array_record(self._partial).num_records()
        except (RuntimeError, images.ImageError) as error:
            raise _cannot_write(self._partial.parent, error) from error
        if written != self._records:
            raise _cannot_write(
                self._partial.parent, f"{written} of {self._records} records arrived"
            )
        with self._partial.open("rb") as file:
            os.fsync(file.fileno())
        crc32 = packed.file_crc32(self._partial)
        size = self._partial.stat().st_size
        os.replace(self._partial, self._path)
        return Shard(self._path.name, self._records, size, crc32, inputs)

    def abandon(self) -> None:
        """Deletes what was written."""
        with contextlib.suppress(RuntimeError):
            self._writer.close()
        self._partial.unlink(missing_ok=True)


def _cannot_write(folder: Path, reason: object) -> PackError:
    short = str(reason).partition("; ")[0]
    return PackError(
        f"cannot write to --output {folder}: {short}. Finished files are kept and the same command "
        "continues; it needs about 3 bytes for each pixel of all sub-images (6 for pairs)"
    )


def verify(
    folder: Path | str, *, progress: Callable[[int], None] = lambda count: None
) -> list[str]:
    """Reads all files of a folder again.

    Args:
        folder: with a manifest.
        progress: is called with numbers of records that were read.

    Returns:
        What is wrong, a line each; nothing if all is as it was written.

    Raises:
        FileNotFoundError: if there is no manifest.
        ImageError: if it cannot be read.
    """
    folder = Path(folder)
    manifest = packed.read_manifest(folder)
    problems = []
    if not manifest.complete:
        problems.append(f"not finished: {manifest.done} of {manifest.inputs} {manifest.kind}")
    count = {"photos": 1, "pairs": 2}[manifest.kind]
    for shard in manifest.shards:
        path = folder / shard.file
        if reason := packed.size_error(folder, shard):
            problems.append(reason)
            continue
        if packed.file_crc32(path) == shard.crc32:
            progress(shard.records)
            continue
        problems.append(f"{path}: the checksum of the file is wrong")
        problems.extend(_damaged_records(path, shard, count))
        progress(shard.records)
    return problems


def _damaged_records(path: Path, shard: Shard, count: int) -> Iterator[str]:
    try:
        reader = packed.open_array_record(path)
    except (images.ImageError, RuntimeError) as error:
        yield str(error)
        return
    for number in range(shard.records):
        try:
            (data,) = reader.read([number])
            if len(packed.decode(data).images) != count:
                raise images.ImageError("it is of another kind")
        except Exception as error:  # whatever damage makes of it
            yield f"record {number} of {path}: {str(error).partition('; ')[0]}"
