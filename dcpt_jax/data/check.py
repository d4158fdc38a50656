"""`python -m dcpt_jax.data.check --config=...`: checks all data of a run before it starts.

Prints a table of every source of every class (number of files, problems, image sizes), and then
every bad file. Reads the headers of all files; with `--decode` it decodes them, which also finds
damaged pixel data and takes as long as one pass over the data.

The only module of `data` that imports `config`; no other module imports it.
"""

import collections
import concurrent.futures
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm
from absl import flags

from dcpt_jax import config as configs
from dcpt_jax import extras, images
from dcpt_jax.command_line import UsageError, guarded
from dcpt_jax.config import flags as config_flags
from dcpt_jax.data import classes
from dcpt_jax.data.classes import ClassResult
from dcpt_jax.data.pairs import PairSource, SizeError
from dcpt_jax.data.photos import PhotoSource
from dcpt_jax.data.sources import Source, arrays_of
from dcpt_jax.images import listing
from dcpt_jax.interruption import Interruption
from dcpt_jax.modes import MODES

with extras.needed("train", "dcpt_jax.data.check"):
    import ml_collections

_USAGE = """python -m dcpt_jax.data.check --config=configs/restore.py:nafnet,5d \\
    --config.data.datasets=/data

Checks all data of a run: prints the number of files, problems and image sizes of every source, and
every bad file. Give the config of the run with the same --config... flags; the config of an
evaluation checks the test data.

--decode   decode every file instead of reading its header: also finds damaged pixel data, and takes
           as long as one pass over the data.
--split    train or held_out (default: the split that the config's mode uses).

Exit status: 0: no problems; 1: something is missing or bad; 2: wrong use."""

_SAMPLED = 100  # items to read of packed, TFDS and registered sources without --decode
_THREADS = 8  # reading and decoding release the GIL
_PART = 1000  # items submitted to the threads at a time
KINDS = ("unreadable", "unpaired", "different size")


@dataclasses.dataclass(frozen=True)
class SourceCheck:
    """Result of checking one source."""

    location: str  # its folder or name
    total: int  # number of files or pairs
    kinds: dict[str, int]  # number of problems of each of `KINDS`
    problems: tuple[str, ...]  # a message for each problem
    sizes: np.ndarray  # int [items, 2], height and width of each good item
    unused: int = 0  # number of clean files without a degraded one
    notes: tuple[str, ...] = ()  # further warnings
    # Number of files left out, see `FileList`
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def too_small(self, crop: int) -> int:
        """Number of items smaller than the crop."""
        return int((self.sizes.min(axis=1) < crop).sum())


@dataclasses.dataclass(frozen=True)
class ClassCheck:
    """A class and the results of its sources."""

    opened: ClassResult
    parts: tuple[SourceCheck, ...]  # () if the class could not be opened
    share: float  # share of the samples in a pass over all classes


def check(
    opened: Sequence[ClassResult],
    *,
    decode: bool = False,
    progress: Callable[[], Any] = lambda: None,
) -> list[ClassCheck]:
    """Checks all files of all classes; sources shared by several classes are checked once."""
    checks: dict[int, SourceCheck] = {}
    total = sum(_samples(result) for result in opened)
    class_checks = []
    for result in opened:
        parts = []
        for source in _parts(result):
            if id(source) not in checks:
                checks[id(source)] = check_source(source, decode=decode, progress=progress)
            parts.append(checks[id(source)])
        class_checks.append(
            ClassCheck(result, tuple(parts), _samples(result) / total if total else 0.0)
        )
    return class_checks


def count_items(opened: Sequence[ClassResult]) -> int:
    """Number of calls of `progress` by `check`."""
    sources = {id(source): source for result in opened for source in _parts(result)}
    return sum(len(source) for source in sources.values())


def check_source(
    source: Any, *, decode: bool = False, progress: Callable[[], Any] = lambda: None
) -> SourceCheck:
    """Checks all files of one source."""
    report = source.report
    kinds = {"unreadable": len(report.skipped), **report.kinds}
    problems = [reason for _, reason in report.skipped]
    of_files = isinstance(source, PhotoSource | PairSource)
    count, notes = len(source), report.warnings
    if not of_files and not decode and count > _SAMPLED:
        notes = (*notes, f"sizes of the first {_SAMPLED}")
        count = _SAMPLED

    def size_or_error(index: int) -> tuple[int, int] | images.ImageError:
        try:
            return _size(source, index, decode or not of_files)
        except images.ImageError as error:
            return error

    sizes = []
    # In parts, to avoid a queue of millions of tasks.
    with concurrent.futures.ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for start in range(0, count, _PART):
            for size in pool.map(size_or_error, range(start, min(start + _PART, count))):
                if isinstance(size, images.ImageError):
                    kind = "different size" if isinstance(size, SizeError) else "unreadable"
                    kinds[kind] = kinds.get(kind, 0) + 1
                    problems.append(str(size))
                else:
                    sizes.append(size)
                progress()
    for _ in range(count, len(source)):
        progress()
    return SourceCheck(
        _location(source),
        report.total,
        kinds,
        tuple(problems),
        np.array(sizes, np.int32).reshape(-1, 2),
        report.unused,
        notes,
        report.left_out,
    )


def is_bad(checked: Sequence[ClassCheck]) -> bool:
    """Whether anything is missing or bad."""
    return any(
        result.opened.error is not None
        or result.opened.missing.note
        or (result.opened.missing.reasons and not result.opened.is_stand_in)
        or any(part.problems for part in result.parts)
        for result in checked
    )


def report(checked: Sequence[ClassCheck], *, crop: int, by: str, shares: bool = True) -> str:
    """The table and the list of problems, as text."""
    heading = ("class", "share", "found", *KINDS, "small", "min", "median", "max", "from")
    rows = [heading]
    for result in checked:
        name, share = result.opened.task.name, f"{result.share:.1%}" if shares else "-"
        if result.opened.error is not None:
            rows.append((name, *[""] * 9, "cannot be opened, see below"))
        for part in result.parts:
            counts = (part.kinds.get(kind, 0) for kind in KINDS)
            stand_in = (
                "stand-in, " if result.opened.missing.note and result.opened.is_stand_in else ""
            )
            kind = "synthetic on" if result.opened.training_class.is_synthetic else "pairs in"
            if kind == "synthetic on" and result.opened.task.degradation == "clean":
                kind = "photos as they are in"
            row = (name, share, f"{part.total:,}", *(f"{n:,}" if n else "-" for n in counts))
            small = f"{part.too_small(crop) or '-'}"
            rows.append((*row, small, *_extremes(part.sizes), f"{stand_in}{kind} {part.location}"))
            name = share = ""  # of further parts
    lines = _aligned(rows)
    small = f"; small: below the crop of {crop} pixels, extended by reflection" if crop else ""
    lines += ["", f"Checked by {by}. Sizes are width x height{small}."]
    lines += _unused_lines(checked) + _problem_lines(checked)
    return "\n".join(lines)


def _unused_lines(checked: Sequence[ClassCheck]) -> list[str]:
    parts = list({id(part): part for result in checked for part in result.parts}.values())
    lines = [
        f"{p.location}: clean files without a degraded one: {p.unused:,}" for p in parts if p.unused
    ]
    lines += [f"{part.location}: {note}" for part in parts for note in part.notes]
    return lines + [
        f"{part.location}: {text}"
        for part in parts
        for text in listing.left_out_texts(part.left_out)
    ]


def _problem_lines(checked: Sequence[ClassCheck]) -> list[str]:
    errors: dict[str, list[str]] = {}  # names of classes
    for result in checked:
        if result.opened.error is not None:
            errors.setdefault(str(result.opened.error), []).append(result.opened.task.name)
    lines = [f"{', '.join(names)}: {error}" for error, names in errors.items()]
    for result in checked:
        if result.opened.missing.note or not result.opened.is_stand_in:
            lines += [
                f"{result.opened.task.name}: {text}" for text in result.opened.missing.reasons
            ]
    source_checks = {id(part): part for result in checked for part in result.parts}
    for part in source_checks.values():
        lines += part.problems
    if not lines:
        return ["", "Nothing is missing, and nothing is bad."]
    return ["", "Missing or bad:", *(f"  {line}" for line in lines)]


def _samples(result: ClassResult) -> int:
    """Number of samples of a class in a pass over all classes."""
    training_class = result.training_class
    return 0 if training_class is None else len(training_class.source) * training_class.task.repeats


def _parts(result: ClassResult) -> Sequence[Source]:
    return () if result.training_class is None else result.training_class.source.parts


def _size(source: Any, index: int, decode: bool) -> tuple[int, int]:
    if decode:
        return arrays_of(source.read(index))[0].shape[:2]
    return source.check(index)


def _location(source: Any) -> str:
    if not isinstance(source, PhotoSource | PairSource):
        return str(source)
    paths = source.paths if isinstance(source, PhotoSource) else source.degraded
    files = [str(Path(path).absolute()) for path in (paths[0], paths[len(paths) // 2], paths[-1])]
    return os.path.dirname(files[0]) if len(set(files)) == 1 else os.path.commonpath(files)


def _extremes(sizes: np.ndarray) -> tuple[str, str, str]:
    """Smallest, middle and largest size by the number of pixels, as "640x480"."""
    if not len(sizes):
        return "", "", ""
    order = np.argsort(sizes[:, 0].astype(np.int64) * sizes[:, 1], kind="stable")
    picked = (order[0], order[(len(order) - 1) // 2], order[-1])
    return tuple(f"{sizes[i][1]}x{sizes[i][0]}" for i in picked)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligns columns: the first and last to the left, the others to the right."""
    widths = collections.Counter()
    for row in rows:
        for i, cell in enumerate(row):
            widths[i] = max(widths[i], len(cell))
    last = len(rows[0]) - 1
    return [
        "  ".join(
            cell if i == last else cell.rjust(widths[i]) if i else cell.ljust(widths[i])
            for i, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    argv = list(sys.argv if argv is None else argv)
    # Bad files are listed below the table, so not also as warnings above it.
    logger = logging.getLogger("dcpt_jax")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return guarded(lambda interruption: _check(argv, interruption))
    finally:
        logger.setLevel(level)


def _check(argv: Sequence[str], interruption: Interruption) -> int:
    if {"-h", "--help", "-help"} & set(argv[1:]):
        print(_USAGE)
        return 0
    try:
        config, values = _parse(argv)
        if not config.tasks:
            raise configs.ConfigError("config.tasks is empty; name the classes: --config.tasks=5d")
        configs.validate_data(config)
        tasks = configs.tasks_of(config)
        data = classes.options_from(config.data)
        stand_ins = data.pop("stand_ins", True)
        data |= {"on_bad_file": "skip", "cache_megabytes": 0}  # to find all bad files
        mode = MODES[config.mode]
        split = values.split or mode.split
        opened = classes.try_open_classes(
            tasks,
            split=split,
            stage=mode.stage,
            repeats=configs.repeats_of(config),
            **data,
        )
        if not stand_ins:
            classes.refuse_stand_ins(opened)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    with tqdm.tqdm(
        total=count_items(opened),
        unit="file",
        disable=not sys.stderr.isatty(),
        leave=False,
        dynamic_ncols=True,
    ) as bar:

        def step() -> None:
            interruption.check()
            bar.update()

        class_checks = check(opened, decode=values.decode, progress=step)
    print(
        report(
            class_checks,
            crop=config.data.crop_size,
            by="decoding every file"
            if values.decode
            else "headers, --decode also checks pixel data",
            shares=split == "train",
        )
    )
    return 1 if is_bad(class_checks) else 0


def _parse(argv: Sequence[str]) -> tuple[ml_collections.ConfigDict, flags.FlagValues]:
    """The config and the other flags; parsed separately from absl's global flags."""
    values = flags.FlagValues()
    config_flags.define(values)
    flags.DEFINE_bool("decode", False, "Decode every file.", flag_values=values)
    flags.DEFINE_enum("split", None, ["train", "held_out"], "Which data.", flag_values=values)
    remaining = config_flags.parse(argv, values)
    if remaining:
        raise configs.ConfigError(f"unexpected argument {remaining[0]!r}; use --FLAG=VALUE")
    if values.config is None:
        raise configs.ConfigError("--config is missing, e.g. --config=configs/restore.py:nafnet,5d")
    return values.config, values


if __name__ == "__main__":
    sys.exit(main())
