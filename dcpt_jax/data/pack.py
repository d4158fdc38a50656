"""`python -m dcpt_jax.data.pack`: turns photos or pairs into ArrayRecord files of sub-images.

Training takes a small crop of each photo, and decoding megapixels for it is what takes the time.
Sub-images are decoded once, here. Photos are cut into a grid of equal steps that covers all of
them: as few sub-images as possible that start at most `stride` pixels after each other, the last of
them at the border. What is smaller than a sub-image is kept whole. The files depend only on the
photos and the options; `packed` describes and reads them.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tqdm

from dcpt_jax import extras, files, images
from dcpt_jax.command_line import UsageError, expanded_path, is_of_output, run_command
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
from dcpt_jax.data.spec import SourceError
from dcpt_jax.files import expand_home

_LARGEST_OPTION = 1_000_000
_WRITERS = {"none": "group_size:1,uncompressed", "zstd": "group_size:1,zstd:3"}
_DETAILS = """
sources
  A folder of photos, searched with its sub-folders, or what --config.data.sources takes:
  pairs:DEGRADED_DIR,CLEAN_DIR[,RULE]   list:FILE   tfds:NAME   DATASET:DIR
  Several are packed as one; all have to hold clean photos, or all pairs. Of a dataset that holds
  several classes (cdd11), --task CLASS says which is wanted.

size and stride
  Training crops have to fit into the sub-images (config.data.crop_size is 128 in the paper). Those
  of 256 pixels, 192 apart, need 1.8 times the space of the decoded photos: about 5.3 bytes per
  pixel. With a smaller stride crops lie more evenly, with a larger one they take less space;
  --compress takes a third off and makes reading four times as long (0.3 ms).

use it
  --config.data.sources.CLASS=packed:DIR, of each class that is made of these photos or pairs.

exit status
  0: all is packed, but for files that cannot be read: each is named, and listed in manifest.json;
  1: --verify found damage; 2: wrong use, nothing to pack, or DIR cannot be written; 130:
  interrupted. The same command continues what was interrupted, as long as the photos are as they
  were: it compares names, sizes and times of all files.
"""


class PackError(Exception):
    """Packing cannot be carried out; the message says what to change."""


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
        dataset: name of the public dataset that it is, "" for others.
        task: class that was taken of a dataset that holds several, "" for others.
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
        options=options,
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
        raise PackError(f"--output {folder} is not a folder; choose another one") from None
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
        old = read_manifest(folder)
    except FileNotFoundError:
        if not overwrite and any(folder.glob(f"*{SUFFIX}")):
            raise PackError(
                f"--output {folder} holds ArrayRecord files that were not written here; give "
                "another folder, or --overwrite deletes them"
            ) from None
        old = None
    except images.ImageError as error:
        if not overwrite:
            raise PackError(f"{error}; or --overwrite starts again") from error
        old = None
    if old is not None:
        there, asked_for = (
            {"kind": one.kind, **dataclasses.asdict(one.options), "inputs": one.inputs}
            for one in (old, new)
        )
        differences = [
            f"{key} {there[key]!r} there, {asked_for[key]!r} asked for"
            for key in there
            if there[key] != asked_for[key]
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
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.glob(f"part-*{SUFFIX}"):
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

        self._path = folder / shard_name(number)
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
        crc32 = files.crc32_of(self._partial)
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


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    result = argparse.ArgumentParser(
        prog="python -m dcpt_jax.data.pack",
        usage="%(prog)s SOURCE... --output DIR [options]\n       %(prog)s --verify DIR...",
        description="Cuts photos, or pairs of them, into sub-images in files that read fast.",
        epilog=_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    default = Options()
    add("sources", nargs="+", metavar="SOURCE", help="folder, or another source, see below")
    add("--output", type=expanded_path, metavar="DIR", help="folder for the files")
    add("--size", type=_positive, default=default.size, help="of sub-images (%(default)s pixels)")
    add(
        "--stride",
        type=_positive,
        help="largest distance of neighbouring sub-images (three quarters of the size)",
    )
    add("--compress", action="store_true", help="losslessly (zstd)")
    add(
        "--shard-megabytes",
        type=_positive,
        default=default.shard_megabytes,
        metavar="MB",
        help="size of each file (%(default)s); what an interruption costs",
    )
    add(
        "--threads",
        type=_positive,
        default=min(8, os.cpu_count() or 1),
        help="that decode photos (%(default)s)",
    )
    add("--task", default="", metavar="CLASS", help="of datasets that hold several classes")
    add(
        "--overwrite",
        action="store_true",
        help="delete what was packed to DIR, of these photos too, and begin anew",
    )
    add(
        "--verify", action="store_true", help="read folders that were packed, and compare checksums"
    )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, except that argparse itself exits with 2."""
    return run_command(parser(), run, arguments)


def run(options: argparse.Namespace) -> int:
    """Runs the packing, or the verification, described by `options`."""
    options.sources = [expand_home(source) for source in options.sources]
    try:
        return _verify(options) if options.verify else _pack(options)
    except (PackError, SourceError, OSError, ImportError, images.ImageError) as error:
        if is_of_output(error):
            raise
        raise UsageError(str(error)) from error
    except KeyboardInterrupt:
        print("finished files are kept; the same command continues", file=sys.stderr)
        raise


def _progress(bar: tqdm.tqdm, options: argparse.Namespace) -> Callable[[int], None]:
    """Counts on a bar, and stops where the command was interrupted."""

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
            f"--stride {stride} is larger than --size {options.size}: parts would be left out"
        )
    text = ";".join(map(_source, options.sources))
    try:
        data = open_source(text, task=options.task, cache_megabytes=0)
    except DatasetError as error:
        raise PackError(
            f"{error} (of a set that holds several classes, --task names one)"
        ) from error
    cv2.setNumThreads(0)  # photos are decoded in parallel
    kind = "pair" if data.is_pairs else "photo"
    with tqdm.tqdm(total=len(data.source), unit=kind, disable=not sys.stderr.isatty()) as bar:
        manifest = pack(
            data.source,
            options.output,
            is_pairs=data.is_pairs,
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
    print(
        f"{manifest.records:,} sub-images of {manifest.inputs - len(manifest.skipped):,} "
        f"{manifest.kind} ({skipped} left out), {size:,.0f} MB in {len(manifest.shards)} files: "
        f"--config.data.sources.CLASS=packed:{options.output.absolute()}",
        flush=True,
    )
    return 0


def _source(text: str) -> str:
    """A source's text; folders of photos can be named alone."""
    if Path(text).is_dir():
        return f"photos:{text}"
    if ":" not in text:
        what = "is a file" if Path(text).exists() else "does not exist"
        raise PackError(f"{text} {what}: give a folder of photos, or another source, see --help")
    return text


def _verify(options: argparse.Namespace) -> int:
    failed = False
    for place in options.sources:
        total = read_manifest(Path(place)).records
        with tqdm.tqdm(total=total, unit="record", disable=not sys.stderr.isatty()) as bar:
            problems = packed.verify(place, progress=_progress(bar, options))
        for problem in problems:
            print(f"damaged: {problem}", file=sys.stderr)
        print(f"{place}: {f'{len(problems)} problems' if problems else f'{total:,} records, good'}")
        failed = failed or bool(problems)
    return int(failed)


def _positive(text: str) -> int:
    try:
        value = float(text)  # 1e3 too
    except ValueError:
        value = 0.0
    if not 1 <= value <= _LARGEST_OPTION or value != int(value):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number from 1 to {_LARGEST_OPTION}"
        )
    return int(value)


if __name__ == "__main__":
    sys.exit(main())
