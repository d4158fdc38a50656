"""Quotes content of untrusted files in messages: shortened, without control characters."""

from collections.abc import Iterable


def printable(text: str, longest: int = 200) -> str:
    """The text, truncated, with terminal control characters escaped."""
    cut = text if len(text) <= longest else text[:longest] + "..."
    return cut if cut.isprintable() else ascii(cut)[1:-1]


def listed(names: Iterable[object], at_most: int = 20) -> str:
    """The first names joined by commas, and the number of others."""
    names = list(names)
    shown = ", ".join(printable(str(name)) for name in names[:at_most])
    return shown if len(names) <= at_most else f"{shown} and {len(names) - at_most} more"
