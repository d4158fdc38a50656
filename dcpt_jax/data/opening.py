"""From a config's keys to the classes of a run: real data where there are any, else stand-ins.

What a class is made of is decided in this order:

1. `config.data.sources.CLASS`, where it is set; see `opener.parse_sources` for what it can say.
2. The class's published data sets, where `config.data.datasets` names the folder that holds them.
3. Its synthetic degradation on the clean photos of `config.data.root`, or on the bundled ones. For
   a class that has published data that is a stand-in; `config.data.stand_ins=False` forbids it.

How often the items of a class are used in a pass over all classes (its repeats):

* As `config.repeats.CLASS` says, where it is above 0.
* Where all classes are synthesised from the same photos: as the task set says.
* Published data: as often as brings the class nearest to its published number of samples.
* All others: as often as brings the class nearest to the mean number of samples of the classes of
  published data; without such classes, nearest to the number of items of the largest class.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from dcpt_jax.data import datasets as public
from dcpt_jax.data.classes import TrainingClass
from dcpt_jax.data.decoded import DecodedCache
from dcpt_jax.data.opener import Missing, Opened, Opener, SourceError, open_source, parse_sources
from dcpt_jax.data.tasks import Task
from dcpt_jax.images import MAX_PIXELS, ImageError

__all__ = [
    "OpenedClass",
    "SourceError",
    "arguments",
    "classes_to_show",
    "open_classes",
    "open_each",
    "open_source",
    "parse_sources",
]


_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class OpenedClass:
    """What became of a class.

    Attributes:
        task: the class as asked for.
        training_class: what it is made of; None where that could not be opened.
        missing: what of its published data is not there.
        is_stand_in: whether it is synthesised from clean photos that are no data of its own.
        error: why it could not be opened.
    """

    task: Task
    training_class: TrainingClass | None
    missing: Missing
    is_stand_in: bool
    error: Exception | None = None


def arguments(data: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `config.data` that `open_classes` takes."""
    keys = ("root", "datasets", "stand_ins", "sources", "on_bad_file", "cache_megabytes")
    keys += ("max_pixels", "colour")
    return {key: data[key] for key in keys if key in data}


def open_classes(
    tasks: Sequence[Task], *, stand_ins: bool = True, **options: Any
) -> tuple[TrainingClass, ...]:
    """Opens what each class is made of, by the rules at the top of this module.

    Args:
        tasks: the classes.
        stand_ins: whether a class may be synthesised where its data set is not there.
        **options: see `open_each`.

    Raises:
        SourceError: if a source cannot be opened, or a data set is missing that nothing may stand
            in for.
        FileNotFoundError: if there are no clean photos.
        ImageError: for a bad file where `on_bad_file` is "refuse".
    """
    found = open_each(tasks, **options)
    refused = [
        f"{one.task.name}: {'; '.join(one.missing.reasons)}"
        for one in found
        if one.is_stand_in and one.missing.reasons
    ]
    if refused and not stand_ins:
        raise SourceError(
            "config.data.stand_ins=False, but published data are missing:\n  "
            + "\n  ".join(refused)
        )
    for one in found:
        if one.error is not None:
            raise one.error
    return tuple(one.training_class for one in found)


def open_each(
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
    stage: str = "pretrain",
    repeats: Mapping[str, int] | None = None,
) -> list[OpenedClass]:
    """What became of each class: as `open_classes`, but errors are returned.

    Args:
        tasks: the classes.
        split: "train", or "held_out" for what was never trained on: the test data of the data sets,
            and the held-out half of the bundled photos. `root` and `sources` that name folders are
            taken as they are.
        root: folder of clean photos; "" = bundled ones.
        datasets: folder of public data sets; "" = none.
        sources: what classes are made of, by their names; "" = by the other keys.
        on_bad_file: "skip" or "refuse".
        cache_megabytes: of decoded photos kept in memory by all sources together, per process.
        max_pixels: larger images count as bad.
        colour: "srgb" or "as_is", see `images.read_pixels`.
        stage: "pretrain" or "restore".
        repeats: how often the items of a class are used, by its name; 0 = by the rules above.

    Raises:
        SourceError: if `sources` names a class that is not among the tasks.
    """
    opener = Opener(
        split,
        root=root,
        datasets=datasets,
        on_bad_file=on_bad_file,
        cache_megabytes=DecodedCache(cache_megabytes),
        max_pixels=max_pixels,
        colour=colour,
    )
    sources = {name: text for name, text in (sources or {}).items() if text}
    unknown = set(sources) - {task.name for task in tasks}
    if unknown:
        raise SourceError(
            f"config.data.sources names {', '.join(sorted(unknown))}, which the run does not have; "
            f"its classes: {', '.join(task.name for task in tasks)}"
        )
    found = [_open_one(opener, task, sources.get(task.name, ""), stage) for task in tasks]
    opened = [one.training_class for one in found if one.error is None]
    decided = {one.name: one for one in _with_repeats(opened, stage, repeats or {}, opener)}
    return [dataclasses.replace(one, training_class=decided.get(one.task.name)) for one in found]


def _open_one(opener: Opener, task: Task, text: str, stage: str) -> OpenedClass:
    opened, missing = None, Missing()
    try:
        if text:
            try:
                opened = opener.stated(text, task)
                missing = Missing(opened.missing)
            except (ValueError, OSError, ImportError) as error:
                raise SourceError(f"--config.data.sources.{task.name}={text}: {error}") from error
        else:
            opened, missing = opener.published(task, stage)
        training_class = opener.training_class(task, opened, missing)
    except (ValueError, OSError, ImportError) as error:
        return OpenedClass(task, None, missing, opened is None, error)
    return OpenedClass(task, training_class, missing, opened is None)


def classes_to_show(
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
    """The classes of a run with data to watch it by while it trains, best not trained on.

    Of each class what `held_out_sources` states; else, synthetic classes get the clean photos of
    `held_out_root` or the bundled held-out ones, and pairs of public data sets their test data.
    Where there are none, the pairs that are trained on.

    Args:
        classes: of the run.
        datasets: as for `open_classes`.
        sources: as for `open_classes`.
        held_out_root: folder of clean photos; "" = bundled ones.
        held_out_sources: what to watch classes by, by their names, as `sources` states it.
        on_bad_file: "skip" or "refuse".
        max_pixels: as for `open_classes`.
        colour: as for `open_classes`.

    Raises:
        SourceError: if one of `held_out_sources` cannot be opened.
        FileNotFoundError: if there are no photos in `held_out_root`.
        ImageError: if none of them can be read, or for a bad file where `on_bad_file` is "refuse".
    """
    opener = Opener(
        "held_out",
        root=held_out_root,
        datasets=datasets,
        on_bad_file=on_bad_file,
        cache_megabytes=DecodedCache(0),
        max_pixels=max_pixels,
        colour=colour,
    )
    shown = []
    for one in classes:
        if stated := (held_out_sources or {}).get(one.name):
            try:
                opened = opener.stated(stated, one.task)
            except (ValueError, OSError, ImportError) as error:
                raise SourceError(
                    f"--config.validation.sources.{one.name}={stated}: {error}"
                ) from error
            shown.append(opener.training_class(one.task, opened, Missing()))
            continue
        if one.is_synthetic:
            shown.append(opener.training_class(one.task, None, Missing()))
            continue
        text = (sources or {}).get(one.name) or ""
        opened = None
        try:
            opened = _test_data(opener, one.task, text)
        except (ValueError, OSError, ImportError) as error:
            if isinstance(error, ImageError) and on_bad_file == "refuse":
                raise
            _logger.warning("no test data of %s: %s", one.name, error)
        shown.append(one if opened is None else opener.training_class(one.task, opened, Missing()))
    return tuple(shown)


def _test_data(opener: Opener, task: Task, text: str) -> Opened | None:
    """The test data of a class's public data sets, or of those that its source's text names."""
    if not text:
        return opener.published(task, "restore")[0]
    if all(kind in public.DATASETS for kind, _ in parse_sources(text)):
        return opener.stated(text, task)
    return None


def _with_repeats(
    classes: Sequence[TrainingClass], stage: str, asked: Mapping[str, int], opener: Opener
) -> tuple[TrainingClass, ...]:
    """The classes with their repeats as finally decided; see the top of this module."""
    repeats = {one.name: asked[one.name] for one in classes if asked.get(one.name)}
    if not classes:
        return ()
    shared = {id(one.source) for one in classes if one.is_synthetic}
    if len(shared) == 1 and all(one.is_synthetic for one in classes) and not opener.from_data_set:
        return tuple(_repeated(one, repeats.get(one.name, one.task.repeats)) for one in classes)
    samples = {
        one.name: one.task.published(stage)[1] or len(one.source)
        for one in classes
        if one.name in opener.from_data_set
    }
    others = max(len(one.source) for one in classes)
    if samples:
        others = sum(samples.values()) / len(samples)
    nearest = {
        one.name: max(1, round(samples.get(one.name, others) / len(one.source))) for one in classes
    }
    return tuple(_repeated(one, repeats.get(one.name, nearest[one.name])) for one in classes)


def _repeated(one: TrainingClass, repeats: int) -> TrainingClass:
    return dataclasses.replace(one, task=dataclasses.replace(one.task, repeats=repeats))
