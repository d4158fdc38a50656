"""Messages: text from files without control characters, and output that may end early."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator


def printable(text: str, longest: int = 200) -> str:
    """The text with whatever could steer a terminal escaped, cut off where it is too long."""
    cut = text if len(text) <= longest else text[:longest] + "..."
    return cut if cut.isprintable() else ascii(cut)[1:-1]


def listed(names: Iterable[object], at_most: int = 20) -> str:
    """Names joined by commas: the first of them, and how many more there are."""
    names = list(names)
    shown = ", ".join(printable(str(name)) for name in names[:at_most])
    return shown if len(names) <= at_most else f"{shown} and {len(names) - at_most} more"


@contextlib.contextmanager
def pipe_may_end() -> Iterator[None]:
    """Goes on in silence where the reader of the output has gone, as `head` does."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Prints a line; what is to be written is written even if nobody reads it."""
    with pipe_may_end():
        print(text)
