"""Output of a run on the terminal and in the log file of its folder."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from absl import logging as absl_logging

FILE = "log.txt"
_lines = logging.getLogger(f"{__name__}.lines")  # printed lines, logged to files only
_lines.propagate = False
_lines.setLevel(logging.INFO)


def say(text: str) -> None:
    """Prints a line for the user, and writes it to the open log file."""
    print(text, flush=True)
    _lines.info("%s", text)


@contextlib.contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Context manager that appends the output of `say` and warnings to `log.txt` in a folder.

    An error that leaves the context is logged too. If the file cannot be written, it is skipped
    silently.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / FILE, encoding="utf-8", errors="backslashreplace")
    except OSError:  # writing checkpoints will report it
        yield
        return
    handler.handleError = lambda record: None
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    loggers = (_lines, logging.getLogger())
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        _lines.error("%s: %s", type(error).__name__, error)
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def quiet_libraries() -> None:
    """Shows warnings of this package on the terminal, but not the libraries' messages.

    After a failed write Orbax's threads log a traceback for each file that was still to be written,
    hundreds in addition to the one error of the failed write.
    """
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = absl_logging.get_absl_handler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")
    for name in ("orbax", "jax", "grain"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
