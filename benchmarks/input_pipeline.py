"""Times the input pipeline: patches a second by source, class and number of worker processes.

    python -m benchmarks.input_pipeline --output figures.json
    python -m benchmarks.input_pipeline --photos FOLDER --workers 0 1 2 4

If PyTorch is installed, its DataLoader does the same work (see `benchmarks.torch_loader`) in turn
with ours, from the photos' folder and from a folder of 480x480 sub-images as used with BasicSR.
Each is started anew for each measurement, so that only one runs at a time, and measured some
batches after its start, to exclude batches that were prepared in advance.

Two rates are given: patches per second of wall time, and patches per second of processor time of
all processes together, that is, per core, which hardly depends on other load. Ratios are medians
over the rounds.

Photos are in the file system's cache, so no disk is measured. "folder" is without our cache of
decoded photos, as for a dataset much larger than the memory; "folder, cached" is with it, as here
all photos fit.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import itertools
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

from dcpt_jax import degradations
from dcpt_jax.data import photos, pipeline, tasks
from dcpt_jax.data.classes import TrainingClass, synthetic_classes
from dcpt_jax.data.manifest import Options
from dcpt_jax.data.pack import corners, pack
from dcpt_jax.data.packed import PackedSource
from dcpt_jax.images.listing import list_images

HEIGHT, WIDTH = 1000, 1500  # size of photos made from bundled ones
_PHOTOS = 24  # most photos
_AHEAD = 6  # batches that are not counted: at least as many as any pipeline prefetches
_LEAST = 4  # fewest batches of a measurement
_SUB_IMAGE, _STEP = 480, 240  # as in BasicSR

Runner = tuple[Iterator[Any], list[int]]  # batches, and the process ids of the workers


def photographs(folder: str | None) -> list[np.ndarray]:
    """Photos for the benchmark, uint8 [h, w, 3]: from a folder, or tiled bundled ones."""
    if folder:
        source = photos.PhotoSource(list(list_images(folder))[:_PHOTOS], cache=0)
        pictures = [source.read(i) for i in range(len(source))]
        return [
            pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
            for pixels in pictures
        ]
    source = photos.PhotoSource(photos.bundled_photos("train"), cache=0)
    pictures = []
    for i in range(len(source)):
        pixels = source.read(i)
        h, w = (max(0, size - n) for size, n in zip((HEIGHT, WIDTH), pixels.shape, strict=False))
        mode = cv2.BORDER_REFLECT
        while h or w:  # the padding may not exceed the photo
            step = min(h, pixels.shape[0]), min(w, pixels.shape[1])
            pixels = cv2.copyMakeBorder(pixels, 0, step[0], 0, step[1], mode)
            h, w = h - step[0], w - step[1]
        pictures.append(np.ascontiguousarray(pixels[:HEIGHT, :WIDTH]))
    return pictures


def prepare(pictures: Sequence[np.ndarray], folder: Path) -> dict[str, Path]:
    """Writes pictures as PNG, as JPEG, packed, and as BasicSR's sub-images; returns the folders."""
    folders = {name: folder / name for name in ("png", "jpeg", "sub-images", "packed")}
    for name in ("png", "jpeg", "sub-images"):
        folders[name].mkdir()
    for i, pixels in enumerate(pictures):
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        cv2.imwrite(str(folders["png"] / f"{i:03d}.png"), bgr)
        cv2.imwrite(str(folders["jpeg"] / f"{i:03d}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])
        grid = (corners(n, _SUB_IMAGE, _STEP) for n in bgr.shape[:2])
        for k, (top, left) in enumerate(itertools.product(*grid)):
            part = bgr[top : top + _SUB_IMAGE, left : left + _SUB_IMAGE]
            cv2.imwrite(str(folders["sub-images"] / f"{i:03d}_s{k:03d}.png"), part)
    source = photos.PhotoSource(list_images(folders["png"]), cache=0)
    pack(source, folders["packed"], options=Options())
    return folders


def our_sources(folders: dict[str, Path]) -> dict[str, Any]:
    """The sources for our pipeline."""

    def folder(name: str, cache: float) -> photos.PhotoSource:
        return photos.PhotoSource(list_images(folders[name]), cache=cache)

    return {
        "packed": PackedSource(folders["packed"]),
        "folder PNG": folder("png", 0),
        "folder JPEG": folder("jpeg", 0),
        "folder PNG, cached": folder("png", 2000),
    }


@contextlib.contextmanager
def running(make: Callable[[], Iterator[Any]]) -> Iterator[Runner]:
    """Starts a pipeline; yields its batches and the ids of its processes."""
    before = {process.pid for process in multiprocessing.active_children()}
    batches = make()
    next(batches)
    workers = [p.pid for p in multiprocessing.active_children() if p.pid not in before]
    try:
        yield batches, workers
    finally:
        if hasattr(batches, "close"):
            batches.close()
        elif hasattr(batches, "_shutdown_workers"):  # PyTorch's; there is no public method
            batches._shutdown_workers()


def processor_seconds(workers: Sequence[int]) -> float:
    """Processor time used by this process and its workers so far."""
    ticks = 0
    for pid in workers:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def rates(runner: Runner, batch_size: int, seconds: float) -> dict[str, float]:
    """Patches per second of wall time and of processor time."""
    batches, workers = runner
    for _ in range(_AHEAD):
        next(batches)
    spent, start, count = processor_seconds(workers), time.perf_counter(), 0
    while count < _LEAST * batch_size or time.perf_counter() - start < seconds:
        next(batches)
        count += batch_size
    elapsed = time.perf_counter() - start
    return {
        "patches/s": count / elapsed,
        "patches/core s": count / max(processor_seconds(workers) - spent, 1e-9),
    }


def measure_streams(
    sources: dict[str, Any], folders: dict[str, Path], workers: int, options: argparse.Namespace
) -> dict[str, list[dict[str, float]]]:
    """Rates of all pipelines with this number of workers, each once per round."""
    five = tasks.resolve_tasks(options.classes)
    specs = [task.degradation for task in five]
    common = {"batch_size": options.batch, "crop": options.crop}
    makers: dict[str, Callable[[], Iterator[Any]]] = {
        name: lambda source=source: pipeline.make_batches(
            synthetic_classes(five, source), seed=0, num_workers=workers, **common
        )
        for name, source in sources.items()
    }
    try:
        from benchmarks import torch_loader
    except ImportError as error:
        print(f"without PyTorch: {error}")
    else:
        for name, folder in (
            ("sub-images PNG", "sub-images"),
            ("folder PNG", "png"),
            ("folder JPEG", "jpeg"),
        ):
            paths = list(list_images(folders[folder]))
            makers[f"torch, {name}"] = lambda paths=paths: torch_loader.batches(
                paths, specs, num_workers=workers, **common
            )
    result: dict[str, list[dict[str, float]]] = {name: [] for name in makers}
    for _ in range(options.repetitions):
        for name, make in makers.items():
            with running(make) as runner:
                result[name].append(rates(runner, options.batch, options.seconds))
    return result


def measure_classes(source: PackedSource, options: argparse.Namespace) -> dict[str, float]:
    """Patches per second of processor time for each class alone, packed data, no workers."""
    result = {}
    for name in degradations.names():
        (task,) = tasks.resolve_tasks(name)
        classes = synthetic_classes([task], source)
        with running(
            lambda classes=classes: pipeline.make_batches(
                classes, batch_size=options.batch, crop=options.crop, seed=0
            )
        ) as runner:
            result[name] = rates(runner, options.batch, options.seconds / 2)["patches/core s"]
    return result


def milliseconds(function: Callable[[int], Any], seconds: float) -> float:
    """Processor time per call, the minimum over the means of five runs."""
    best, number = np.inf, itertools.count()
    for _ in range(5):
        start, count, until = time.process_time(), 0, time.perf_counter() + seconds / 5
        while count < 3 or time.perf_counter() < until:
            function(next(number))
            count += 1
        best = min(best, 1e3 * (time.process_time() - start) / count)
    return best


def measure_shares(sources: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of processor time per patch for each stage of the pipeline, in one thread."""
    five = tasks.resolve_tasks(options.classes)
    result: dict[str, Any] = {}
    for name, source in sources.items():
        result[name] = shares_of(source, list(synthetic_classes(five, source)), options)
    return result


def shares_of(
    source: Any, classes: Sequence[TrainingClass], options: argparse.Namespace
) -> dict[str, float]:
    """Milliseconds per patch of one source."""
    rng = np.random.default_rng(0)
    make = pipeline._MakeSample(classes, options.crop, 0)
    plain = pipeline._MakeSample(classes, options.crop, 0)
    plain._parts = [()] * len(classes)  # no degradation
    read = milliseconds(lambda i: source[i % len(source)], options.seconds)
    cut = milliseconds(lambda i: plain(i, rng), options.seconds)
    clean = plain(0, rng)["clean"]
    degrade = milliseconds(
        lambda i: degradations.apply_parts(clean, make._parts[i % len(classes)], rng),
        options.seconds,
    )
    with running(
        lambda: pipeline.make_batches(classes, batch_size=options.batch, crop=options.crop, seed=0)
    ) as runner:
        rate = rates(runner, options.batch, options.seconds)["patches/core s"]
    return {
        "decode": read,
        "crop, turn, float": max(cut - read, 0.0),
        "degradation": degrade,
        "batching, threads": max(1e3 / rate - cut - degrade, 0.0),
    }


def degradation_times(options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of each degradation of one crop."""
    rng = np.random.default_rng(0)
    image = rng.random((options.crop, options.crop, 3), np.float32)
    result = {}
    for name in degradations.names():
        apply = functools.partial(degradations.apply_parts, image, degradations.parse(name), rng)
        result[name] = milliseconds(lambda _, apply=apply: apply(), options.seconds / 2)
    return result


def ratios(streams: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Speed of our pipeline relative to the DataLoader, per core."""
    pairs = [
        ("packed", "torch, folder PNG"),
        ("packed", "torch, folder JPEG"),
        ("packed", "torch, sub-images PNG"),
        ("folder PNG", "torch, folder PNG"),
        ("folder JPEG", "torch, folder JPEG"),
        ("folder PNG, cached", "torch, folder PNG"),
    ]
    key = "patches/core s"
    return {
        f"{our_name} / {torch_name}": median(
            our_round[key] / torch_round[key]
            for our_round, torch_round in zip(streams[our_name], streams[torch_name], strict=True)
        )
        for our_name, torch_name in pairs
        if our_name in streams and torch_name in streams
    }


def table(figures: dict[str, Any]) -> str:
    """All results as text."""
    lines = []
    for workers, streams in figures["streams"].items():
        lines.append(f"\n{workers} workers{'':23}patches/s   per core")
        for name, rounds in streams.items():
            values = (median(r[key] for r in rounds) for key in ("patches/s", "patches/core s"))
            lines.append(f"  {name:28}" + "".join(f"{value:11,.0f}" for value in values))
        for name, value in figures["ratios per core"][workers].items():
            lines.append(f"    {name:44}{value:8.2f}")
    lines.append("\nms per patch and core   " + "".join(f"{x:>20}" for x in figures["parts"]))
    for name, parts in figures["shares"].items():
        lines.append(f"  {name:22}" + "".join(f"{parts[x]:20.3f}" for x in figures["parts"]))
    lines.append(f"\n{'class':22}patches/core s   ms of degradation")
    for name, rate in figures["classes"].items():
        lines.append(f"  {name:20}{rate:14,.0f}{figures['degradation ms'][name]:20.3f}")
    return "\n".join(lines)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All results."""
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        pictures = photographs(options.photos)
        size = pictures[0].shape
        folders = prepare(pictures, Path(folder))
        sources = our_sources(folders)
        streams = {str(n): measure_streams(sources, folders, n, options) for n in options.workers}
        shares = measure_shares(sources, options)
        return {
            "photos": f"{len(pictures)} photos of about {size[1]}x{size[0]}",
            "streams": streams,
            "ratios per core": {n: ratios(rounds) for n, rounds in streams.items()},
            "parts": list(next(iter(shares.values()))),
            "shares": shares,
            "classes": measure_classes(sources["packed"], options),
            "degradation ms": degradation_times(options),
        }


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--photos",
        metavar="FOLDER",
        help=f"folder of photos, of which the first {_PHOTOS} are used (default: bundled photos)",
    )
    add("--classes", default="5d", help="task set or classes (default: %(default)s)")
    add("--workers", type=int, nargs="+", default=[0, 2], help="numbers of worker processes")
    add("--batch", type=int, default=8, help="batch size (default: %(default)s)")
    add("--crop", type=int, default=128, help="crop size (default: %(default)s)")
    add("--seconds", type=float, default=0.6, help="seconds per measurement (default: %(default)s)")
    add("--repetitions", type=int, default=2, help="number of rounds (default: %(default)s)")
    add("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args(arguments)
    if options.repetitions < 1 or min(options.workers) < 0:
        parser.error("--repetitions must be at least 1, and --workers not negative")
    return options


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints tables, and writes all results as JSON."""
    options = parse_options(arguments)
    figures = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Linux",
        "command": {key: str(value) for key, value in vars(options).items() if key != "output"},
        **measure(options),
    }
    print(table(figures), flush=True)
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1) + "\n")
    return figures


if __name__ == "__main__":
    main()
