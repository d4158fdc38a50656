"""Comparison of measured results with published ones.

Only comparable figures are put into one table:

* All runs and tables have the same convention of PSNR and SSIM.
* All runs measured the same classes on the same data.
* A published figure of a class is shown only if the run measured the same test set, complete and
  with whole images. A note lists the classes without a comparable figure.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dcpt_jax import files
from dcpt_jax.evaluate import published
from dcpt_jax.evaluate.published import AVERAGE, Score
from dcpt_jax.metrics import Convention

FILE = "evaluation.json"


class ComparisonError(ValueError):
    """Figures that are not comparable, or missing; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """Means over the samples of one class of a run; PSNR in dB."""

    psnr: float  # of the restored images
    ssim: float
    degraded: float  # PSNR of the degraded images
    samples: int
    data: str = ""  # description of the samples, for people
    # The complete test set that the samples are, see `data.classes.TrainingClass`; or ""
    test_set: str = ""


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
    """Results of one evaluation."""

    name: str  # heading of its column
    task_set: str  # task set of the weights
    architecture: str
    convention: Convention
    crop_size: int  # side of the samples in pixels; 0 = whole images
    classes: Mapping[str, Measured]  # figures by class
    mean: Measured  # plain means over the classes
    remark: str = ""  # a further note for readers; or ""

    @property
    def setting(self) -> str:
        """Convention and size of the samples, for people."""
        size = f"crops of {self.crop_size}x{self.crop_size} pixels"
        return f"{self.convention}, {size if self.crop_size else 'whole images'}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One class, or the mean."""

    name: str  # class, or "mean"
    measured: tuple[Measured, ...]  # one per run
    published: tuple[Score | None, ...]  # one per method; None if not comparable


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table of runs and published methods."""

    runs: tuple[EvaluatedRun, ...]  # the measured columns
    # The published columns: (method, its table)
    methods: tuple[tuple[str, published.Table], ...]
    rows: tuple[Row, ...]  # the classes, then the mean
    header: str  # note above the table on classes without published figures; or ""
    notes: tuple[str, ...]  # notes below the table


def read_runs(paths: Sequence[Path | str]) -> list[EvaluatedRun]:
    """Reads the results of evaluations, named by the shortest ends of their paths that are unique.

    Raises:
        ComparisonError: see `read_run`.
    """
    places = [_file(path).resolve() for path in paths]
    places = [file.parent if file.name == FILE else file.with_suffix("") for file in places]
    names = files.short_names(places)
    return [read_run(path, names[place]) for path, place in zip(paths, places, strict=True)]


def _file(path: Path | str) -> Path:
    return Path(path, FILE) if Path(path).is_dir() else Path(path)


def read_run(path: Path | str, name: str) -> EvaluatedRun:
    """Reads the results of an evaluation.

    Args:
        path: its work directory, or the file.
        name: heading of its column.

    Raises:
        ComparisonError: if there is no such file, or it is incomplete.
    """
    file = _file(path)
    if file.exists() and not file.is_file():
        raise ComparisonError(f"{file} is not a regular file; give {FILE} or its folder")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError("it holds no results of an evaluation")
        return parse_run(content, name)
    except FileNotFoundError as error:
        raise ComparisonError(
            f"{path} contains no {FILE}; give the work directory of a run of configs/evaluate.py"
        ) from error
    except json.JSONDecodeError as error:
        raise ComparisonError(f"{file} is not JSON: {error}; give {FILE} or its folder") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ComparisonError(f"{file} cannot be read: {error}") from error
    except KeyError as error:
        raise ComparisonError(
            f"{file} lacks the key {error}, which comparisons need; run configs/evaluate.py again"
        ) from error


def parse_run(content: Mapping[str, Any], name: str) -> EvaluatedRun:
    """The run in the content of an `evaluation.json`.

    Raises:
        KeyError: for a missing key.
        TypeError: for a value of another type.
    """

    def value(table: Mapping[str, Any], key: str, *kinds: type) -> Any:
        found = table[key]
        if not isinstance(found, kinds) or isinstance(found, bool):
            raise TypeError(f"{key} is {json.dumps(found)[:60]}")
        return found

    def measured(values: Mapping[str, Any], name: str = "") -> Measured:
        return Measured(
            value(values, "psnr_restored", float, int),
            value(values, "ssim_restored", float, int),
            value(values, "psnr_degraded", float, int),
            value(values, "samples", int),
            value({name: "", **content["data"]}, name, str),
            value({name: "", **content["test_sets"]}, name, str),
        )

    return EvaluatedRun(
        name,
        value(content, "task_set", str),
        value(content, "architecture", str),
        Convention(
            value(content["metric"], "channel", str),
            value(content["metric"], "rounding", str),
            value(content["metric"], "crop", int),
        ),
        value(content, "crop_size", int),
        {
            class_name: measured(values, class_name)
            for class_name, values in value(content, "classes", dict).items()
        },
        measured(content["mean"]),
        value({"remark": "", **content}, "remark", str),
    )


def compare(runs: Sequence[EvaluatedRun], methods: Sequence[str] | None = None) -> Comparison:
    """Compares runs with each other and with published figures.

    Args:
        runs: one or more.
        methods: published methods of the runs' task set; None: the runs' backbones without and with
            pre-training, if published in the runs' convention.

    Raises:
        ComparisonError: if the runs are not comparable with each other, or a requested method is
            unknown or of another convention.
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
                table.score(method, name) if _is_comparable(runs, table, name) else None
                for method, table in columns
            ),
        )
        for name in runs[0].classes
    ]
    averages = (
        table.score(method, AVERAGE)
        if set(runs[0].classes) == set(table.classes)
        and all(_is_comparable(runs, table, name) for name in table.classes)
        else None
        for method, table in columns
    )
    rows.append(Row("mean", tuple(run.mean for run in runs), tuple(averages)))
    comparable = [any(row.published[i] for row in rows) for i in range(len(columns))]
    header = "" if methods == [] else _without_published(runs, [table for _, table in columns])
    columns = [
        column for column, is_comparable in zip(columns, comparable, strict=True) if is_comparable
    ]
    rows = [
        dataclasses.replace(
            row,
            published=tuple(
                s
                for s, is_comparable in zip(row.published, comparable, strict=True)
                if is_comparable
            ),
        )
        for row in rows
    ]
    notes += [_source_note(method, table) for method, table in columns]
    remarks = dict.fromkeys(table.remark for _, table in columns if table.remark)
    notes += [f"{run.name}: {run.remark}." for run in runs if run.remark]
    return Comparison(tuple(runs), tuple(columns), tuple(rows), header, (*notes, *remarks))


def _check_runs(runs: Sequence[EvaluatedRun]) -> None:
    """Raises ComparisonError unless all runs measured the same data in the same convention."""
    first = runs[0]
    for other in runs[1:]:
        if (other.convention, other.crop_size) != (first.convention, first.crop_size):
            raise ComparisonError(
                f"conventions differ ({first.name}: {first.setting}; {other.name}: "
                f"{other.setting}); evaluate both with the same --config.channel, "
                "--config.rounding and --config.data.crop_size"
            )
        if set(other.classes) != set(first.classes):
            raise ComparisonError(
                f"{first.name} measured {', '.join(first.classes)}, {other.name} "
                f"{', '.join(other.classes)}; evaluate both with the same --config.tasks"
            )
        for name, a in first.classes.items():
            b = other.classes[name]
            data = [(m.test_set or m.data, m.samples) for m in (a, b)]
            if data[0] != data[1]:
                raise ComparisonError(
                    f"{name} was measured on different data: {first.name} on {a.samples} samples "
                    f"of {a.data}, {other.name} on {b.samples} of {b.data}"
                )


def _default_methods(
    runs: Sequence[EvaluatedRun],
) -> tuple[list[tuple[str, published.Table]], list[str]]:
    """(method, table) of the runs' backbones, and notes on those of other conventions."""
    columns, notes = [], []
    for table in _tables(runs):
        names = [
            m for m in table.methods if any(_uses_backbone(m, run.architecture) for run in runs)
        ]
        if table.convention == runs[0].convention:
            columns += [(method, table) for method in names]
        elif names and any(_is_comparable(runs, table, name) for name in table.classes):
            notes.append(
                f"Published results of {', '.join(names)} are not shown: their convention is "
                f"different, {table.convention}."
            )
    return columns, notes


def _requested_methods(
    runs: Sequence[EvaluatedRun], methods: Sequence[str]
) -> list[tuple[str, published.Table]]:
    """(method, table) of the requested methods; ComparisonError if one cannot be shown."""
    known = {method: table for table in _tables(runs) for method in table.methods}
    sets = {run.task_set for run in runs}
    columns = []
    for method in methods:
        if method not in known:
            names = ", ".join(known) or "none"
            raise ComparisonError(
                f"--published: there are no results of {method!r} for {', '.join(sorted(sets))}; "
                f"known: {names}"
            )
        table = known[method]
        if table.convention != runs[0].convention:
            keys = f"--config.channel={table.convention.channel} "
            keys += f"--config.rounding={table.convention.rounding}"
            raise ComparisonError(
                f"conventions differ ({runs[0].name}: {runs[0].convention}; the published "
                f"{method}: {table.convention}); remove it from --published, or evaluate with "
                f"{keys}"
            )
        columns.append((method, table))
    return columns


def _tables(runs: Sequence[EvaluatedRun]) -> list[published.Table]:
    """The published tables of the task set that all runs were trained on."""
    sets = {run.task_set for run in runs}
    return list(published.tables_of(sets.pop())) if len(sets) == 1 else []


def _uses_backbone(method: str, architecture: str) -> bool:
    """Whether a published method is this backbone, without or with (Mask)DCPT's pre-training."""
    prefix, _, backbone = method.rpartition("-")
    return backbone.lower() == architecture and prefix in ("", "DCPT", "MaskDCPT")


def _is_comparable(runs: Sequence[EvaluatedRun], table: published.Table, name: str) -> bool:
    """Whether the runs measured the test set of a class's figures in the table."""
    test_set = table.test_sets.get(name)
    return test_set is not None and all(
        name in run.classes
        and (run.crop_size, run.classes[name].test_set, run.classes[name].samples)
        == (0, test_set.name, test_set.images)
        for run in runs
    )


def _without_published(runs: Sequence[EvaluatedRun], tables: Sequence[published.Table]) -> str:
    """A note on classes that cannot be compared with published figures; "" if all can."""
    known = tables or _tables(runs)
    if not known:
        sets = ", ".join(dict.fromkeys(run.task_set for run in runs))
        return f"There are no published results for networks trained on {sets}."
    names = runs[0].classes
    incomparable = [
        name for name in names if not any(_is_comparable(runs, table, name) for table in known)
    ]
    if not incomparable:
        return ""
    which = "all classes" if len(incomparable) == len(names) else ", ".join(incomparable)
    return f"Not compared with published results, as the test images differ: {which}."


def _source_note(method: str, table: published.Table) -> str:
    scores = [score for score in table.scores if score.method == method]
    note = ", second-hand: the publication reports another group's method"
    return f"{method}: {table.source}{note if scores[0].second_hand else ''}."
