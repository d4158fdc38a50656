"""`python -m dcpt_jax.data.pack`: turns photos or pairs into ArrayRecord files of sub-images.

Training takes a small crop of each photo, and decoding megapixels for it is what takes the time.
Sub-images are decoded once, here; see `packing` for how photos are cut.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import tqdm

from dcpt_jax import images
from dcpt_jax.data import datasets, opener, packed
from dcpt_jax.data.packing import Options, PackError, pack, verify

_DETAILS = """
sources
  A folder of photos, searched with its sub-folders, or what --config.data.sources takes:
  pairs:DEGRADED_DIR,CLEAN_DIR[,RULE]   list:FILE   tfds:NAME   DATASET:DIR
  Several are packed as one; all have to hold clean photos, or all pairs. Of a data set that holds
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
    add("--output", type=Path, metavar="DIR", help="folder for the files")
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
    add("--task", default="", metavar="CLASS", help="of data sets that hold several classes")
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
    for stream in (sys.stdout, sys.stderr):  # file names may hold bytes that are not text
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = parser().parse_args(arguments)
    try:
        return _verify(options) if options.verify else _pack(options)
    except (PackError, opener.SourceError, OSError, ImportError, images.ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished files are kept; the same command continues", file=sys.stderr)
        return 130


def _pack(options: argparse.Namespace) -> int:
    if options.output is None:
        raise PackError("--output DIR is missing: where shall the files go?")
    stride = options.stride or max(1, options.size * 3 // 4)
    if stride > options.size:
        raise PackError(
            f"--stride {stride} is larger than --size {options.size}: parts would be left out"
        )
    text = ";".join(map(_source, options.sources))
    try:
        opened = opener.open_source(text, task=options.task, cache_megabytes=0)
    except datasets.DatasetError as error:
        raise PackError(
            f"{error} (of a set that holds several classes, --task names one)"
        ) from error
    cv2.setNumThreads(0)  # photos are decoded in parallel
    kind = "pair" if opened.is_pairs else "photo"
    with tqdm.tqdm(total=len(opened.source), unit=kind, disable=not sys.stderr.isatty()) as bar:
        manifest = pack(
            opened.source,
            options.output,
            is_pairs=opened.is_pairs,
            origin=opened.what,
            dataset=opened.dataset.name if opened.dataset is not None else "",
            task=options.task,
            options=Options(
                options.size,
                stride,
                "zstd" if options.compress else "none",
                options.shard_megabytes,
            ),
            threads=options.threads,
            overwrite=options.overwrite,
            progress=bar.update,
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
        total = packed.read_manifest(Path(place)).records
        with tqdm.tqdm(total=total, unit="record", disable=not sys.stderr.isatty()) as bar:
            problems = verify(place, progress=bar.update)
        for problem in problems:
            print(f"damaged: {problem}", file=sys.stderr)
        print(f"{place}: {f'{len(problems)} problems' if problems else f'{total:,} records, good'}")
        failed = failed or bool(problems)
    return int(failed)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
