"""Graceful handling of Ctrl-C and SIGTERM: recorded by a handler, checked between work items."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interruption:
    """Context manager that records SIGINT and SIGTERM.

    A KeyboardInterrupt could be raised anywhere, also inside an XLA callback, where it is lost. So
    the first signal is only recorded, and the work stops at its next `check`. Each further SIGINT
    raises immediately. Outside the main thread no handler is installed. If interruptions are
    nested, the inner one takes over a signal recorded by the outer one.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, message: str = "") -> None:
        """`message` is printed on the error stream at the first signal."""
        self.signal: str | None = None
        self._message = message
        self._raises = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in self.NUMBERS:
                previous = signal.signal(number, self._note)
                self._previous[number] = previous
                outer = getattr(previous, "__self__", None)
                if isinstance(outer, Interruption):
                    self.signal = self.signal or outer.signal
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, Interruption):
                outer.signal = outer.signal or self.signal

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal was recorded."""
        if self.signal is not None:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Makes signals raise immediately, for work in plain Python that does not call XLA."""
        self.check()
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    @property
    def status(self) -> int:
        """The exit status of a command that was interrupted: 130, or 143 after SIGTERM."""
        return 143 if self.signal == "SIGTERM" else 130

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        first = self.signal is None
        self.signal = self.signal or signal.Signals(number).name
        if self._raises or (not first and number == signal.SIGINT):
            raise KeyboardInterrupt
        if first and self._message:
            with contextlib.suppress(OSError):
                os.write(2, f"\n{self._message}\n".encode())  # print is not signal-safe
