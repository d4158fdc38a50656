"""Finds pairs of a degraded and a clean photo, by file names or from a list.

`spec` documents the rules by which file names are matched.
"""

import collections
import contextlib
import csv
import dataclasses
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from dcpt_jax.data.spec import CLEAN_FIRST, RULES, SourceError, parse_rule
from dcpt_jax.files import expand_home
from dcpt_jax.images import listing
from dcpt_jax.images.listing import FileList

# Words in names of files and folders that suggest clean or degraded photos.
_CLEAN_WORDS = frozenset(
    {"gt", "groundtruth", "truth", "sharp", "clean", "clear", "target", "hq", "hr"}
    | {"reference", "original"}
)
_DEGRADED_WORDS = frozenset(
    {"blur", "blurry", "blurred", "input", "lq", "lr", "haze", "hazy", "rain", "rainy", "noise"}
    | {
        "noisy",
        "snow",
        "snowy",
        "low",
        "dark",
        "degraded",
        "distorted",
        "corrupted",
        "fog",
        "foggy",
    }
)
_NEGATED = re.compile("(?<![a-z])no[-_ ]?(rain|haze|snow|noise|blur|fog)(?![a-z])|[a-z]+[-_ ]?free")
_COMPARED = 1000  # number of pairs checked for swapped names, spread over the list
_TRIED = 4  # number of names of each folder that suggest a rule
_SWAP_FOLDERS = "in the other order: pairs:DEGRADED_DIR,CLEAN_DIR"


@dataclasses.dataclass(frozen=True)
class Pairing:
    """The matched files of a source of pairs."""

    degraded: FileList  # the degraded file of each pair
    clean: FileList  # the clean file of each pair
    # (file, reason) of degraded files without exactly one clean file
    unpaired: tuple[tuple[Path, str], ...] = ()
    # (path, reason) of inaccessible files and folders
    inaccessible: tuple[tuple[Path, str], ...] = ()
    unused: tuple[Path, ...] = ()  # clean files without a degraded one
    border: int = 0  # pixels by which clean photos may be larger on each side; cropped
    # Number of files left out, see `FileList`
    left_out: Mapping[str, int] = dataclasses.field(default_factory=collections.Counter)
    warnings: tuple[str, ...] = ()  # about the pairs as a whole

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.degraded)


def pair_folders(
    degraded: Path | str,
    clean: Path | str,
    rule: str = "same",
    *,
    border: int = 0,
    deep: bool = True,
) -> Pairing:
    """Pairs the photos of two folders by their names.

    Both may be the same folder, or one may contain the other; the files of the inner folder then
    belong to that one only.

    Args:
        degraded: folder of degraded photos, searched recursively.
        clean: folder of clean photos.
        rule: one of those at the top of `spec`.
        border: see `Pairing`.
        deep: whether to search sub-folders.

    Raises:
        FileNotFoundError: if a folder does not exist or holds no images.
        SourceError: for an unknown rule, or if there is no pair at all.
    """
    parse_rule(rule)
    try:
        files, clean_files = (listing.list_images(f, deep=deep) for f in (degraded, clean))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{error}; a source of pairs needs two existing folders") from error
    inaccessible = tuple(dict.fromkeys((*files.inaccessible, *clean_files.inaccessible)))
    same_folder = os.path.realpath(degraded) == os.path.realpath(clean)
    if same_folder and rule == "order":
        raise SourceError(f'the rule "order" needs two folders, not {degraded} twice')
    left_out = files.left_out if same_folder else files.left_out + clean_files.left_out
    files, clean_files = _without(files, clean), _without(clean_files, degraded)
    for side, other in ((files, clean_files), (clean_files, files)):
        besides = f" besides those in {other.root}" if _below(other.root, side.root) else ""
        listing.require_images(side, f"the folder {side.root}{besides}")
    if rule == "order":
        chosen, unpaired, unused = _in_order(files, clean_files), (), ()
    else:
        chosen, unpaired, unused = _by_name(files, clean_files, rule, same_folder)
    return Pairing(
        *chosen,
        unpaired=unpaired,
        inaccessible=inaccessible,
        unused=unused,
        border=border,
        left_out=left_out,
        warnings=_order_warnings(*chosen, _SWAP_FOLDERS),
    )


def _in_order(files: FileList, clean_files: FileList) -> tuple[FileList, FileList]:
    """The degraded and clean files of pairs by the rule "order"."""
    if len(files) != len(clean_files):
        raise SourceError(
            f'the rule "order" needs equally many files, but {files.root} holds {len(files)} and '
            f"{clean_files.root} {len(clean_files)}"
        )
    return tuple(
        FileList(side.root, sorted(side.names(), key=_number_order))
        for side in (files, clean_files)
    )


def _by_name(
    files: FileList, clean_files: FileList, rule: str, same_folder: bool
) -> tuple[tuple[FileList, FileList], tuple[tuple[Path, str], ...], tuple[Path, ...]]:
    """Pairs files by the rules for names.

    Returns:
        ((degraded files, clean files) of the pairs, `Pairing.unpaired`, `Pairing.unused`).
    """
    names, clean_names = files.names(), clean_files.names()
    matches = _match(names, clean_names, rule, same_folder)
    paired = [match for match in matches if len(match.candidates) == 1]
    unpaired = [
        (match.index, _why_unpaired(match, clean_files, rule))
        for match in matches
        if len(match.candidates) != 1
    ]
    if not paired:
        raise SourceError(_no_pairs(files, clean_files, rule, unpaired, same_folder))
    chosen = (
        FileList(files.root, [names[match.index] for match in paired]),
        FileList(clean_files.root, [clean_names[match.candidates[0]] for match in paired]),
    )
    used = {match.candidates[0] for match in paired}
    unused = () if same_folder else (k for k in range(len(clean_names)) if k not in used)
    return (
        chosen,
        tuple((files[i], f"{files[i]}: {reason}") for i, reason in unpaired),
        tuple(clean_files[k] for k in unused),
    )


def _below(inner: Path | str, outer: Path | str) -> str:
    """The relative path of a folder inside another one, ending in "/"; "" if it is not inside."""
    relative = os.path.relpath(os.path.realpath(inner), os.path.realpath(outer))
    return "" if relative.split(os.sep)[0] in (os.curdir, os.pardir) else f"{relative}/"


def _without(files: FileList, folder: Path | str) -> FileList:
    """The files that are not inside `folder`, a sub-folder."""
    below = _below(folder, files.root)
    if not below:
        return files
    return files.take([i for i, n in enumerate(files.names()) if not n.startswith(below)])


class _Match(NamedTuple):
    """The clean files that match a degraded file."""

    index: int  # index of the degraded file
    # Name of its clean file without suffix; None if the rule does not apply to its name
    clean_stem: str | None
    candidates: list[int]  # indices of the clean files with that name


def _match(
    names: Sequence[str], clean_names: Sequence[str], rule: str, same_folder: bool
) -> list[_Match]:
    """Finds the clean files of each degraded file; both kinds may be in the same folder."""
    clean_name = parse_rule(rule)
    # macOS composes letters with accents differently.
    names, clean_names = (
        [normalize("NFC", name) for name in some] for some in (names, clean_names)
    )
    flat = not any("/" in name for name in clean_names)
    by_name: dict[str, list[int]] = collections.defaultdict(list)
    for k, name in enumerate(clean_names):
        by_name[os.path.splitext(name)[0]].append(k)
    matches = []
    for i, name in enumerate(names):
        folder, _, file = name.rpartition("/")
        stem, suffix = os.path.splitext(name)
        prefix = f"{folder}/" if folder and not flat else ""

        def exists(clean: str, prefix: str = prefix, stem: str = stem) -> bool:
            return prefix + clean in by_name and not (same_folder and prefix + clean == stem)

        clean_stem = clean_name(os.path.splitext(file)[0], exists)
        if clean_stem is not None:
            clean_stem = prefix + clean_stem
        if same_folder and clean_stem in (None, stem):
            continue  # a clean photo
        candidates = by_name.get(clean_stem, [])
        if len(candidates) > 1:  # a.png and a.jpg: prefer the one with the same suffix
            same = [
                k for k in candidates if clean_names[k].lower() == (clean_stem + suffix).lower()
            ]
            candidates = (
                [k for k in same if clean_names[k] == clean_stem + suffix] or same or candidates
            )
        matches.append(_Match(i, clean_stem, candidates))
    return matches


def _why_unpaired(match: _Match, clean_files: FileList, rule: str) -> str:
    if match.clean_stem is None:
        return f"its name does not fit the rule {rule!r}"
    if not match.candidates:
        return f"no clean file {match.clean_stem}.* in {clean_files.root}"
    several = ", ".join(clean_files.name(k) for k in match.candidates)
    return f"several clean files belong to it in {clean_files.root}: {several}"


def pair_list(file: Path | str, *, clean_first: bool = False) -> Pairing:
    """Pairs named in a text file, one per line: degraded file, clean file.

    The two are separated by a tab, comma, semicolon or spaces, and may be in double quotes. They
    are relative to the list's folder, and may have the separators of Windows. Empty lines and lines
    starting with "#" are ignored.

    Raises:
        FileNotFoundError: if there is no such file.
        SourceError: for a line that does not name two files, or if no line does.
    """
    file = Path(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{file} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise FileNotFoundError(f"the list {file} cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise SourceError(f"{file} is not text: it contains null bytes")
    pairs = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = [_local(expand_home(part), file.parent) for part in _split(line)]
        if len(parts) != 2:
            raise SourceError(
                f"{file}, line {number}: {line.strip()[:200]!r} must name two files, degraded and "
                "clean; separate them by a tab where names hold spaces"
            )
        pairs.append(parts[::-1] if clean_first else parts)
    if not pairs:
        raise SourceError(f"the list {file} names no pairs")
    degraded, clean = (FileList(file.parent, column) for column in zip(*pairs, strict=True))
    swap = f"list:{file}" if clean_first else f"list:{file},{CLEAN_FIRST}"
    warnings = _order_warnings(degraded, clean, f"as {swap}")
    if not any(map(os.path.exists, itertools.chain(*zip(degraded, clean, strict=True)))):
        warnings += (f"no file of {file} exists; paths are relative to the folder of the list",)
    return Pairing(degraded, clean, warnings=warnings)


def _local(name: str, folder: Path) -> str:
    """A name with the separators of this system, if there is no file of that very name."""
    if os.sep == "\\" or "\\" not in name or os.path.exists(folder / name):
        return name
    return name.replace("\\", os.sep)


def _split(line: str) -> list[str]:
    """The two names in a line of a list, separated so that both are images if possible; else []."""
    line = line.strip(" ")  # names may hold what counts as white space elsewhere in Unicode
    splits = []
    for separator in "\t ,;":
        with contextlib.suppress(csv.Error):  # such as a field of more than 100,000 characters
            fields = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
            parts = [part.strip(" ") for part in fields if part.strip(" ")]
            if len(parts) == 2 and not parts[0].endswith((",", ";")):
                splits.append(parts)
    return next(filter(_are_images, splits), splits[0] if splits else [])


def _are_images(names: Sequence[str]) -> bool:
    return all(os.path.splitext(name)[1].lower() in listing.IMAGE_SUFFIXES for name in names)


def _order_warnings(degraded: FileList, clean: FileList, remedy: str) -> tuple[str, ...]:
    """A warning if the file names suggest that degraded and clean files are swapped."""
    scores, example = [], ""
    step = max(1, len(degraded) // _COMPARED)
    for i in range(0, len(degraded), step):
        paths = [os.path.abspath(files[i]) for files in (degraded, clean)]
        shared = len(os.path.commonpath([os.path.dirname(path) for path in paths]))
        words = [_words(path[shared:]) for path in paths]
        only_degraded, only_clean = words[0] - words[1], words[1] - words[0]
        score = len(only_degraded & _CLEAN_WORDS) + len(only_clean & _DEGRADED_WORDS)
        score -= len(only_degraded & _DEGRADED_WORDS) + len(only_clean & _CLEAN_WORDS)
        scores.append(score)
        if score == max(scores):
            example = f"{degraded[i]} as degraded, {clean[i]} as clean"
    swapped = sum(score > 0 for score in scores)
    if 2 * swapped <= len(scores) and max(scores, default=0) < 2:
        return ()
    return (
        f"{swapped} of {len(scores)} pairs look swapped by their names ({example}), which would "
        f"teach a network to degrade photos; if they are, give them {remedy}",
    )


def _shared(a: str, b: str) -> int:
    """Length of the common prefix of two names."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _words(text: str) -> set[str]:
    """Words in lower case, of "inputA" too; "no_rain" and "noise-free" are "clean"."""
    text = re.sub("([a-z])([A-Z])", r"\1 \2", text).lower()
    return set(re.findall("[a-z]+", _NEGATED.sub(" clean ", text)))


def concatenate(pairings: Sequence[Pairing]) -> Pairing:
    """Joins several pairings with the same border."""
    if len(pairings) == 1:
        return pairings[0]
    return Pairing(
        listing.concatenate([p.degraded for p in pairings]),
        listing.concatenate([p.clean for p in pairings]),
        tuple(entry for p in pairings for entry in p.unpaired),
        tuple(dict.fromkeys(entry for p in pairings for entry in p.inaccessible)),
        tuple(path for p in pairings for path in p.unused),
        pairings[0].border,
        sum((collections.Counter(p.left_out) for p in pairings), collections.Counter()),
        tuple(warning for p in pairings for warning in p.warnings),
    )


def _number_order(name: str) -> list[tuple[int, int, str]]:
    """Natural sort key: 9 comes before 10."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), "") if i % 2 else (0, 0, part) for i, part in enumerate(parts)]


def _no_pairs(
    files: FileList,
    clean_files: FileList,
    rule: str,
    unpaired: list[tuple[int, str]],
    same_folder: bool,
) -> str:
    best = _fitting_rule(files.names(), clean_files.names(), same_folder)
    advice = f"; {best!r} pairs them" if best else ""
    if same_folder and rule == "same":
        return f"the rule 'same' needs two folders, not {files.root} twice; rules: {RULES}{advice}"
    example = f"{files.name(unpaired[0][0])}: {unpaired[0][1]}" if unpaired else "no name fits it"
    return (
        f"no file in {files.root} has its clean photo in {clean_files.root} by the rule {rule!r} "
        f"({example}). There are {len(files)} files such as {files.name(0)!r} and "
        f"{len(clean_files)} such as {clean_files.name(0)!r}; rules: {RULES}{advice}"
    )


def _fitting_rule(
    names: Sequence[str], clean_names: Sequence[str], same_folder: bool
) -> str | None:
    """The rule that pairs most of the first names, if it pairs half of them."""
    names = names[:_COMPARED]
    rules = dict.fromkeys(("same", "reside", "begins"))
    stems, clean_stems = (
        [os.path.splitext(os.path.basename(name))[0] for name in some[:_TRIED]]
        for some in (names, clean_names)
    )
    for own, clean in itertools.product(stems, clean_stems):
        start, end = _shared(own, clean), _shared(own[::-1], clean[::-1])
        for kind, same, old, new in (
            ("suffix", start, own[start:], clean[start:]),
            ("prefix", end, own[: len(own) - end], clean[: len(clean) - end]),
        ):
            # Not the characters of a rule, nor numbers, which would pair 1 with 2.
            odd = re.search("[=,;:]", old + new) or not re.search("[^0-9]", old + new)
            known = _words(old) & _DEGRADED_WORDS or _words(new) & _CLEAN_WORDS
            if same and (old or new) and (known or not same_folder) and not odd:
                rules[f"{kind}:{old}={new}" if new else f"{kind}:{old}"] = None
    counts = {}
    for rule in rules:
        matches = _match(names, clean_names, rule, same_folder)
        counts[rule] = sum(len(match.candidates) == 1 for match in matches)
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] >= max(1, len(names) // (3 if same_folder else 2)) else None
