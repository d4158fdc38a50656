"""How a command ends while importing its libraries, before `command_line.guarded` takes over."""

import os
import signal
import sys
import traceback
from types import FrameType, TracebackType


def starts_here() -> bool:
    """Whether this process runs one of the commands and imports this package for the first time."""
    if "multiprocessing.spawn" in sys.modules:  # a worker, which has the arguments of its parent
        return False
    if sys.argv[:1] == ["-m"]:  # python -m, while the module is being located
        return any(word.partition(".")[0] == "dcpt_jax" for word in sys.orig_argv[1:])
    return bool(sys.argv) and os.path.basename(sys.argv[0]) == "dcpt-jax"


def end_in_one_line() -> None:
    """Makes signals, a missing extra and odd `JAX_` variables end the process with one line.

    Streams that are closed, as by `>&-`, are opened without content: Python has None in their
    place, and other files would get their numbers, on which libraries write messages.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)
    sys.excepthook = _show


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(128 + number)  # nothing has been written yet that needs cleaning up


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from dcpt_jax.extras import MissingExtraError

    last = traceback.extract_tb(trace)[-1:]
    if isinstance(error, MissingExtraError):
        print(f"error: {error}", file=sys.stderr)
    elif last and last[0].filename.endswith(os.path.join("jax", "_src", "config.py")):
        print(f"error: an environment variable of JAX: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
