"""Finds the photos named by a command line, and the target of each result.

All targets are decided before any computation, so that no result overwrites an input or another
result.
"""

import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dcpt_jax import images
from dcpt_jax.images import listing

FORMATS = ("auto", "png", "jpg", "same")
# Lossless formats, which --format auto keeps.
_LOSSLESS_SUFFIXES = images.WRITABLE_SUFFIXES - {".jpg", ".jpeg"}
_MARK = "_restored"
_LONGEST_NAME = 255  # bytes


@dataclass(frozen=True)
class Job:
    """One photo and the target of its restored version."""

    source: Path
    target: Path


@dataclass
class Plan:
    """The jobs of a command line, (input, reason) of inputs that fail, and files left out.

    `left_out` counts files as `FileList.left_out`.
    """

    jobs: list[Job] = field(default_factory=list)
    failures: list[tuple[Path, str]] = field(default_factory=list)
    earlier_results: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def changed_formats(self) -> str:
        """Counts results that become PNG though the photo's format can be written; "" if none."""
        changed = [
            job.source.suffix.lower()
            for job in self.jobs
            if job.source.suffix.lower() in images.WRITABLE_SUFFIXES - {".png"}
            and job.target.suffix == ".png"
        ]
        if not changed:
            return ""
        names = ", ".join(sorted(set(changed)))
        photos = "photo becomes" if len(changed) == 1 else "photos become"
        return f"{len(changed)} {photos} PNG ({names})"


def is_file_output(inputs: Sequence[Path], output: Path) -> bool:
    """Whether `output` is a file for a single photo, not a folder for results."""
    named = output.suffix.lower() in images.WRITABLE_SUFFIXES and not output.is_dir()
    return named and len(inputs) == 1 and not inputs[0].is_dir()


def output_folder(inputs: Sequence[Path], output: Path, form: str) -> Path:
    """The folder to create for the results.

    Raises:
        ValueError: if `output` is a file and there are several photos, or it is the photo itself,
            or its format cannot be written or differs from `form`.
    """
    if not is_file_output(inputs, output):
        suffix = output.suffix.lower()
        if suffix in images.WRITABLE_SUFFIXES and not output.is_dir():
            raise ValueError(
                f"--output {output} is a file name, but the inputs are several photos or a folder; "
                "give an output folder"
            )
        if suffix in listing.IMAGE_SUFFIXES and not output.is_dir():
            raise ValueError(
                f"--output {output}: {suffix} files cannot be written; name a folder, or a file "
                f"with one of {', '.join(sorted(images.WRITABLE_SUFFIXES))}"
            )
        return output
    if _identity(output) is not None and _identity(output) == _identity(inputs[0]):
        raise ValueError(f"--output {output} is the input itself, which is never overwritten")
    if form in ("png", "jpg") and f".{form}" != output.suffix.lower().replace("jpeg", "jpg"):
        raise ValueError(f"--output {output} is not a {form} file, as --format {form} requires")
    return output.absolute().parent


def plan(inputs: Sequence[Path], output: Path, form: str) -> Plan:
    """Finds the photos and decides the target of each result; only folders are read.

    Returns:
        The jobs, with distinct targets, even if case is ignored, none of which is an input.
    """
    if is_file_output(inputs, output) and inputs[0].exists():
        return Plan(jobs=[Job(inputs[0], output)])
    result = Plan()
    photos: dict[str, tuple[Path, Path]] = {}  # absolute source: (source, folder of its result)
    searched = []
    for path in inputs:
        try:
            pairs = _photos_of(path, output, result)
        except OSError as error:
            result.failures.append((path, error.strerror or str(error)))
            continue
        if path.is_dir() and path.resolve() not in output.resolve().parents:
            searched.append(path.resolve())
        for source, folder in pairs:
            photos.setdefault(os.path.abspath(source), (source, folder))
    candidates: dict[Path, list[Path]] = {}
    for source, folder in photos.values():
        inside = folder.resolve()
        # Results among the photos need a mark, so that the next run does not take them for photos.
        marked = inside == source.parent.resolve() or any(
            root == inside or root in inside.parents for root in searched
        )
        candidates[source] = _possible_targets(source, folder, form, marked)
    results = {
        (target.parent.resolve(), target.stem)
        for targets in candidates.values()
        for target in targets
        if target.stem.endswith(_MARK)
    }
    for source in list(candidates):
        if (source.parent.resolve(), source.stem) in results:
            result.earlier_results.append(source)
            del candidates[source]
    _assign_targets(candidates, result)
    return result


def _photos_of(path: Path, output: Path, result: Plan) -> list[tuple[Path, Path]]:
    """The photos of an input, each with the folder for its result."""
    if path.is_file():
        return [(path, output)]
    photos, left_out = listing.find_images(path)
    result.left_out += left_out
    inner, pairs = output.resolve(), []
    nested = path.resolve() in inner.parents
    for photo in photos:
        if nested and inner in photo.resolve().parents:
            result.earlier_results.append(photo)
        else:
            pairs.append((photo, output / photo.relative_to(path).parent))
    return pairs


def _assign_targets(candidates: Mapping[Path, Sequence[Path]], result: Plan) -> None:
    """Gives every photo the first of its possible targets that is free."""
    inputs = {_identity(source) for source in candidates}
    choice = dict.fromkeys(candidates, 0)
    while True:
        targets = {source: candidates[source][i] for source, i in choice.items()}
        # Some file systems ignore case, so names must differ regardless of case.
        keys = {source: os.path.abspath(target).casefold() for source, target in targets.items()}
        uses = Counter(keys.values())
        clashing = {
            source
            for source, target in targets.items()
            if uses[keys[source]] > 1 or _identity(target) in inputs
        }
        movable = [s for s in clashing if choice[s] + 1 < len(candidates[s])]
        if not movable:
            break
        for source in movable:
            choice[source] += 1
    for source, target in targets.items():
        if source in clashing:
            result.failures.append((source, f"its result would overwrite another file: {target}"))
        else:
            result.jobs.append(Job(source, target))


def _possible_targets(source: Path, folder: Path, form: str, marked: bool) -> list[Path]:
    """Targets for one photo, the preferred one first; the same in every run."""
    suffix = {"auto": source.suffix.lower(), "same": source.suffix}.get(form, f".{form}")
    kept = _LOSSLESS_SUFFIXES if form == "auto" else images.WRITABLE_SUFFIXES
    if suffix.lower() not in kept:
        suffix = ".png"
    absolute = os.path.abspath(source)
    kind = source.suffix.lstrip(".").lower() or "none"
    parent = os.path.basename(os.path.dirname(absolute)) or "root"
    number = f"{zlib.crc32(os.fsencode(absolute)):08x}"
    ends = [_MARK] if marked else ["", _MARK]
    labels = ["", f"_{kind}", f"_{parent}", f"_{parent}_{kind}", f"_{number}"]
    ends = [f"{label}{end}{suffix}" for label in labels for end in ends]
    return [folder / _short_name(source.stem, end, number) for end in ends]


def _short_name(stem: str, end: str, number: str) -> str:
    """A file name of at most 255 bytes, as file systems allow; a shortened one has the number."""
    if len(os.fsencode(stem + end)) <= _LONGEST_NAME:
        return stem + end
    end = f"_{number}{end}"
    encoded = os.fsencode(stem)[: _LONGEST_NAME - len(os.fsencode(end))]
    try:
        return encoded.decode() + end
    except UnicodeDecodeError as error:  # a letter was cut, or the name was not UTF-8
        return os.fsdecode(encoded[: error.start] or encoded) + end


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file, the same for all its names; None if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
