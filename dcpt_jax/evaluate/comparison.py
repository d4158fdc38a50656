"""Measured figures beside published ones, and the rules of what may stand beside what.

Figures stand in one table only if they compare:

* All are of one convention of PSNR and SSIM; another is refused.
* All runs measured the same classes on the same data; others are refused.
* A published figure of a class appears only where the run measured the test set that it is of,
  all of it and whole images. A note names the classes without one.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dcpt_jax.evaluate import published
from dcpt_jax.evaluate.published import AVERAGE, Score
from dcpt_jax.metrics import Convention

FILE = "evaluation.json"


class ComparisonError(ValueError):
    """Figures that do not compare, or that are not there; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """Means over the samples of one class of a run; PSNR in dB."""

    psnr: float  # of the restored images, like `ssim`
    ssim: float
    degraded: float  # PSNR of the degraded ones
    samples: int  # how many
    data: str = ""  # what they are, in words
    # The published test set that they are, see `data.classes.TrainingClass`; or ""
    test_set: str = ""


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
    """What an evaluation measured."""

    name: str  # heading of its column
    task_set: str  # what the weights were trained on
    architecture: str  # of the network
    convention: Convention  # of PSNR and SSIM
    crop_size: int  # of the samples, in pixels; 0 = whole images
    classes: Mapping[str, Measured]  # figures by class
    mean: Measured  # figures of the plain mean over the classes
    remark: str = ""  # what else a reader should know; "" for nothing

    @property
    def setting(self) -> str:
        """Convention and size of the samples, in words."""
        size = f"crops of {self.crop_size}x{self.crop_size} pixels"
        return f"{self.convention}, {size if self.crop_size else 'whole images'}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One class, or the mean."""

    name: str  # of the class, or "mean"
    measured: tuple[Measured, ...]  # of each run
    published: tuple[Score | None, ...]  # of each method; None where there is none that compares


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table of runs and published methods."""

    runs: tuple[EvaluatedRun, ...]  # the measured columns
    # The published columns, with the tables that they come from
    methods: tuple[tuple[str, published.Table], ...]
    rows: tuple[Row, ...]  # the classes, then the mean
    header: str  # what has to be said above the table of classes without published figures; or ""
    notes: tuple[str, ...]  # what else has to be said


def read_run(path: Path | str) -> EvaluatedRun:
    """Reads what an evaluation wrote.

    Raises:
        ComparisonError: if there is no such file, or it lacks something.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    name = file.resolve().parent.name if file.name == FILE else file.stem
    try:
        return parse_run(json.loads(file.read_text(encoding="utf-8")), name)
    except FileNotFoundError as error:
        raise ComparisonError(
            f"{path} holds no {FILE}; give a work directory of configs/evaluate.py"
        ) from error
    except json.JSONDecodeError as error:
        raise ComparisonError(f"{file} is not JSON: {error}; give {FILE} or its folder") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ComparisonError(f"{file} cannot be read: {error}") from error
    except KeyError as error:
        raise ComparisonError(
            f"{file} does not say {error}, without which its figures cannot be compared; "
            "run configs/evaluate.py again"
        ) from error


def parse_run(content: Mapping[str, Any], name: str) -> EvaluatedRun:
    """The run in the content of an `evaluation.json`; KeyError for what is missing."""

    def measured(values: Mapping[str, Any], one: str = "") -> Measured:
        return Measured(
            values["psnr_restored"],
            values["ssim_restored"],
            values["psnr_degraded"],
            values["samples"],
            content["data"].get(one, ""),
            content["test_sets"].get(one, ""),
        )

    return EvaluatedRun(
        name,
        content["task_set"],
        content["architecture"],
        Convention(**content["metric"]),
        content["crop_size"],
        {one: measured(values, one) for one, values in content["classes"].items()},
        measured(content["mean"]),
        content.get("remark", ""),
    )


def compare(runs: Sequence[EvaluatedRun], methods: Sequence[str] | None = None) -> Comparison:
    """Puts runs beside each other and beside published figures.

    Args:
        runs: one or more.
        methods: published ones of the runs' task set; None: the runs' backbones without and with
            pre-training, as far as they were published in the runs' convention.

    Raises:
        ComparisonError: if the runs do not compare with each other, or a method that was asked for
            is unknown or of another convention.
    """
    _check_runs(runs)
    if methods is None:
        columns, notes = _default_methods(runs)
    else:
        columns, notes = _requested_methods(runs, methods), []
    rows = [
        Row(
            name,
            tuple(run.classes[name] for run in runs),
            tuple(
                table.score(method, name) if _compares(runs, table, name) else None
                for method, table in columns
            ),
        )
        for name in runs[0].classes
    ]
    averages = (
        table.score(method, AVERAGE)
        if set(runs[0].classes) == set(table.classes)
        and all(_compares(runs, table, name) for name in table.classes)
        else None
        for method, table in columns
    )
    rows.append(Row("mean", tuple(run.mean for run in runs), tuple(averages)))
    found = [any(row.published[i] for row in rows) for i in range(len(columns))]
    header = "" if methods == [] else _without_published(runs, [table for _, table in columns])
    columns = [column for column, there in zip(columns, found, strict=True) if there]
    rows = [
        dataclasses.replace(
            row,
            published=tuple(s for s, there in zip(row.published, found, strict=True) if there),
        )
        for row in rows
    ]
    notes += [_source_note(method, table) for method, table in columns]
    remarks = dict.fromkeys(table.remark for _, table in columns if table.remark)
    notes += [f"{run.name}: {run.remark}." for run in runs if run.remark]
    return Comparison(tuple(runs), tuple(columns), tuple(rows), header, (*notes, *remarks))


def _check_runs(runs: Sequence[EvaluatedRun]) -> None:
    """Raises ComparisonError unless all runs measured the same things in the same way."""
    first = runs[0]
    for other in runs[1:]:
        if (other.convention, other.crop_size) != (first.convention, first.crop_size):
            raise ComparisonError(
                f"conventions are not mixed: {first.name} is of {first.setting}, {other.name} of "
                f"{other.setting}; evaluate both with the same --config.channel, "
                "--config.rounding and --config.data.crop_size"
            )
        if set(other.classes) != set(first.classes):
            raise ComparisonError(
                f"{first.name} measured {', '.join(first.classes)}, {other.name} "
                f"{', '.join(other.classes)}; evaluate both with the same --config.tasks"
            )
        for name, one in first.classes.items():
            two = other.classes[name]
            data = [(m.test_set or m.data, m.samples) for m in (one, two)]
            if data[0] != data[1]:
                raise ComparisonError(
                    f"{name} was measured on other data: {first.name} on {one.samples} samples "
                    f"of {one.data}, {other.name} on {two.samples} of {two.data}"
                )


def _default_methods(
    runs: Sequence[EvaluatedRun],
) -> tuple[list[tuple[str, published.Table]], list[str]]:
    """(method, table) of the runs' backbones, and notes on those of other conventions."""
    columns, notes = [], []
    for table in _tables(runs):
        wanted = [m for m in table.methods if any(_is_of(m, run.architecture) for run in runs)]
        if table.convention == runs[0].convention:
            columns += [(method, table) for method in wanted]
        elif wanted and any(_compares(runs, table, name) for name in table.classes):
            notes.append(
                f"Published figures of {', '.join(wanted)} are not shown: they are of another "
                f"convention, {table.convention}."
            )
    return columns, notes


def _requested_methods(
    runs: Sequence[EvaluatedRun], methods: Sequence[str]
) -> list[tuple[str, published.Table]]:
    """(method, table) of the methods asked for; ComparisonError if one cannot be shown."""
    known = {method: table for table in _tables(runs) for method in table.methods}
    sets = {run.task_set for run in runs}
    columns = []
    for method in methods:
        if method not in known:
            names = ", ".join(known) or "none"
            raise ComparisonError(
                f"--published: no figures of {method!r} are known for {', '.join(sorted(sets))}; "
                f"known: {names}"
            )
        table = known[method]
        if table.convention != runs[0].convention:
            keys = f"--config.channel={table.convention.channel} "
            keys += f"--config.rounding={table.convention.rounding}"
            raise ComparisonError(
                f"conventions are not mixed: {runs[0].name} is of {runs[0].convention}, the "
                f"published {method} of {table.convention}; leave it out of --published, or "
                f"evaluate with {keys}"
            )
        columns.append((method, table))
    return columns


def _tables(runs: Sequence[EvaluatedRun]) -> list[published.Table]:
    """The published tables of the task set that all runs were trained on."""
    sets = {run.task_set for run in runs}
    return list(published.tables_of(sets.pop())) if len(sets) == 1 else []


def _is_of(method: str, architecture: str) -> bool:
    """Whether a method is a backbone, or what (Mask)DCPT made of it."""
    prefix, _, backbone = method.rpartition("-")
    return backbone.lower() == architecture and prefix in ("", "DCPT", "MaskDCPT")


def _compares(runs: Sequence[EvaluatedRun], table: published.Table, name: str) -> bool:
    """Whether the runs measured the test set that the table's figures of a class are of."""
    wanted = table.test_sets.get(name)
    return wanted is not None and all(
        name in run.classes
        and (run.crop_size, run.classes[name].test_set, run.classes[name].samples)
        == (0, wanted.name, wanted.images)
        for run in runs
    )


def _without_published(runs: Sequence[EvaluatedRun], tables: Sequence[published.Table]) -> str:
    """A note on classes that cannot be compared with published figures; "" if all can."""
    known = tables or _tables(runs)
    if not known:
        sets = ", ".join(dict.fromkeys(run.task_set for run in runs))
        return f"No figures are published of networks trained on {sets}."
    names = runs[0].classes
    others = [name for name in names if not any(_compares(runs, table, name) for table in known)]
    if not others:
        return ""
    which = "all classes" if len(others) == len(names) else ", ".join(others)
    return f"Not compared with publications, because of other test images: {which}."


def _source_note(method: str, table: published.Table) -> str:
    scores = [score for score in table.scores if score.method == method]
    note = ", second-hand: the publication reports another group's method"
    return f"{method}: {table.source}{note if scores[0].second_hand else ''}."
