"""Pairs of a degraded and a clean photo: which files belong together.

Files are paired by name, never by their position in a listing (but for the rule "order", which says
so). The name is the path below the folder without its suffix, so "a.jpg" belongs to "a.png" and
"x/1.png" to "x/1.png". Where the clean folder has no sub-folders, the degraded photos may lie in
some all the same ("part1/0001_0.8_0.2.jpg" and "0001.jpg"). The rules:

    same              the same name
    reside            the clean name is what stands before the first "_": 0001_0.8_0.2 -> 0001
    suffix:A          the degraded name ends with A, the clean one does not: suffix:x2, 01x2 -> 01
    suffix:A=B        A at the end is B in the clean name
    prefix:A, A=B     likewise at the beginning: prefix:rain=norain, rain-001 -> norain-001
    order             the n-th and the n-th in the order of the numbers in their names; both folders
                      must hold equally many files. For data sets whose names do not correspond.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dcpt_jax.data import listing
from dcpt_jax.data.listing import FileList

RULES = "same, reside, suffix:A, suffix:A=B, prefix:A, prefix:A=B, order"


class PairError(ValueError):
    """Two folders or a list file do not give pairs; the message says why."""


@dataclasses.dataclass(frozen=True)
class Pairing:
    """Which degraded file belongs to which clean one.

    Attributes:
        degraded: the degraded files of the pairs.
        clean: the clean file of each.
        unpaired: (degraded file, reason) of those without exactly one clean file.
        passed_by: (path, message) of what could not be looked at in both folders.
        ambiguous: how many degraded files have several clean ones.
        unused: clean files that belong to no degraded one.
        border: pixels that clean photos may be larger on each side; they are cut off.
        left_out: how many files of both folders were left out, see `images.Scan`.
    """

    degraded: FileList
    clean: FileList
    unpaired: tuple[tuple[Path, str], ...] = ()
    passed_by: tuple[tuple[Path, str], ...] = ()
    ambiguous: int = 0
    unused: tuple[Path, ...] = ()
    border: int = 0
    left_out: Mapping[str, int] = dataclasses.field(default_factory=collections.Counter)

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

    Both may be the same folder, and one may lie in the other: its photos are of its kind alone.

    Args:
        degraded: folder of degraded photos, searched recursively.
        clean: folder of clean photos.
        rule: one of those at the top of this module.
        border: see `Pairing`.
        deep: whether sub-folders are searched too.

    Raises:
        FileNotFoundError: if a folder does not exist.
        PairError: for an unknown rule, or if there is no pair at all.
    """
    parse_rule(rule)
    try:
        files, clean_files = (listing.list_files(f, deep=deep) for f in (degraded, clean))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{error}; a source of pairs needs two existing folders") from error
    passed_by = tuple(dict.fromkeys((*files.passed_by, *clean_files.passed_by)))
    same_folder = os.path.realpath(degraded) == os.path.realpath(clean)
    left_out = files.left_out if same_folder else files.left_out + clean_files.left_out
    files, clean_files = _without(files, clean), _without(clean_files, degraded)
    for one, other in ((files, clean_files), (clean_files, files)):
        if not one:
            besides = f" besides those in {other.root}" if _below(other.root, one.root) else ""
            reason = "".join(f"; {reason}" for _, reason in one.passed_by[:1])
            raise PairError(f"no images in the folder {one.root}{besides}{reason}")
    names, clean_names = files.names(), clean_files.names()
    if rule == "order":
        if same_folder:
            raise PairError(f'the rule "order" needs two folders, not {degraded} twice')
        if len(names) != len(clean_names):
            raise PairError(
                f'the rule "order" needs equally many files, but {degraded} holds {len(names)} and '
                f"{clean} {len(clean_names)}"
            )
        orders = [sorted(n, key=_number_order) for n in (names, clean_names)]
        ordered = FileList(degraded, orders[0]), FileList(clean, orders[1])
        return Pairing(*ordered, passed_by=passed_by, border=border, left_out=left_out)
    matches = _match(names, clean_names, rule, same_folder)
    paired = [match for match in matches if len(match.found) == 1]
    unpaired = [
        (match.index, _why_unpaired(match, clean_files, rule))
        for match in matches
        if len(match.found) != 1
    ]
    if not paired:
        raise PairError(_no_pairs(files, clean_files, rule, unpaired))
    used = {match.found[0] for match in paired}
    unused = () if same_folder else (k for k in range(len(clean_names)) if k not in used)
    return Pairing(
        FileList(degraded, [names[match.index] for match in paired]),
        FileList(clean, [clean_names[match.found[0]] for match in paired]),
        tuple((files[i], f"{files[i]}: {reason}") for i, reason in unpaired),
        passed_by,
        sum(len(match.found) > 1 for match in matches),
        tuple(clean_files[k] for k in unused),
        border,
        left_out,
    )


def _below(inner: Path | str, outer: Path | str) -> str:
    """The path of a folder inside another one, with "/" behind it; "" if it is not inside."""
    way = os.path.relpath(os.path.realpath(inner), os.path.realpath(outer))
    return "" if way.split(os.sep)[0] in (os.curdir, os.pardir) else f"{way}/"


def _without(files: FileList, folder: Path | str) -> FileList:
    """The files that do not lie in a folder inside theirs."""
    below = _below(folder, files.root)
    if not below:
        return files
    return files.take([i for i, n in enumerate(files.names()) if not n.startswith(below)])


class _Match(NamedTuple):
    """What was found for a degraded file.

    Attributes:
        index: of the degraded file.
        wanted: name of its clean file, without suffix; None if the rule does not fit its name.
        found: indices of the clean files of that name.
    """

    index: int
    wanted: str | None
    found: list[int]


def _match(
    names: Sequence[str], clean_names: Sequence[str], rule: str, same_folder: bool
) -> list[_Match]:
    """Looks for the clean files of each degraded one; both kinds may lie in the same folder."""
    clean_name = parse_rule(rule)
    flat = not any("/" in name for name in clean_names)
    by_name: dict[str, list[int]] = collections.defaultdict(list)
    for k, name in enumerate(clean_names):
        by_name[os.path.splitext(name)[0]].append(k)
    matches = []
    for i, name in enumerate(names):
        folder, _, file = name.rpartition("/")
        own, suffix = os.path.splitext(name)
        wanted = clean_name(os.path.splitext(file)[0])
        if wanted is not None and folder and not flat:
            wanted = f"{folder}/{wanted}"
        if same_folder and wanted in (None, own):
            continue  # a clean photo
        found = by_name.get(wanted, [])
        if len(found) > 1:  # a.png and a.jpg: the one with the same suffix, if there is one
            same = [k for k in found if clean_names[k].lower() == (wanted + suffix).lower()]
            found = [k for k in same if clean_names[k] == wanted + suffix] or same or found
        matches.append(_Match(i, wanted, found))
    return matches


def _why_unpaired(match: _Match, clean_files: FileList, rule: str) -> str:
    if match.wanted is None:
        return f"its name does not fit the rule {rule!r}"
    if not match.found:
        return f"no clean file {match.wanted}.* in {clean_files.root}"
    several = ", ".join(clean_files.name(k) for k in match.found)
    return f"several clean files belong to it in {clean_files.root}: {several}"


def pair_list(file: Path | str) -> Pairing:
    """Pairs named in a text file, one a line: degraded file, clean file.

    The two are separated by a tab, or by blanks where neither name holds one. They are relative to
    the list's folder. Empty lines and those that begin with "#" are passed by.

    Raises:
        FileNotFoundError: if there is no such file.
        PairError: for a line that does not name two files, or if no line does.
    """
    file = Path(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PairError(f"{file} is no UTF-8 text: {error}") from error
    except OSError as error:
        raise FileNotFoundError(f"the list {file} cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise PairError(f"{file} is no text: it holds null bytes")
    pairs = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        # Names may hold what counts as white space elsewhere in Unicode.
        parts = [part.strip(" ") for part in line.split("\t" if "\t" in line else " ")]
        parts = [part for part in parts if part]
        if len(parts) != 2:
            raise PairError(
                f"{file}, line {number}: {line.strip()!r} has to name two files, degraded and "
                "clean; separate them by a tab where names hold blanks"
            )
        pairs.append(parts)
    if not pairs:
        raise PairError(f"the list {file} names no pairs")
    return Pairing(*(FileList(file.parent, column) for column in zip(*pairs, strict=True)))


def joined(pairings: Sequence[Pairing]) -> Pairing:
    """Several pairings as one; they must have the same border."""
    if len(pairings) == 1:
        return pairings[0]
    return Pairing(
        listing.joined([p.degraded for p in pairings]),
        listing.joined([p.clean for p in pairings]),
        tuple(entry for p in pairings for entry in p.unpaired),
        tuple(dict.fromkeys(entry for p in pairings for entry in p.passed_by)),
        sum(p.ambiguous for p in pairings),
        tuple(path for p in pairings for path in p.unused),
        pairings[0].border,
        sum((collections.Counter(p.left_out) for p in pairings), collections.Counter()),
    )


def parse_rule(rule: str) -> Callable[[str], str | None]:
    """The function that gives a degraded name's clean name, or None where the rule does not fit.

    Raises:
        PairError: for an unknown rule.
    """
    kind, colon, change = rule.partition(":")
    if rule in ("same", "order"):
        return lambda stem: stem
    if rule == "reside":
        return lambda stem: stem.partition("_")[0]
    if kind not in ("suffix", "prefix") or not colon or not change:
        raise PairError(f"unknown rule {rule!r} for pairs; known: {RULES}")
    old, _, new = change.partition("=")

    def clean_name(stem: str) -> str | None:
        if kind == "suffix":
            return stem[: len(stem) - len(old)] + new if stem.endswith(old) else None
        return new + stem[len(old) :] if stem.startswith(old) else None

    return clean_name


def _number_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which 9 comes before 10."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), "") if i % 2 else (0, 0, part) for i, part in enumerate(parts)]


def _no_pairs(
    files: FileList, clean_files: FileList, rule: str, unpaired: list[tuple[int, str]]
) -> str:
    example = f"{files.name(unpaired[0][0])}: {unpaired[0][1]}" if unpaired else "no name fits it"
    return (
        f"no file in {files.root} has its clean photo in {clean_files.root} by the rule {rule!r} "
        f"({example}). There are {len(files)} files such as {files.name(0)!r} and "
        f"{len(clean_files)} such as {clean_files.name(0)!r}; rules: {RULES}"
    )
