"""What happens inside the processes that make samples, and around their start."""

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Iterator

import cv2

_SECONDS_AFTER_SIGTERM = 20
_SIGNALS_OF_THE_GROUP = (signal.SIGINT, signal.SIGTERM)  # that a whole process group gets


def start_worker(index: int, count: int) -> None:
    """Sets a worker process up; runs in it before its first sample."""
    del index, count
    cv2.setNumThreads(0)
    keep_memory()
    _hold_no_locks()
    # Ctrl-C and a scheduler's SIGTERM reach the whole group; the main process still wants its
    # current batch, saves, and then stops the workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_soon)
    if hasattr(signal, "pthread_sigmask"):  # from here on they may come
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS_OF_THE_GROUP)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


@contextlib.contextmanager
def signals_kept_from_new_processes() -> Iterator[None]:
    """Blocks what `start_worker` handles, in this thread and in processes that it starts.

    A process inherits this, so a signal that comes while it starts waits for `start_worker`. Other
    threads of this process still get their signals.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_THE_GROUP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _hold_no_locks() -> None:
    """Lets Grain's loop in a worker look without a lock at what the main process tells it.

    A worker that is killed while it holds one would keep it, and the main process would wait for it
    for ever when it puts others in its place or closes the stream.
    """
    from multiprocessing import sharedctypes, synchronize

    synchronize.Event.is_set = lambda event: not event._flag._semlock._is_zero()
    sharedctypes.Synchronized.value = property(
        lambda number: number.get_obj().value,
        lambda number, value: setattr(number.get_obj(), "value", value),
    )


def keep_memory() -> None:
    """Lets the C library keep freed memory for the next arrays, where it is glibc.

    It would return each array of this size to the system and get it back page by page, which takes
    a third of the time of a sample. Only up to 64 MB are kept so.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(mmap_threshold, 32 << 20)
    mallopt(trim_threshold, 64 << 20)


def _leave_soon(*_: object) -> None:
    timer = threading.Timer(_SECONDS_AFTER_SIGTERM, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _leave_with_parent() -> None:
    """Ends a worker whose main process was killed; it would otherwise wait for ever."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
