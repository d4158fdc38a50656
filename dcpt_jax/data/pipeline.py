"""Batches for training: photo or pair -> crop -> degradation -> batch.

The stream of samples is a pure function of the classes, the crop and batch sizes, and the seed. It
is the same for any number of worker processes, and can be resumed at any batch exactly, so a
checkpoint stores only the position in the stream.

`data.mixing` defines the order of classes and items. Each use of an item draws a new crop and
orientation and, for clean photos, a new degradation.
"""

import itertools
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from dcpt_jax import degradations, extras, images
from dcpt_jax.data.classes import TrainingClass
from dcpt_jax.data.mixing import Order, Stream, hashed
from dcpt_jax.data.phases import Phase
from dcpt_jax.data.sources import arrays_of
from dcpt_jax.data.workers import (
    cause_of_death,
    fit_shared_memory,
    start_worker,
    starting_processes,
)

Batch = dict[str, np.ndarray]

# Prefetched batches. Grain's default of 500 would fill the memory.
_BATCHES_AHEAD = 4
_THREADS_WITHOUT_WORKERS = 2
BATCHES_BETWEEN_DEATHS = 100  # workers that die more often have a lasting cause
# Rotation by 0 to 3 quarter turns anticlockwise.
_TURNS = (None, cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)

_logger = logging.getLogger(__name__)


class DataError(RuntimeError):
    """The data pipeline failed; the message names the cause."""


class BatchIterator:
    """Iterator over batches; as a context manager it stops its workers at the end.

    Attributes:
        position: number of the next batch in the stream; `make_batches(..., start=position)`
            resumes there.
    """

    def __init__(self, iterate: Callable[[int], Iterator[Batch]], *, start: int = 0):
        """`iterate(n)` returns an iterator from batch n on; called again if a worker dies."""
        self.position = start
        self._iterate = iterate
        self._iterator: Iterator[Batch] | None = None
        self._start = start
        self._last_death: int | None = None  # position at which a worker last died
        self._closed = False

    def __iter__(self) -> "BatchIterator":
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """The next batch: degraded, clean float32 [b, crop, crop, 3]; task int32 [b].

        A worker process that dies is replaced, with a warning; the batches stay the same.

        Raises:
            DataError: if a sample cannot be made, or a worker dies before the first batch or within
                `BATCHES_BETWEEN_DEATHS` batches after another.
            ImageError: for a bad file if its source refuses them.
        """
        if self._closed:
            raise ValueError("this stream of batches is closed")
        try:
            batch = self._next()
        except StopIteration:
            raise
        except Exception as error:
            self._stop()
            # Grain's message for a worker that ended without an exception.
            if not isinstance(error, RuntimeError) or "terminated unexpectedly" not in str(error):
                self._closed = True
                error.add_note(f"while making batch {self.position} of the data stream")
                raise
            code = re.search(r"exit code (-?\d+)", str(error))
            death = (
                f"a data worker process died before batch {self.position} was made "
                f"({cause_of_death(int(code[1]) if code else None)})"
            )
            last, self._last_death = self._last_death, self.position
            again = last is not None and self.position - last < BATCHES_BETWEEN_DEATHS
            if again or self.position == self._start:
                self._closed = True
                raise DataError(
                    f"{death}. The same command continues from the last checkpoint, with the same "
                    "batches"
                ) from error
            _logger.warning("%s. New workers are started, and the batches stay the same", death)
            return next(self)
        self.position += 1
        return batch

    def _next(self) -> Batch:
        if self._iterator is not None:
            return next(self._iterator)
        with starting_processes():
            self._iterator = self._iterate(self.position)
            return next(self._iterator)

    def close(self) -> None:
        """Stops worker processes and threads; a no-op if already closed."""
        self._closed = True
        self._stop()

    def _stop(self) -> None:
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
    classes: Sequence[TrainingClass],
    *,
    batch_size: int,
    crop: int,
    seed: int,
    start: int = 0,
    num_workers: int = 0,
    shard: tuple[int, int] = (0, 1),
    later: Sequence[Phase] = (),
) -> BatchIterator:
    """An endless stream of degraded and clean crops.

    Each sample draws, from Grain's random generator of the element, the position of the crop, one
    of the eight flips and quarter turns and, for clean photos, the degradation and its strength.
    Both images of a pair get the same crop and turn. Images smaller than the crop are extended by
    reflection.

    With `num_workers` > 0 the calling program must be importable (`if __name__ == "__main__":`),
    since worker processes import it. OpenCV's own threads are disabled in the workers, and in this
    process if it makes the samples itself, because batches are already made in parallel.

    Args:
        classes: the classes with their items; a position is a label.
        batch_size: samples per batch of this shard.
        crop: height and width of the samples, in pixels.
        seed: any integer.
        start: number of the first batch, see `BatchIterator.position`.
        num_workers: number of worker processes; 0 = threads of this process.
        shard: (index, count); all shards together give the samples of a single stream with a
            `count` times larger batch.
        later: further phases with other crop and batch sizes (of this shard), each from batch
            number `first_step` on; sample numbers continue across phases.

    Returns:
        Batches: degraded, clean float32 [batch_size, crop, crop, 3]; task int32 [batch_size].

    Raises:
        ValueError: if an argument is out of range.
    """
    with extras.needed("train", "the training pipeline"):
        import grain  # it imports jax where that is installed, so not before it is needed

    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard must be (index, count) with 0 <= index < count, not {shard}")
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("crop", crop, 1),
        ("start", start, 0),
        ("num_workers", num_workers, 0),
        ("number of classes", len(classes), 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    phases = (Phase(0, crop, batch_size), *later)
    _warn_of_small_parts(classes, max(phase.crop_size for phase in phases))
    dataset = _dataset(grain, classes, phases, seed, shard)
    ahead = max(1, _BATCHES_AHEAD // max(1, num_workers))
    if num_workers:
        num_workers, ahead = fit_shared_memory(
            num_workers,
            ahead,
            max(phase.batch_size * (2 * 4 * 3 * phase.crop_size**2 + 4) for phase in phases),
        )
    if not num_workers:
        cv2.setNumThreads(0)
        options = grain.ReadOptions(_THREADS_WITHOUT_WORKERS, _BATCHES_AHEAD)
        return BatchIterator(
            lambda position: iter(dataset[position:].to_iter_dataset(options)), start=start
        )
    _mark_flags_parsed()
    one_thread = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    workers = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=ahead)

    def iterate(position: int) -> Iterator[Batch]:
        batches = dataset[position:].to_iter_dataset(one_thread)
        return iter(batches.mp_prefetch(workers, worker_init_fn=start_worker))

    return BatchIterator(iterate, start=start)


def _dataset(
    grain: Any,
    classes: Sequence[TrainingClass],
    phases: Sequence[Phase],
    seed: int,
    shard: tuple[int, int],
) -> Any:
    """The batches of this shard by number, as Grain's `MapDataset`."""
    index, count = shard
    numbers = grain.MapDataset.range(sys.maxsize).seed(hashed(seed))
    parts, used = [], 0  # samples of earlier phases, of all shards
    for phase, following in itertools.zip_longest(phases, phases[1:]):
        samples = numbers.random_map(_MakeSample(classes, phase.crop_size, seed))
        part = samples[used + index :: count].batch(phase.batch_size, drop_remainder=True)
        if following is not None:
            part = part[: following.first_step - phase.first_step]
            used += len(part) * phase.batch_size * count
        parts.append(part)
    return grain.MapDataset.concatenate(parts) if len(parts) > 1 else parts[0]


def describe(classes: Sequence[TrainingClass]) -> str:
    """A table of the classes, for the start of a run: items, repeats, share and origin."""
    order = _order_of(classes, seed=0)
    header = ("class", "items", "repeats", "share", "from")
    rows = [header]
    for training_class, count in zip(classes, order.counts, strict=True):
        numbers = (f"{len(training_class.source):,}", f"x {training_class.task.repeats}")
        rows.append(
            (
                training_class.name,
                *numbers,
                f"{count / order.block_length:.1%}",
                training_class.origin,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"  {name:{widths[0]}}"
        + "".join(f"  {text:>{width}}" for text, width in zip(numbers, widths[1:], strict=True))
        + f"  {origin}"
        for name, *numbers, origin in rows
    ]
    lines.insert(0, f"{len(classes)} classes, {order.pass_length:,} samples in a pass over all:")
    for names, source in _by_source(classes):
        reports = [part.report for part in source.parts]
        if any(report.skipped or not report.checked for report in reports):
            lines.append(f"  {names}: {'; '.join(report.summary() for report in reports)}")
    return "\n".join(lines)


def _warn_of_small_parts(classes: Sequence[TrainingClass], crop: int) -> None:
    """Warns of packed sub-images that are smaller than the crop."""
    for names, source in _by_source(classes):
        for part in source.parts:
            if getattr(part, "size", crop) < crop:
                _logger.warning(
                    "%s: %s holds sub-images of %d pixels, which are extended to crops of %d by "
                    "reflection; pack them with a larger --size, or lower --config.data.crop_size",
                    *(names, part.folder, part.size, crop),
                )


def _by_source(classes: Sequence[TrainingClass]) -> list[tuple[str, Any]]:
    """Each distinct source, with the names of the classes that use it."""
    users: dict[int, list[TrainingClass]] = {}
    for c in classes:
        users.setdefault(id(c.source), []).append(c)
    everyone = len(users) == 1
    return [
        ("all classes" if everyone else ", ".join(c.name for c in group), group[0].source)
        for group in users.values()
    ]


def _order_of(classes: Sequence[TrainingClass], seed: int) -> Order:
    return Order([Stream(c.name, len(c.source), c.task.repeats) for c in classes], seed)


class _MakeSample:
    """Makes sample number n of the stream (Grain's random_map)."""

    def __init__(self, classes: Sequence[TrainingClass], crop: int, seed: int):
        self._classes = tuple(classes)
        self._parts = [degradations.parse(c.task.degradation) for c in classes]
        self._crop = crop
        self._order = _order_of(classes, seed)

    def __call__(self, n: int, rng: np.random.Generator) -> dict[str, Any]:
        label, index = self._order(n)
        source = self._classes[label].source
        try:
            degraded, clean = self._sample(source[index], label, rng)
        except images.ImageError:  # of a source that refuses bad files; it names the file
            raise
        except Exception as error:
            # As text: the exceptions of some libraries cannot be pickled.
            raise DataError(
                f"cannot make a sample of class {self._classes[label].name!r} from "
                f"{source.describe(index)}: {type(error).__name__}: {error}"
            ) from error
        return {"degraded": degraded, "clean": clean, "task": np.int32(label)}

    def _sample(
        self, item: Any, label: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Degraded and clean crop, float32 [crop, crop, 3], of a photo or a pair."""
        *degraded, clean = arrays_of(item)
        top = rng.integers(max(clean.shape[0] - self._crop, 0) + 1)
        left = rng.integers(max(clean.shape[1] - self._crop, 0) + 1)
        turn = rng.integers(8)
        *degraded, clean = (
            images.to_float(_turn(crop_at(pixels, top, left, self._crop), turn))
            for pixels in (*degraded, clean)
        )
        if degraded:
            return degraded[0], clean
        clip = self._classes[label].task.clip_noise
        return degradations.apply_parts(clean, self._parts[label], rng, clip=clip), clean


def crop_start(length: int, size: int, cell: int = 0, cells: int = 1) -> int:
    """Start of the crop in the middle of one of equal cells of an axis; rounded half down.

    With one cell this is the centre crop of the original, which starts at `(length - size) // 2`.
    """
    room = max(length - size, 0)
    return ((2 * cell + 1) * room + cells - 1) // (2 * cells)


def crop_at(pixels: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    """The crop [size, size, 3] at a corner; reflected where it exceeds the image."""
    pixels = pixels[top : top + size, left : left + size]
    for axis in (0, 1):
        length = pixels.shape[axis]
        if length < size:
            # 0 1 2 1 0 1 2 ... without doubling the edge; a single row or column repeats.
            steps = np.arange(size) % max(2 * length - 2, 1)
            pixels = np.take(pixels, np.minimum(steps, 2 * length - 2 - steps), axis)
    return pixels


def _turn(pixels: np.ndarray, which: int) -> np.ndarray:
    """One of the eight flips and quarter turns of a square [h, h, 3]; a copy."""
    # OpenCV is five times as fast as NumPy here.
    turn = _TURNS[which % 4]
    if turn is not None:
        pixels = cv2.rotate(pixels, turn)
    if which >= 4:
        return cv2.flip(pixels, 1)
    return pixels if turn is not None else pixels.copy()


def _mark_flags_parsed() -> None:
    """Lets Grain read its absl flags in programs that parse no flags, such as notebooks."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
