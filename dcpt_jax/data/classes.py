"""The classes of a run: real data if available, else synthetic stand-ins.

The data of a class are the first of these:

1. `config.data.sources.CLASS`, if set; see `spec`.
2. The published datasets of the class, if they are below `config.data.datasets`.
3. Its synthetic degradation of the clean photos in `config.data.root`, or of the bundled photos.
   For a class with published data this is a stand-in; `config.data.stand_ins=False` forbids it.

The repeats of a class (how often each item is used in a pass over all classes):

* `config.repeats.CLASS`, if above 0.
* If all classes are synthesised from the same photos: the number in the task set.
* Published data: the number that brings the class closest to its published number of samples.
* Otherwise: the number that brings the class closest to the mean number of samples of the classes
  with published data or, if there are none, to the number of items of the largest class.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from dcpt_jax.data import spec
from dcpt_jax.data.datasets import DATASETS
from dcpt_jax.data.photos import PhotoSource
from dcpt_jax.data.source_factory import DescribedSource, Missing, SourceFactory
from dcpt_jax.data.sources import Cache, Source
from dcpt_jax.data.spec import SourceError
from dcpt_jax.data.tasks import Task
from dcpt_jax.images import MAX_PIXELS, ImageError

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingClass:
    """One class of a run together with its items."""

    task: Task  # name, degradation, and the final `repeats`
    source: Source  # the clean photos or pairs
    origin: str  # description of the items, for people: "synthetic rain on 11 photos"
    # The complete published test set that the items are, "rain100l" or, for clean photos, with the
    # degradation: "cbsd68 noise:25"; "" for other items
    test_set: str = ""

    @property
    def name(self) -> str:
        """The class's name."""
        return self.task.name

    @property
    def is_synthetic(self) -> bool:
        """Whether the items are clean photos, to be degraded by `task.degradation`."""
        return not self.source.is_pairs


def synthetic_classes(tasks: Sequence[Task], photos: PhotoSource) -> tuple[TrainingClass, ...]:
    """Each task as a synthetic degradation of the same clean photos."""
    return tuple(
        TrainingClass(task, photos, synthetic_origin(task, f"{len(photos)} photos"))
        for task in tasks
    )


def synthetic_origin(task: Task, photos: str) -> str:
    """Description of a synthetic class for people; `photos` is a text such as "11 photos"."""
    if task.degradation == "clean":
        return f"{photos}, as they are"
    return f"synthetic {task.degradation} on {photos}"


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """Result of opening one class."""

    task: Task  # the requested class
    training_class: TrainingClass | None  # None if it could not be opened
    missing: Missing  # the missing part of its published data
    is_stand_in: bool  # whether it is synthesised instead of using its own data
    error: Exception | None = None  # why it could not be opened


def options_from(data: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `config.data` that `open_classes` takes."""
    keys = ("root", "datasets", "stand_ins", "sources", "on_bad_file", "cache_megabytes")
    keys += ("max_pixels", "colour", "clip_noise")
    return {key: data[key] for key in keys if key in data}


def open_classes(
    tasks: Sequence[Task], *, stand_ins: bool = True, **options: Any
) -> tuple[TrainingClass, ...]:
    """Opens the data of each class, by the rules at the top of this module.

    Raises:
        SourceError: if a source cannot be opened, or a dataset is missing and `stand_ins` is False.
        FileNotFoundError: if there are no clean photos.
        ImageError: for a bad file if `on_bad_file` is "refuse".
    """
    results = try_open_classes(tasks, **options)
    if not stand_ins:
        refuse_stand_ins(results)
    for result in results:
        if result.error is not None:
            raise result.error
    return tuple(result.training_class for result in results)


def refuse_stand_ins(results: Sequence[ClassResult]) -> None:
    """Raises SourceError if a class with published data is synthesised."""
    refused = [
        f"{result.task.name}: {'; '.join(result.missing.reasons)}"
        for result in results
        if result.is_stand_in and result.missing.reasons
    ]
    if refused:
        raise SourceError(
            "config.data.stand_ins=False, but published data are missing:\n  "
            + "\n  ".join(refused)
        )


def try_open_classes(
    tasks: Sequence[Task],
    *,
    split: str = "train",
    root: str = "",
    datasets: str = "",
    sources: Mapping[str, str] | None = None,
    on_bad_file: str = "skip",
    cache_megabytes: float = 512,
    max_pixels: int = MAX_PIXELS,
    colour: str = "srgb",
    clip_noise: bool = False,
    stage: str = "pretrain",
    repeats: Mapping[str, int] | None = None,
) -> list[ClassResult]:
    """Opens each class as `open_classes` does, but returns errors instead of raising them.

    Args:
        tasks: the classes.
        split: "train" or "held_out" (never trained on). It selects the training or test data of
            datasets, and the bundled photos; it does not affect folders in `root` and `sources`.
        root: folder of clean photos; "" = bundled ones.
        datasets: folder of public datasets; "" = none.
        sources: texts of sources by class name; "" = decided by the other arguments.
        on_bad_file: "skip" or "refuse".
        cache_megabytes: limit of decoded photos in memory, for all sources together, per process.
        max_pixels: larger images count as bad.
        colour: "srgb" or "as_is", see `images.read_pixels`.
        clip_noise: whether to clip synthetic noise to [0, 1].
        stage: "pretrain" or "restore".
        repeats: repeats by class name; 0 = by the rules at the top of this module.

    Raises:
        SourceError: if `sources` names a class that is not among the tasks.
    """
    factory = SourceFactory(
        split,
        root=root,
        datasets=datasets,
        on_bad_file=on_bad_file,
        cache=Cache(cache_megabytes),
        max_pixels=max_pixels,
        colour=colour,
    )
    tasks = [dataclasses.replace(task, clip_noise=clip_noise) for task in tasks]
    sources = {name: text for name, text in (sources or {}).items() if text}
    unknown = set(sources) - {task.name for task in tasks}
    if unknown:
        raise SourceError(
            f"config.data.sources names {', '.join(sorted(unknown))}, which the run does not have; "
            f"its classes: {', '.join(task.name for task in tasks)}"
        )
    results = [_open_one(factory, task, sources.get(task.name, ""), stage) for task in tasks]
    opened = [result.training_class for result in results if result.error is None]
    final = {c.name: c for c in _with_repeats(opened, stage, repeats or {}, factory)}
    return [dataclasses.replace(r, training_class=final.get(r.task.name)) for r in results]


def _open_one(factory: SourceFactory, task: Task, text: str, stage: str) -> ClassResult:
    data, missing = None, Missing()
    try:
        if text:
            data = _from_text(factory, task, text, "data.sources")
            missing = Missing(data.missing)
        else:
            data, missing = factory.published(task, stage)
        training_class = _training_class(factory, task, data, missing)
    except (ValueError, OSError, ImportError) as error:
        return ClassResult(task, None, missing, data is None, error)
    return ClassResult(task, training_class, missing, data is None)


def _from_text(factory: SourceFactory, task: Task, text: str, key: str) -> DescribedSource:
    """The source that a text under a key of the config names; SourceError with the key if bad."""
    try:
        return factory.from_text(text, task)
    except (ValueError, OSError, ImportError) as error:
        raise SourceError(f"--config.{key}.{task.name}={text}: {error}") from error


def validation_classes(
    classes: Sequence[TrainingClass],
    *,
    datasets: str = "",
    sources: Mapping[str, str] | None = None,
    held_out_root: str = "",
    held_out_sources: Mapping[str, str] | None = None,
    on_bad_file: str = "skip",
    max_pixels: int = MAX_PIXELS,
    colour: str = "srgb",
) -> tuple[TrainingClass, ...]:
    """The classes of a run with validation data, held out where possible.

    A class uses its source in `held_out_sources`, if set. Otherwise a synthetic class uses the
    clean photos of `held_out_root` or the bundled held-out ones, and a class of pairs the test data
    of its public datasets; without test data, the training pairs.

    Args:
        classes: of the run.
        datasets: as for `open_classes`.
        sources: as for `open_classes`.
        held_out_root: folder of clean photos; "" = bundled ones.
        held_out_sources: texts of sources by class name.
        on_bad_file: "skip" or "refuse".
        max_pixels: as for `open_classes`.
        colour: as for `open_classes`.

    Raises:
        SourceError: if one of `held_out_sources` cannot be opened.
        FileNotFoundError: if there are no photos in `held_out_root`.
        ImageError: if none of them can be read, or for a bad file if `on_bad_file` is "refuse".
    """
    factory = SourceFactory(
        "held_out",
        root=held_out_root,
        root_key="--config.validation.root",
        datasets=datasets,
        on_bad_file=on_bad_file,
        cache=Cache(0),
        max_pixels=max_pixels,
        colour=colour,
    )
    held_out = []
    for c in classes:
        data = None
        if text := (held_out_sources or {}).get(c.name):
            data = _from_text(factory, c.task, text, "validation.sources")
        elif not c.is_synthetic:
            try:
                data = _test_data(factory, c.task, (sources or {}).get(c.name) or "")
            except (ValueError, OSError, ImportError) as error:
                if isinstance(error, ImageError) and on_bad_file == "refuse":
                    raise
                _logger.warning("no test data of %s: %s", c.name, error)
            if data is None:
                held_out.append(c)
                continue
        held_out.append(_training_class(factory, c.task, data, Missing()))
    return tuple(held_out)


def _test_data(factory: SourceFactory, task: Task, text: str) -> DescribedSource | None:
    """The test data of the public datasets of a class, or of those in its source's text."""
    if not text:
        return factory.published(task, "restore")[0]
    if all(kind in DATASETS for kind, _ in spec.parse(text)):
        return factory.from_text(text, task)
    return None


def _with_repeats(
    classes: Sequence[TrainingClass],
    stage: str,
    requested: Mapping[str, int],
    factory: SourceFactory,
) -> tuple[TrainingClass, ...]:
    """The classes with their final repeats; see the top of this module."""
    repeats = {c.name: requested[c.name] for c in classes if requested.get(c.name)}
    if not classes:
        return ()
    shared = {id(c.source) for c in classes if c.is_synthetic}
    if len(shared) == 1 and all(c.is_synthetic for c in classes) and not factory.published_classes:
        return tuple(_repeated(c, repeats.get(c.name, c.task.repeats)) for c in classes)
    samples = {
        c.name: c.task.published(stage)[1] or len(c.source)
        for c in classes
        if c.name in factory.published_classes
    }
    typical = max(len(c.source) for c in classes)
    if samples:
        typical = sum(samples.values()) / len(samples)
    default = {c.name: max(1, round(samples.get(c.name, typical) / len(c.source))) for c in classes}
    return tuple(_repeated(c, repeats.get(c.name, default[c.name])) for c in classes)


def _repeated(c: TrainingClass, repeats: int) -> TrainingClass:
    return dataclasses.replace(c, task=dataclasses.replace(c.task, repeats=repeats))


def _training_class(
    factory: SourceFactory, task: Task, data: DescribedSource | None, missing: Missing
) -> TrainingClass:
    """The class with its own data, or with clean photos if `data` is None."""
    note = f" ({missing.note})" if missing.note else ""
    if data is None:
        photos, where = factory.clean_photos()
        origin = synthetic_origin(task, f"{len(photos)} {where}") + note
        return TrainingClass(task, photos, origin)
    test_set = data.dataset.name if data.is_test_set else ""
    if data.source.is_pairs:
        origin = data.origin + note
        return TrainingClass(task, data.source, origin, test_set=test_set)
    fixed = data.dataset.degradation if data.dataset is not None else ""
    # Not for a class with an explicit strength, such as "noise:15".
    if factory.split == "held_out" and fixed.partition(":")[0] == task.name:
        task = dataclasses.replace(task, degradation=fixed)
    origin = synthetic_origin(task, f"{len(data.source)} {data.origin}") + note
    test_set = test_set and f"{test_set} {task.degradation}"
    return TrainingClass(task, data.source, origin, test_set=test_set)
