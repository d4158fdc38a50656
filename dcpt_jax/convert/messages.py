"""Messages that quote files: without control characters, and short."""

from collections.abc import Iterable


def printable(text: str, longest: int = 200) -> str:
    """The text with whatever could steer a terminal escaped, cut off where it is too long."""
    cut = text if len(text) <= longest else text[:longest] + "..."
    return cut if cut.isprintable() else ascii(cut)[1:-1]


def listed(names: Iterable[object], at_most: int = 20) -> str:
    """Names joined by commas: the first of them, and how many more there are."""
    names = list(names)
    shown = ", ".join(printable(str(name)) for name in names[:at_most])
    return shown if len(names) <= at_most else f"{shown} and {len(names) - at_most} more"
