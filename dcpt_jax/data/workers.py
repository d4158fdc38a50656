"""Worker processes of the data pipeline: setup, shared memory, and diagnosis of deaths."""

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator

import cv2

_SECONDS_AFTER_SIGTERM = 20
SHARED_MEMORY = "/dev/shm"
SHARED_MEMORY_REMEDIES = (
    "Remedies: a larger one (docker run --shm-size=2g, or --ipc=host), fewer workers "
    "(--config.data.num_workers), or smaller batches (--config.batch_size)"
)
_BATCHES_IN_USE = 10  # held by the main process: in a step, in transfer, being freed
_GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # sent to a whole process group

_logger = logging.getLogger(__name__)


def start_worker(index: int, count: int) -> None:
    """Initialises a worker process, before its first sample."""
    del index, count
    cv2.setNumThreads(0)
    keep_memory()
    # Ctrl-C and a scheduler's SIGTERM reach all processes of the group, but the main process still
    # needs the current batch; it saves, and then stops the workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit_soon)
    if hasattr(signal, "pthread_sigmask"):  # the handlers are set: see `starting_processes`
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


@contextlib.contextmanager
def starting_processes() -> Iterator[None]:
    """Blocks, in processes started meanwhile, the signals that `start_worker` handles.

    A process inherits the signal mask of the thread that starts it, so a signal during its start is
    delivered only after `start_worker`. Other threads of this process are not affected. Also
    silences Python's resource tracker, which starts with the first worker and warns when it removes
    the shared memory of killed workers.
    """
    warned = os.environ.get("PYTHONWARNINGS")
    silent = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = f"{warned},{silent}" if warned else silent
    blocks = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS) if blocks else None
    try:
        yield
    finally:
        if blocks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if warned is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = warned


def fit_shared_memory(num_workers: int, ahead: int, batch_bytes: int) -> tuple[int, int]:
    """Reduces workers and prefetched batches to what fits into shared memory.

    Containers have 64 MB of it by default, and a process that exceeds the limit is killed by SIGBUS
    in the middle of a run.

    Returns:
        (workers, prefetched batches) that fit. 0 workers = threads of this process, which need no
        shared memory.
    """
    free = shared_memory_free()
    if free is None or _needed(num_workers, ahead, batch_bytes) <= free:
        return num_workers, ahead
    fits = (n for n in range(num_workers, 0, -1) if _needed(n, 1, batch_bytes) <= free)
    fitting = next(fits, 0)
    instead = "threads of the main process are used" if not fitting else f"{fitting} are used"
    _logger.warning(
        "%d data workers need up to %.0f MB in %s for their batches, but %.0f MB are free: %s "
        "instead; the batches stay the same. %s",
        *(num_workers, _needed(num_workers, ahead, batch_bytes) / 1e6, SHARED_MEMORY, free / 1e6),
        *(instead, SHARED_MEMORY_REMEDIES),
    )
    return fitting, 1


def _needed(num_workers: int, ahead: int, batch_bytes: int) -> int:
    """Bytes of shared memory: batches that workers buffer, make and deliver, and those in use."""
    return (num_workers * (ahead + 2) + _BATCHES_IN_USE) * batch_bytes


def shared_memory_free() -> int | None:
    """Free bytes of shared memory, 0 if Linux has none; None if unknown, as on other systems."""
    if sys.platform != "linux":
        return None
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0
    if not os.access(SHARED_MEMORY, os.W_OK):
        return 0
    return status.f_bavail * status.f_frsize


def cause_of_death(exit_code: int | None) -> str:
    """Explains the exit code of a dead worker process, with remedies."""
    if exit_code is None:
        return "without an exit code"
    if exit_code >= 0:
        cause = f"exit code {exit_code}"
        if exit_code == 1:
            cause += '; if at the start, the program may lack `if __name__ == "__main__":`'
        return cause
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = "an unknown signal"
    cause = f"killed by {name}, exit code {exit_code}"
    if name == "SIGKILL":
        cause += (
            "; the memory probably ran out: lower --config.data.num_workers or "
            "--config.data.cache_megabytes"
        )
    elif name == "SIGBUS":
        free = shared_memory_free()
        cause += (
            f"; shared memory probably ran out: {SHARED_MEMORY} has {(free or 0) / 1e6:.0f} MB "
            f"free. {SHARED_MEMORY_REMEDIES}"
        )
    return cause


def keep_memory() -> None:
    """Makes glibc keep up to 64 MB of freed memory for the next arrays.

    By default it returns arrays of this size to the system and gets them back page by page, which
    takes a third of the time of a sample. A no-op with other C libraries.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(mmap_threshold, 32 << 20)
    mallopt(trim_threshold, 64 << 20)


def _exit_soon(*_: object) -> None:
    timer = threading.Timer(_SECONDS_AFTER_SIGTERM, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _exit_with_parent() -> None:
    """Ends a worker whose main process was killed; it would otherwise wait forever."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
