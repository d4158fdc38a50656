"""The texts that name sources of data, and the rules that pair files: checked without any I/O.

Configs import this module and `tasks` of the data side, and nothing else.

A source is one of these, or several of them joined by ";":

    photos:DIR                             clean photos, degraded by the class's synthetic
                                           degradation
    pairs:DEGRADED_DIR,CLEAN_DIR[,RULE]    pairs in two folders
    list:FILE[,clean_first]                pairs named in a text file, see `pairs.pair_list`
    tfds:NAME[/CONFIG][:SPLIT]             a TFDS dataset in ArrayRecord files, see `data.tfds`
    packed:DIR                             what `data.pack` has written
    DATASET:DIR                            a public dataset in that folder, see `data.datasets`

Files are paired by name, not by position (except by the rule "order"). The name is the path below
the folder without its suffix, so "a.jpg" belongs to "a.png" and "x/1.png" to "x/1.png". Where the
clean folder has no sub-folders, the degraded photos may lie in some nevertheless
("part1/0001_0.8_0.2.jpg" and "0001.jpg"). The rules:

    same              the same name
    reside            the clean name is what stands before the first "_": 0001_0.8_0.2 -> 0001
    begins            the clean name begins the degraded one, the longest such: 0001-rain-3 -> 0001
    suffix:A          the degraded name ends with A, the clean one does not: suffix:x2, 01x2 -> 01
    suffix:A=B        A at the end is B in the clean name
    prefix:A, A=B     likewise at the beginning: prefix:rain=norain, rain-001 -> norain-001
    order             the n-th and the n-th in the order of the numbers in their names; both folders
                      must hold equally many files. For datasets whose names do not correspond.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dcpt_jax.data.datasets import DATASETS

# Kinds of a user's own: from the text behind the colon to items, see `register`.
REGISTERED: dict[str, Callable[[str], Sequence[Any]]] = {}
KINDS = ("photos", "pairs", "list", "tfds", "packed")
RULES = "same, reside, begins, suffix:A, suffix:A=B, prefix:A, prefix:A=B, order"
CLEAN_FIRST = "clean_first"
_FORMS = (
    "photos:DIR, pairs:DEGRADED_DIR,CLEAN_DIR[,RULE], list:FILE[,clean_first], "
    "tfds:NAME[/CONFIG][:SPLIT], packed:DIR, or DATASET:DIR with one of "
)

# From a degraded name, and a test whether a clean name exists, to the clean name; None where the
# rule does not fit the name.
Rule = Callable[[str, Callable[[str], bool]], str | None]


class SourceError(ValueError):
    """A source of data that cannot be used; the message says why, and where it can, the key."""


class Spec(NamedTuple):
    """One source: its kind, one of `KINDS` or a dataset's name, and what it reads."""

    kind: str
    place: str


def register(kind: str, open_items: Callable[[str], Sequence[Any]]) -> None:
    """Makes a source of a user's own known: `KIND:TEXT`, as docs/extending.md shows.

    Args:
        kind: what stands before the colon.
        open_items: from the text behind it to a sequence, with `len` and `[index]`, of clean
            photos, uint8 or uint16 [h, w, 3] RGB, or of pairs (degraded, clean) of these. The
            sequence is pickled for worker processes.

    Raises:
        ValueError: if there is another source of that kind.
    """
    taken = kind in (*KINDS, *DATASETS) or REGISTERED.get(kind, open_items) is not open_items
    if taken:
        raise ValueError(f"there is another source of data {kind!r}: choose a new name")
    REGISTERED[kind] = open_items


def parse(text: str) -> list[Spec]:
    """Splits the text of a source into its parts; see the top of this module."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        kind, colon, place = part.partition(":")
        if not colon or not place or kind not in (*KINDS, *REGISTERED, *DATASETS):
            raise SourceError(
                f"{part!r} is not a source of data; known: {_FORMS}"
                f"{', '.join([*DATASETS, *REGISTERED])}; several joined by ;"
            )
        if kind == "pairs":
            parse_pairs(place)
        found.append(Spec(kind, place))
    if not found:
        raise SourceError(f"{text!r} names no source of data")
    return found


def parse_pairs(place: str) -> tuple[str, str, str]:
    """(degraded folder, clean folder, rule) of a text such as "A,B,reside"."""
    parts = [part.strip() for part in place.split(",")]
    if len(parts) not in (2, 3) or not all(parts):
        raise SourceError(
            f"pairs:{place} must name two folders and optionally a rule: "
            f"pairs:DEGRADED_DIR,CLEAN_DIR[,RULE]; rules: {RULES}"
        )
    rule = parts[2] if len(parts) == 3 else "same"
    parse_rule(rule)
    return parts[0], parts[1], rule


def parse_list(place: str) -> tuple[str, bool]:
    """(file, whether its lines name the clean file first) of "FILE" or "FILE,clean_first"."""
    file = place.removesuffix(f",{CLEAN_FIRST}")
    return file, file != place


def parse_rule(rule: str) -> Rule:
    """The function that gives the clean name of a degraded one."""
    kind, colon, change = rule.partition(":")
    if rule in ("same", "order"):
        return lambda name, exists: name
    if rule == "reside":
        return lambda name, exists: name.partition("_")[0]
    if rule == "begins":
        return _beginning
    if kind not in ("suffix", "prefix") or not colon or not change:
        raise SourceError(f"unknown rule {rule!r} for pairs; known: {RULES}")
    old, _, new = change.partition("=")

    def clean_name(name: str, exists: Callable[[str], bool]) -> str | None:
        if kind == "suffix":
            return name[: len(name) - len(old)] + new if name.endswith(old) else None
        return new + name[len(old) :] if name.startswith(old) else None

    return clean_name


def _beginning(name: str, exists: Callable[[str], bool]) -> str | None:
    """The longest clean name that begins this one and does not end inside a number or word."""
    for end in range(len(name), 0, -1):
        pair = name[end - 1 : end + 1]
        inside = len(pair) == 2 and (pair.isdigit() or pair.isalpha())
        if not inside and exists(name[:end]):
            return name[:end]
    return None
