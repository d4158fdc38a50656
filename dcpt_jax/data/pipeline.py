"""Batches for training, and samples for evaluation: photo -> crop -> degradation -> batch.

The training stream is a pure function of (tasks, photos, crop, seed): sample number n is the same
for any number of worker processes, and a stream started at a later batch continues exactly. What is
saved in a checkpoint is therefore one number, the position.

How classes are mixed: the stream is cut into blocks of sum(repeats) samples. Each block holds every
class exactly `repeats` times (common divisors taken out), in an order drawn anew for each block, so
classes are spread evenly over the stream and over shards; in any run of consecutive samples a class
is less than 2 * repeats away from its exact share. Within a class every photo is used once per
round, in a new order each round, with a new crop, turn and degradation each time.
"""

import math
import os
import signal
import sys
import threading
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from dcpt_jax import degradations, images
from dcpt_jax.data.sources import PhotoSource
from dcpt_jax.data.tasks import Task

Batch = dict[str, np.ndarray]

# Batches made ahead. Grain's own defaults (500 of them) fill the memory with batches.
_BATCHES_AHEAD = 4
_THREADS_WITHOUT_WORKERS = 2
_SECONDS_AFTER_SIGTERM = 20


class DataError(RuntimeError):
    """The data pipeline cannot go on; the message names the cause."""


class Crop(NamedTuple):
    """A clean crop for evaluation: name, and float32 [size, size, 3] in [0, 1]."""

    name: str
    image: np.ndarray


class Sample(NamedTuple):
    """A degraded crop for evaluation.

    Attributes:
        task: class index.
        degraded: float32 [h, w, 3]; in [0, 1] only if the degradation clips.
        clean: float32 [h, w, 3], in [0, 1].
        name: of the crop.
    """

    task: int
    degraded: np.ndarray
    clean: np.ndarray
    name: str


class BatchIterator:
    """The stream of batches; an iterator and a context manager that stops its workers.

    Attributes:
        position: number of the next batch, counted from the start of the stream.
    """

    def __init__(self, iterator: Iterator[Batch], *, start: int = 0):
        """Wraps an iterator that begins with the batch number `start`."""
        self.position = start
        self._iterator: Iterator[Batch] | None = iterator

    def __iter__(self) -> "BatchIterator":
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """The next batch: degraded, clean float32 [b, crop, crop, 3]; task int32 [b].

        Raises:
            DataError: if a sample cannot be made, or a worker process has died.
            ImageError: for a bad file where the source refuses such.
        """
        if self._iterator is None:
            raise ValueError("this stream of batches is closed")
        try:
            batch = next(self._iterator)
        except StopIteration:
            raise
        except Exception as error:
            self.close()
            # Grain's own words for a worker that went without leaving an exception.
            if isinstance(error, RuntimeError) and "terminated unexpectedly" in str(error):
                raise DataError(
                    f"a data worker process died before batch {self.position} was made: {error} "
                    "Exit code -9 mostly means that the memory ran out: lower "
                    "--config.data.num_workers or --config.data.cache_megabytes. Exit code 1 at "
                    'the start: the program lacks `if __name__ == "__main__":`'
                ) from error
            error.add_note(f"while making batch {self.position} of the data stream")
            raise
        self.position += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """What `make_batches` needs to continue here, as JSON: {"start": position}."""
        return {"start": self.position}

    def close(self) -> None:
        """Stops worker processes and threads; a second call does nothing."""
        iterator, self._iterator = self._iterator, None
        if iterator is not None and hasattr(iterator, "close"):
            iterator.close()

    def __enter__(self) -> "BatchIterator":
        """Itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the stream."""
        self.close()


def make_batches(
    tasks: Sequence[Task],
    photos: PhotoSource,
    *,
    batch_size: int,
    crop: int,
    seed: int,
    start: int = 0,
    num_workers: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> BatchIterator:
    """An endless stream of degraded and clean crops.

    Random, all from Grain's generator of the element: the order of photos; position of the crop;
    one of the eight flips and quarter turns; the degradation and its strength. Photos smaller than
    the crop are extended by reflection.

    With `num_workers` the calling program has to be importable (`if __name__ == "__main__":`),
    since worker processes are started afresh and import it. OpenCV's own threads are switched off
    in the workers, and in this process where it makes the samples itself: the work is already
    parallel over batches.

    Args:
        tasks: the classes; the index is the label.
        photos: clean photos.
        batch_size: samples per batch, of this shard.
        crop: height and width of the samples, in pixels.
        seed: any integer; another seed gives another stream.
        start: number of the first batch, as `BatchIterator.position` counts them.
        num_workers: worker processes; 0 makes batches in threads of this process.
        shard: (index, count); the shards' samples together are those of the stream with one shard
            and a `count` times larger batch.

    Returns:
        Batches: degraded, clean float32 [batch_size, crop, crop, 3]; task int32 [batch_size].

    Raises:
        ValueError: if an argument is out of range.
    """
    import grain  # it imports jax where that is installed, so not before it is needed

    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard must be (index, count) with 0 <= index < count, not {shard}")
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("crop", crop, 1),
        ("start", start, 0),
        ("num_workers", num_workers, 0),
        ("number of tasks", len(tasks), 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    make_sample = _MakeSample(tasks, photos, crop, _Order(tasks, len(photos), seed))
    dataset = grain.MapDataset.range(sys.maxsize).seed(_hash(seed)).random_map(make_sample)
    dataset = dataset[index::count].batch(batch_size, drop_remainder=True)[start:]
    if not num_workers:
        cv2.setNumThreads(0)
        options = grain.ReadOptions(_THREADS_WITHOUT_WORKERS, _BATCHES_AHEAD)
        return BatchIterator(iter(dataset.to_iter_dataset(options)), start=start)
    _mark_flags_parsed()
    batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    workers = grain.MultiprocessingOptions(
        num_workers=num_workers, per_worker_buffer_size=max(1, _BATCHES_AHEAD // num_workers)
    )
    batches = batches.mp_prefetch(workers, worker_init_fn=_start_worker)
    return BatchIterator(iter(batches), start=start)


def held_out_crops(photos: PhotoSource, *, size: int, per_photo: int, seed: int = 0) -> list[Crop]:
    """Clean crops for evaluation, spread over each photo; the same at every call.

    Args:
        photos: photos never trained on. A bad file is left out or refused as the source says.
        size: height and width, in pixels; smaller photos are extended by reflection.
        per_photo: crops of each photo, from the cells of a regular grid; one lies in the centre.
        seed: chooses the cells where the grid has more than `per_photo`.

    Raises:
        ImageError: if no photo can be read, or for the first bad one where the source refuses.
        ValueError: if `size` or `per_photo` is below 1.
    """
    if size < 1 or per_photo < 1:
        raise ValueError(f"size and per_photo must be at least 1, not {size} and {per_photo}")
    crops = []
    for index, name in enumerate(photos.names):
        try:
            pixels = photos.read(index)
        except images.ImageError:  # the source has logged it
            if photos.on_bad_file == "refuse":
                raise
            continue
        h, w = pixels.shape[:2]
        rows = min(per_photo, max(1, round(math.sqrt(per_photo * h / w))))
        columns = math.ceil(per_photo / rows)
        rng = np.random.default_rng(_hash(seed, name))
        cells = np.sort(rng.choice(rows * columns, per_photo, replace=False))
        for number, (row, column) in enumerate(zip(*divmod(cells, columns), strict=True)):
            top = round(max(h - size, 0) * (row + 0.5) / rows)
            left = round(max(w - size, 0) * (column + 0.5) / columns)
            image = images.to_float(_crop_at(pixels, top, left, size))
            crops.append(Crop(name if per_photo == 1 else f"{name}-{number + 1}", image))
    if not crops:
        raise images.ImageError(f"none of {len(photos)} photos can be read")
    return crops


def evaluation_samples(
    tasks: Sequence[Task], crops: Sequence[Crop], seed: int = 0
) -> Iterator[Sample]:
    """Every crop degraded by every class, crop by crop.

    Each draw depends only on the seed and the names of crop and class, so tables of runs with other
    crops or classes beside these compare.
    """
    parts = [degradations.parse(task.degradation) for task in tasks]
    for crop in crops:
        for label, task in enumerate(tasks):
            rng = np.random.default_rng(_hash(seed, crop.name, task.name))
            degraded = degradations.apply_parts(crop.image, parts[label], rng)
            yield Sample(label, degraded, crop.image, crop.name)


def describe(tasks: Sequence[Task], photos: PhotoSource) -> str:
    """One line for the start of a run: photos, and the share of each class."""
    total = sum(task.repeats for task in tasks)
    classes = (
        f"{task.name} {len(photos)} x {task.repeats} ({task.repeats / total:.1%})" for task in tasks
    )
    return f"{photos.report.summary()}; photos x repeats per class: {', '.join(classes)}"


class _MakeSample:
    """Makes sample number n of the stream (Grain's random_map)."""

    def __init__(self, tasks: Sequence[Task], photos: PhotoSource, crop: int, order: "_Order"):
        self._tasks = tuple(tasks)
        self._parts = [degradations.parse(task.degradation) for task in tasks]
        self._photos = photos
        self._crop = crop
        self._order = order

    def __call__(self, n: int, rng: np.random.Generator) -> dict[str, Any]:
        label, photo = self._order(n)
        pixels = self._photos[photo]
        try:
            clean = images.to_float(_turn(_random_crop(pixels, self._crop, rng), rng.integers(8)))
            degraded = degradations.apply_parts(clean, self._parts[label], rng)
        except Exception as error:
            # Text only: exceptions of some libraries do not survive the way between processes.
            raise DataError(
                f"cannot make a sample of class {self._tasks[label].name!r} from "
                f"{self._photos.paths[photo]}: {type(error).__name__}: {error}"
            ) from error
        return {"degraded": degraded, "clean": clean, "task": np.int32(label)}


class _Order:
    """Class and photo of sample number n, by the rules at the top of this module.

    Grain's own operations are not used for this: its mixing goes round the classes in a fixed order
    (with as many shards as classes each shard would see one class only) and rounds ratios such as
    3 to 7, and its shuffling takes 1.6 ms per sample in a list of eleven photos, four times as long
    as making the sample.
    """

    def __init__(self, tasks: Sequence[Task], num_photos: int, seed: int):
        divisor = math.gcd(*(task.repeats for task in tasks))
        self._repeats = [task.repeats // divisor for task in tasks]
        self._slots = [(label, k) for label, n in enumerate(self._repeats) for k in range(n)]
        self._num_photos = num_photos
        # Classes of one seed would go through the photos in step.
        self._seeds = [_hash(seed, "photos", task.name) for task in tasks]
        self._block_seed = _hash(seed, "classes")
        self._last: dict[int, tuple[int, np.ndarray]] = {}

    def __call__(self, n: int) -> tuple[int, int]:
        block, place = divmod(n, len(self._slots))
        label, k = self._slots[self._shuffled(self._block_seed, block, len(self._slots))[place]]
        k += block * self._repeats[label]
        round_, place = divmod(k, self._num_photos)
        return label, int(self._shuffled(self._seeds[label], round_, self._num_photos)[place])

    def _shuffled(self, seed: int, round_: int, length: int) -> np.ndarray:
        """The order of one round; the last one of each seed is kept, as most calls ask for it."""
        last, order = self._last.get(seed, (None, None))
        if last != round_:
            order = np.random.default_rng([seed, round_]).permutation(length)
            self._last[seed] = (round_, order)  # one assignment, so threads need no lock
        return order


def _hash(*parts: int | str) -> int:
    """A seed in [0, 2^32) from numbers and names, the same in every process and on any machine."""
    return zlib.crc32("/".join(map(str, parts)).encode())


def _random_crop(pixels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    top = rng.integers(max(pixels.shape[0] - size, 0) + 1)
    left = rng.integers(max(pixels.shape[1] - size, 0) + 1)
    return _crop_at(pixels, top, left, size)


def _crop_at(pixels: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    """[size, size, 3] from that corner; what is missing at the bottom or right is reflected."""
    pixels = pixels[top : top + size, left : left + size]
    for axis in (0, 1):
        length = pixels.shape[axis]
        if length < size:
            # 0 1 2 1 0 1 2 ... without doubling the edge; a single row or column repeats.
            steps = np.arange(size) % max(2 * length - 2, 1)
            pixels = np.take(pixels, np.minimum(steps, 2 * length - 2 - steps), axis)
    return pixels


def _turn(pixels: np.ndarray, which: int) -> np.ndarray:
    """One of the eight flips and quarter turns of a square [h, h, 3]."""
    pixels = np.rot90(pixels, which % 4)
    return np.ascontiguousarray(pixels[:, ::-1] if which >= 4 else pixels)


def _mark_flags_parsed() -> None:
    """Lets Grain read its absl flags in programs that do not parse any, such as notebooks."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _start_worker(index: int, count: int) -> None:
    """Sets a worker process up; runs in it before its first sample."""
    del index, count
    cv2.setNumThreads(0)
    # Ctrl-C and a scheduler's SIGTERM reach the whole group; the main process still wants its
    # current batch, saves, and then stops the workers itself. (A worker that gets SIGTERM
    # before this point, while it starts, does die.)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_soon)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_soon(*_: object) -> None:
    timer = threading.Timer(_SECONDS_AFTER_SIGTERM, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _leave_with_parent() -> None:
    """Ends a worker whose main process was killed; it would otherwise wait for ever."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
