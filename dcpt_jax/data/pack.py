"""`python -m dcpt_jax.data.pack`: turns photos or pairs into ArrayRecord files of sub-images.

Decoding megapixels for one small crop dominates the cost of a training sample. Here photos are
decoded once and cut into sub-images on a regular grid that covers them: as few as possible with at
most `stride` pixels between neighbouring corners. Smaller photos are kept whole. The files depend
only on the photos and the options; `packed` describes the format and reads it.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import tqdm

from dcpt_jax import extras, files, images
from dcpt_jax.command_line import (
    UsageError,
    expanded,
    expanded_path,
    positive_int,
    run_command,
)
from dcpt_jax.data import packed
from dcpt_jax.data.dataset_files import DatasetError
from dcpt_jax.data.manifest import (
    MANIFEST,
    SUFFIX,
    Manifest,
    Options,
    Shard,
    read_manifest,
    shard_name,
)
from dcpt_jax.data.packed import Record
from dcpt_jax.data.source_factory import open_source
from dcpt_jax.data.sources import Source, arrays_of
from dcpt_jax.data.spec import SourceError, quoted

_WRITERS = {"none": "group_size:1,uncompressed", "zstd": "group_size:1,zstd:3"}
_DETAILS = """
sources
  A folder of photos, searched with its sub-folders, or what --config.data.sources takes:
  pairs:DEGRADED_DIR,CLEAN_DIR[,RULE]   list:FILE   tfds:NAME   DATASET:DIR
  Several sources are packed as one; all must be clean photos, or all pairs. --task CLASS selects a
  class of a dataset that holds several (cdd11).

size and stride
  Training crops must fit into the sub-images (config.data.crop_size is 128 in the paper). A size of
  256 with a stride of 192 takes 1.8 times the space of the decoded photos: about 5.3 bytes per
  pixel. A smaller stride distributes crops more evenly, a larger one saves space. --compress saves
  a third and makes reading four times slower (0.3 ms).

use in training
  --config.data.sources.CLASS=packed:DIR for each class that is made of these photos or pairs.

exit status
  0: packed; unreadable files are named, and listed in manifest.json; 1: --verify found damage; 2:
  wrong use, nothing to pack, or DIR is not writable; 130: interrupted. After an interruption, the
  same command continues, provided that names, sizes and times of all files are unchanged.
"""


class PackError(Exception):
    """Packing is not possible; the message says what to change."""


def corners(length: int, size: int, stride: int) -> list[int]:
    """Start positions of sub-images along an axis, equally spaced."""
    if length <= size:
        return [0]
    steps = math.ceil((length - size) / stride)
    return [round(i * (length - size) / steps) for i in range(steps + 1)]


def cut(name: str, item: Any, options: Options) -> list[bytes]:
    """The records of a photo, uint8 or uint16 [h, w, 3], or of a pair of them."""
    pixels = arrays_of(item)
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
    source: Source,
    output: Path | str,
    *,
    origin: str = "",
    dataset: str = "",
    task: str = "",
    options: Options | None = None,
    threads: int = 1,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda count: None,
) -> Manifest:
    """Packs a source; resumes where an interrupted call for the same source stopped.

    Args:
        source: photos or pairs; unreadable ones are skipped and listed in the manifest.
        output: folder for the files.
        origin: description of the source, for people.
        dataset: name of the public dataset, "" for other sources.
        task: class selected from a dataset that holds several, "" for others.
        options: see `Options`; its defaults if None.
        threads: number of threads; each holds one photo in memory.
        overwrite: whether to delete what was packed into the folder before.
        progress: called with the number of inputs completed.

    Returns:
        The finished manifest.

    Raises:
        PackError: if the folder holds other data or is not writable, or no input can be read.
    """
    options = options or Options()
    folder = Path(output)
    new = Manifest(
        kind="pairs" if source.is_pairs else "photos",
        options=options,
        inputs=len(source),
        digest=_digest(source),
        origin=origin,
        dataset=dataset,
        task=task,
        left_out=tuple(
            (str(file), reason) for part in source.parts for file, reason in part.report.skipped
        ),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise PackError(f"--output {folder} is not a folder; choose another one") from None
    except OSError as error:
        raise PackError(f"cannot make the folder --output {folder}: {error.strerror}") from error
    try:
        manifest = _begin(folder, new, overwrite)
        progress(manifest.inputs if manifest.complete else manifest.done)
        if not manifest.complete:
            with _records_in_order(source, options, manifest.done, threads) as records:
                manifest = _write_shards(folder, manifest, source.names, records, progress)
    except OSError as error:
        raise _cannot_write(folder, error.strerror or error) from error
    if not manifest.records:
        reason = manifest.skipped[0][1] if manifest.skipped else "there is none"
        raise PackError(f"none of {len(source)} {new.kind} can be packed; first: {reason}")
    return manifest


def _begin(folder: Path, new: Manifest, overwrite: bool) -> Manifest:
    """The manifest to continue: that in the folder, or `new` if nothing is packed there."""
    for path in folder.glob(".*.partial"):
        path.unlink()
    if not overwrite and (old := _existing(folder, new)) is not None:
        return old
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.glob(f"part-*{SUFFIX}"):
        path.unlink()
    new.write(folder)
    return new


def _existing(folder: Path, new: Manifest) -> Manifest | None:
    """The manifest in the folder; None if nothing is packed there, PackError if other data are."""
    try:
        old = read_manifest(folder)
    except FileNotFoundError:
        if any(folder.glob(f"*{SUFFIX}")):
            raise PackError(
                f"--output {folder} holds ArrayRecord files of another program; choose another "
                "folder, or --overwrite to delete them"
            ) from None
        return None
    except images.ImageError as error:
        raise PackError(f"{error}, with --overwrite") from error
    stored, requested = (
        {"kind": one.kind, **dataclasses.asdict(one.options), "inputs": one.inputs}
        for one in (old, new)
    )
    differences = [
        f"{key} is {stored[key]!r} in the folder, but {requested[key]!r} is requested"
        for key in stored
        if stored[key] != requested[key]
    ]
    if old.digest != new.digest and not differences:
        differences = [f"the {new.kind} differ or have changed"]
    if differences:
        raise PackError(
            f"--output {folder} holds other data ({'; '.join(differences)}): choose another "
            "folder, or --overwrite to delete them"
        )
    for shard in old.shards:
        if reason := packed.size_error(folder, shard):
            raise PackError(f"{reason}; --overwrite packs everything again")
    return old


def _digest(source: Source) -> str:
    """SHA-256 over the names of all items, and the names, sizes and times of their files."""
    lines = list(source.names)
    for part in source.parts:
        for attribute in ("paths", "degraded", "clean", "files"):
            for path in getattr(part, attribute, ()):
                lines.append(path.name)
                with contextlib.suppress(OSError):  # deleted since it was listed
                    status = path.stat()
                    lines.append(f"{status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "backslashreplace")).hexdigest()


@contextlib.contextmanager
def _records_in_order(
    source: Source, options: Options, start: int, threads: int
) -> Iterator[Iterator[list[bytes] | str]]:
    """For each input from `start` on, its records, or the reason why there are none."""

    def make(index: int) -> list[bytes] | str:
        try:
            return cut(source.names[index], source.read(index), options)
        except images.ImageError as error:
            return str(error)

    def results() -> Iterator[list[bytes] | str]:
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()
        for index in range(start, len(source)):
            waiting.append(pool.submit(make, index))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()

    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        yield results()
    finally:
        pool.shutdown(cancel_futures=True)


def _write_shards(
    folder: Path,
    manifest: Manifest,
    names: Sequence[str],
    records: Iterator[list[bytes] | str],
    progress: Callable[[int], None],
) -> Manifest:
    """Writes the missing files; the manifest is updated after each."""
    options = manifest.options
    writer, skipped = None, list(manifest.skipped)
    try:
        for index, found in enumerate(records, manifest.done):
            if isinstance(found, str):
                skipped.append((names[index], found))
            else:
                if writer is None:
                    writer = _ShardWriter(folder, len(manifest.shards), options.compression)
                writer.write(found)
            progress(1)
            is_last = index + 1 == manifest.inputs
            if writer is not None and (is_last or writer.bytes >= options.shard_megabytes * 1e6):
                shards = (*manifest.shards, writer.finish(index + 1))
                writer = None
                manifest = dataclasses.replace(manifest, shards=shards, skipped=tuple(skipped))
                manifest.write(folder)
    finally:
        if writer is not None:
            writer.abandon()
    manifest = dataclasses.replace(manifest, skipped=tuple(skipped), complete=True)
    if manifest.records:
        manifest.write(folder)
    return manifest


class _ShardWriter:
    """Writes one ArrayRecord file under a temporary name."""

    def __init__(self, folder: Path, number: int, compression: str):
        with extras.needed("train", "packing data"):
            from array_record.python import array_record_module

        self._path = folder / shard_name(number)
        self._partial = folder / f".{self._path.name}.partial"
        self._partial.touch()  # raises a clear error if the folder is not writable
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
        """Closes, syncs and renames the file; only then may the manifest list it."""
        try:
            self._writer.close()
            written = packed.open_array_record(self._partial).num_records()
        except (RuntimeError, images.ImageError) as error:
            raise _cannot_write(self._partial.parent, error) from error
        if written != self._records:
            raise _cannot_write(
                self._partial.parent, f"{written} of {self._records} records were written"
            )
        with self._partial.open("rb") as file:
            os.fsync(file.fileno())
        crc32 = files.crc32_of(self._partial)
        size = self._partial.stat().st_size
        os.replace(self._partial, self._path)
        return Shard(self._path.name, self._records, size, crc32, inputs)

    def abandon(self) -> None:
        """Deletes the unfinished file."""
        with contextlib.suppress(RuntimeError):
            self._writer.close()
        self._partial.unlink(missing_ok=True)


def _cannot_write(folder: Path, reason: object) -> PackError:
    short = str(reason).partition("; ")[0]
    return PackError(
        f"cannot write to --output {folder}: {short}. Finished files are kept and the same command "
        "continues; sub-images take about 3 bytes per pixel (6 for pairs)"
    )


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    result = argparse.ArgumentParser(
        prog="python -m dcpt_jax.data.pack",
        usage="%(prog)s SOURCE... --output DIR [options]\n       %(prog)s --verify DIR...",
        description="Packs sub-images of photos or pairs into files that are fast to read.",
        epilog=_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    default = Options()
    add(
        "sources",
        nargs="+",
        type=expanded,
        metavar="SOURCE",
        help="folder, or another source, see below",
    )
    add("--output", type=expanded_path, metavar="DIR", help="folder for the files")
    add(
        "--size",
        type=positive_int,
        default=default.size,
        help="side of sub-images (%(default)s pixels)",
    )
    add(
        "--stride",
        type=positive_int,
        help="largest distance between neighbouring sub-images (three quarters of the size)",
    )
    add("--compress", action="store_true", help="compress losslessly (zstd)")
    add(
        "--shard-megabytes",
        type=positive_int,
        default=default.shard_megabytes,
        metavar="MB",
        help="size of each file (%(default)s); at most this much is repeated after an interruption",
    )
    add(
        "--threads",
        type=positive_int,
        default=min(8, os.cpu_count() or 1),
        help="threads that decode photos (%(default)s)",
    )
    add("--task", default="", metavar="CLASS", help="class of a dataset that holds several")
    add(
        "--overwrite",
        action="store_true",
        help="delete what was packed into DIR and start again",
    )
    add("--verify", action="store_true", help="check packed folders by their checksums")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, except that argparse itself exits with 2."""
    return run_command(parser(), run, arguments)


def run(options: argparse.Namespace) -> int:
    """Runs the packing, or the verification, described by `options`."""
    try:
        return _verify(options) if options.verify else _pack(options)
    except (PackError, SourceError, OSError, ImportError, images.ImageError) as error:
        raise UsageError(str(error)) from error
    except KeyboardInterrupt:
        print("finished files are kept; the same command continues", file=sys.stderr)
        raise


def _progress(bar: tqdm.tqdm, options: argparse.Namespace) -> Callable[[int], None]:
    """A callback that advances a bar, and stops if the command was interrupted."""

    def step(count: int) -> None:
        bar.update(count)
        options.interruption.check()

    return step


def _pack(options: argparse.Namespace) -> int:
    if options.output is None:
        raise PackError("--output DIR is missing: name the folder for the files")
    stride = options.stride or max(1, options.size * 3 // 4)
    if stride > options.size:
        raise PackError(
            f"--stride {stride} is larger than --size {options.size}: gaps would be left"
        )
    text = ";".join(map(_source, options.sources))
    try:
        data = open_source(text, task=options.task, cache=0)
    except DatasetError as error:
        raise PackError(
            f"{error} (--task selects a class of a dataset that holds several)"
        ) from error
    cv2.setNumThreads(0)  # photos are decoded in parallel
    with tqdm.tqdm(
        total=len(data.source), unit=data.source.noun, disable=not sys.stderr.isatty()
    ) as bar:
        manifest = pack(
            data.source,
            options.output,
            origin=data.origin,
            dataset=data.dataset.name if data.dataset is not None else "",
            task=options.task,
            options=Options(
                options.size,
                stride,
                "zstd" if options.compress else "none",
                options.shard_megabytes,
            ),
            threads=options.threads,
            overwrite=options.overwrite,
            progress=_progress(bar, options),
        )
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    skipped = len(manifest.skipped) + len(manifest.left_out)
    chosen = shlex.quote(f"packed:{quoted(str(options.output.absolute()))}")
    print(
        f"{manifest.records:,} sub-images of {manifest.inputs - len(manifest.skipped):,} "
        f"{manifest.kind} ({skipped} left out), {size:,.0f} MB in {len(manifest.shards)} files: "
        f"--config.data.sources.CLASS={chosen}",
        flush=True,
    )
    return 0


def _source(text: str) -> str:
    """The text of a source; a folder of photos needs no "photos:"."""
    if Path(text).is_dir():
        return f"photos:{quoted(text)}"
    if ":" not in text:
        problem = "is a file" if Path(text).exists() else "does not exist"
        raise PackError(f"{text} {problem}: name a folder of photos, or another source, see --help")
    return text


def _verify(options: argparse.Namespace) -> int:
    failed = False
    for folder in options.sources:
        total = read_manifest(Path(folder)).records
        with tqdm.tqdm(total=total, unit="record", disable=not sys.stderr.isatty()) as bar:
            problems = packed.verify(folder, progress=_progress(bar, options))
        print("".join(f"damaged: {problem}\n" for problem in problems), end="", file=sys.stderr)
        summary = f"{len(problems)} problems" if problems else f"{total:,} records, no damage"
        print(f"{folder}: {summary}")
        failed = failed or bool(problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
