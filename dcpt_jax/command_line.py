"""Exit statuses, paths and progress, shared by all commands."""

import _thread
import argparse
import contextlib
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import tqdm

from dcpt_jax.devices import DeviceError
from dcpt_jax.files import expand_home
from dcpt_jax.interruption import Interruption
from dcpt_jax.suggestions import did_you_mean

_QUIET_SECONDS = 10  # between progress lines without a terminal


class UsageError(Exception):
    """An invalid command line; the message says what to change."""


class OutputError(Exception):
    """Standard output cannot be written: its disk is full, or its reader has ended."""


class _Output:
    """Standard output that raises an OutputError, so that no other OSError is taken for one."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise OutputError(error.strerror) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputError(error.strerror) from error


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parses the command line, adds `options.interruption`, and runs the command in `guarded`.

    Returns:
        The exit status. Where the arguments themselves are wrong, argparse exits with 2.
    """

    def parse_and_run(interruption: Interruption) -> int:
        _refuse_unknown_flags(parser, sys.argv[1:] if arguments is None else arguments)
        options = parser.parse_args(arguments)
        options.interruption = interruption
        return run(options)

    return guarded(parse_and_run)


def _refuse_unknown_flags(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Ends with a suggestion for a mistyped flag; argparse would miss a required one first."""
    known = [flag for action in parser._actions for flag in action.option_strings]
    for argument in itertools.takewhile(lambda one: one != "--", arguments):
        flag = argument.partition("=")[0]
        if flag.startswith("--") and not any(one.startswith(flag) for one in known):
            parser.error(f"unrecognized arguments: {argument}{did_you_mean(flag, known)}")


def guarded(work: Callable[[Interruption], int]) -> int:
    """Runs a command; errors and interruptions end it with one line on the error stream.

    Args:
        work: returns the exit status; calls `check` of the given interruption between work items.

    Returns:
        The exit status: that of `work`, 2 for a UsageError or DeviceError, 1 for an OSError, also
        if standard output cannot be written (silently if its reader has ended, as `head` does), 130
        if interrupted (143 by SIGTERM).
    """
    for stream in (sys.stdout, sys.stderr):  # file names may contain undecodable bytes
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = show_unraisable
    with (
        contextlib.redirect_stdout(_Output(sys.stdout)),
        Interruption("stopping; press Ctrl-C again to stop at once") as interruption,
    ):
        try:
            try:
                return work(interruption)
            finally:
                sys.stdout.flush()
        except (UsageError, DeviceError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return interruption.status
        except OutputError as error:
            _discard_output()
            if not isinstance(error.__cause__, BrokenPipeError):
                print(f"error: cannot write the output: {error}", file=sys.stderr)
            return 1
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1


def show_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """The default hook, except for what comes from elsewhere.

    Not shown are tasks left by Orbax after its event loop failed and closed, and Ctrl-C inside a
    callback of JAX, which is raised again.
    """
    error = unraisable.exc_value
    if isinstance(error, KeyboardInterrupt):
        _thread.interrupt_main()
        return
    if not isinstance(error, RuntimeError) or str(error) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def say(text: str) -> None:
    """Prints a line; continues if the reader of the output has ended, as `head` does."""
    try:
        print(text, flush=True)
    except OutputError as error:
        if not isinstance(error.__cause__, BrokenPipeError):
            raise
        _discard_output()


def _discard_output() -> None:
    """Discards buffered output, which would be written at exit."""
    with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def expanded_path(text: str) -> Path:
    """A path argument, for argparse, see `expanded`."""
    if not text:  # which would be the current folder
        raise argparse.ArgumentTypeError("the path is empty, as of a variable that is not set")
    return Path(expanded(text))


def expanded(text: str) -> str:
    """A text of paths, for argparse: `~` is the home folder, also after `--flag=`."""
    try:
        return expand_home(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive_int(text: str) -> int:
    """An integer from 1 to 10^12, for argparse; it may be written as 1e3."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number.is_integer() or not 1 <= number <= 1e12:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not an integer from 1 to 10^12")
    return int(number)


def _one_line(text: str) -> str:
    """Text with its control characters escaped, which names of files may contain."""
    return re.sub("[\0-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], text)


class Display:
    """Progress: a bar on a terminal, otherwise a line for each photo."""

    def __init__(self, total: int):
        """Shows an empty bar for `total` photos if the output is a terminal."""
        self._bar = None
        self._shown = time.monotonic()
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(total=total, unit="photo", dynamic_ncols=True)

    def line(self, text: str) -> None:
        """Prints a line above the bar."""
        text = _one_line(text)
        self._shown = time.monotonic()
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def failure(self, text: str) -> None:
        """Prints on the error stream why a photo failed."""
        text = _one_line(text)
        if self._bar is None:
            print(f"failed: {text}", file=sys.stderr, flush=True)
        else:
            self._bar.write(f"failed: {text}", file=sys.stderr)

    def done(self, text: str = "", *, notable: bool = False) -> None:
        """Counts a photo; prints the text without a bar, or if it is notable."""
        if text and (self._bar is None or notable):
            self.line(text)
        if self._bar is not None:
            self._bar.set_postfix_str("", refresh=False)
            self._bar.update()

    def tile(self, done: int, total: int) -> None:
        """Shows the progress of a photo that runs in tiles; without a terminal at intervals."""
        text = f"tile {done}/{total}" if done else f"averages for {total} tiles"
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif time.monotonic() - self._shown >= _QUIET_SECONDS:
            print(f"  {text}", file=sys.stderr, flush=True)
            self._shown = time.monotonic()

    def close(self) -> None:
        """Ends the bar in its current state."""
        if self._bar is not None:
            self._bar.close()
