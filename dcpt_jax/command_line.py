"""What the commands for photos share: how they end, and how they show progress."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence

import tqdm


class UsageError(Exception):
    """The command line cannot be carried out; the message says what to change."""


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parses the command line and runs the command.

    Args:
        parser: of the command.
        run: the command; returns its exit status, or raises UsageError.
        arguments: of the command line; None: those of this process.

    Returns:
        The exit status: that of `run`, 2 for a UsageError, 130 if interrupted, 1 if the output is
        read no further. Where the arguments themselves are wrong, argparse exits with 2.
    """
    for stream in (sys.stdout, sys.stderr):  # file names may hold bytes that are not text
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads the output has ended, as `head` does
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # for what is flushed at exit
        return 1


def pixel_limit(text: str) -> int:
    """Value of --max-pixels, for argparse."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of pixels >= 1")
    return int(text)


class Display:
    """Progress: a bar on a terminal, a line for each photo elsewhere."""

    def __init__(self, total: int):
        """Shows an empty bar, if any, for `total` photos."""
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(total=total, unit="photo", dynamic_ncols=True)

    def line(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def failure(self, text: str) -> None:
        """Prints on the error stream why a photo failed."""
        if self._bar is None:
            print(f"failed: {text}", file=sys.stderr, flush=True)
        else:
            self._bar.write(f"failed: {text}", file=sys.stderr)

    def done(self, text: str = "", *, notable: bool = False) -> None:
        """Counts a photo; the text is shown where there is no bar, or if it is notable."""
        if text and (self._bar is None or notable):
            self.line(text)
        if self._bar is not None:
            self._bar.set_postfix_str("", refresh=False)
            self._bar.update()

    def tile(self, done: int, total: int) -> None:
        """Shows how far a photo that runs in tiles has come."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"tile {done}/{total}")

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
