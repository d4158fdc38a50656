"""Syntax of data sources and of the rules that pair files; parsed without any I/O.

Of the data package, `config` imports only this module and `tasks`.

A source is one of these, or several joined by ";":

    photos:DIR                             clean photos, degraded by the class's synthetic
                                           degradation
    pairs:DEGRADED_DIR,CLEAN_DIR[,RULE]    pairs in two folders
    list:FILE[,clean_first]                pairs named in a text file, see `pair_files`
    tfds:NAME[/CONFIG][:SPLIT]             a TFDS dataset in ArrayRecord files, see `data.tfds`
    packed:DIR                             sub-images written by `data.pack`
    DATASET:DIR                            a public dataset in that folder, see `data.datasets`

Names with ";" or "," are put in double quotes: photos:"a;b", pairs:"a,b",c.

Files are paired by name (except by the rule "order"). The name is the path below the folder without
its suffix, so "a.jpg" belongs to "a.png" and "x/1.png" to "x/1.png". If the clean folder has no
sub-folders, those of the degraded photos are ignored ("part1/0001_0.8_0.2.jpg" and "0001.jpg").
Rules:

    same              the same name
    reside            the clean name is the part before the first "_": 0001_0.8_0.2 -> 0001
    begins            the clean name is the longest one that the degraded name starts with:
                      0001-rain-3 -> 0001
    suffix:A          remove A at the end of the degraded name: suffix:x2, 01x2 -> 01
    suffix:A=B        replace A at the end by B; A may be empty: suffix:=_gt, 01 -> 01_gt
    prefix:A, A=B     likewise at the beginning: prefix:rain=norain, rain-001 -> norain-001
    order             n-th to n-th file, in natural order of names; both folders must hold equally
                      many files. For datasets whose names do not correspond.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dcpt_jax.data.datasets import DATASETS

# User-defined kinds: functions from the text after the colon to items, see `register`.
REGISTERED: dict[str, Callable[[str], Sequence[Any]]] = {}
KINDS = ("photos", "pairs", "list", "tfds", "packed")
RULES = "same, reside, begins, suffix:A, suffix:A=B, prefix:A, prefix:A=B, order"
CLEAN_FIRST = "clean_first"
_FORMS = (
    "photos:DIR, pairs:DEGRADED_DIR,CLEAN_DIR[,RULE], list:FILE[,clean_first], "
    "tfds:NAME[/CONFIG][:SPLIT], packed:DIR, or DATASET:DIR with one of "
)
_QUOTES = 'a name with ; or , needs double quotes: photos:"a;b"'

# (degraded name, test whether a clean name exists) -> clean name, or None if the rule does not
# apply.
Rule = Callable[[str, Callable[[str], bool]], str | None]


class SourceError(ValueError):
    """A source of data cannot be used; the message says why."""


class Spec(NamedTuple):
    """One source."""

    kind: str  # one of `KINDS`, a registered kind or the name of a dataset
    location: str  # the text after the colon


def register(kind: str, open_items: Callable[[str], Sequence[Any]]) -> None:
    """Registers a user-defined kind of source, `KIND:TEXT`; see docs/extending.md.

    Args:
        kind: the text before the colon.
        open_items: maps the text after the colon to a sequence (`len`, `[index]`) of clean photos,
            uint8 or uint16 [h, w, 3] RGB, or of pairs (degraded, clean) of such arrays. The
            sequence is pickled for worker processes.

    Raises:
        ValueError: if the kind already exists.
    """
    exists = kind in (*KINDS, *DATASETS) or REGISTERED.get(kind, open_items) is not open_items
    if exists:
        raise ValueError(f"there is another source of data {kind!r}: choose a new name")
    REGISTERED[kind] = open_items


def parse(text: str) -> list[Spec]:
    """Splits the text of a source into its parts; see the top of this module."""
    specs = []
    for part in filter(None, _split(text, ";")):
        kind, colon, location = part.partition(":")
        if not colon or not location or kind not in (*KINDS, *REGISTERED, *DATASETS):
            raise SourceError(
                f"{part!r} is not a source of data; known: {_FORMS}"
                f"{', '.join([*DATASETS, *REGISTERED])}; several joined by ; ({_QUOTES})"
            )
        if kind == "pairs":
            parse_pairs(location)
        elif kind != "list":
            location = _unquoted(location)
        specs.append(Spec(kind, location))
    if not specs:
        raise SourceError(f"{text!r} names no source of data")
    return specs


def parse_pairs(text: str) -> tuple[str, str, str]:
    """(degraded folder, clean folder, rule) of a text such as "A,B,reside"."""
    parts = [_unquoted(part) for part in _split(text, ",")]
    if len(parts) not in (2, 3) or not all(parts):
        raise SourceError(
            f"pairs:{text} must name two folders and optionally a rule: "
            f"pairs:DEGRADED_DIR,CLEAN_DIR[,RULE]; rules: {RULES} ({_QUOTES})"
        )
    rule = parts[2] if len(parts) == 3 else "same"
    parse_rule(rule)
    return parts[0], parts[1], rule


def parse_list(text: str) -> tuple[str, bool]:
    """(file, whether its lines name the clean file first) of "FILE" or "FILE,clean_first"."""
    file, _, order = text.rpartition(",")
    is_stated = bool(file) and order.strip() == CLEAN_FIRST
    return _unquoted(file.strip() if is_stated else text), is_stated


def quoted(location: str) -> str:
    """A path in the syntax of a source's text: in double quotes if it has ";" or ","."""
    return f'"{location}"' if re.search("[;,]", location) and '"' not in location else location


def _split(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that are not in double quotes."""
    masked = re.sub('"[^"]*"', lambda quoted: quoted[0].replace(separator, "\0"), text)
    return [part.replace("\0", separator).strip() for part in masked.split(separator)]


def _unquoted(text: str) -> str:
    return text[1:-1] if re.fullmatch('"[^"]+"', text) else text


def parse_rule(rule: str) -> Rule:
    """The function of a rule, from degraded to clean names."""
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
    """The longest clean name that is a prefix of this one and ends at a word or number boundary."""
    for end in range(len(name), 0, -1):
        pair = name[end - 1 : end + 1]
        inside = len(pair) == 2 and (pair.isdigit() or pair.isalpha())
        if not inside and exists(name[:end]):
            return name[:end]
    return None
