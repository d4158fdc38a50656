"""Ctrl-C while a command imports its libraries, before `command_line.guarded` looks after it."""

import os
import signal
import sys
from types import FrameType


def starts_here() -> bool:
    """Whether this process is one of the commands, in its first import of this package."""
    if sys.argv[:1] == ["-m"]:  # python -m, while the module is being located
        return any(word.partition(".")[0] == "dcpt_jax" for word in sys.orig_argv[1:])
    return os.path.basename(sys.argv[0]) == "dcpt-jax" if sys.argv else False


def end_at_ctrl_c() -> None:
    """Makes Ctrl-C end the process with one line; nothing has been written that needs care."""
    signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: FrameType | None) -> None:
    del number, frame
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(130)
