"""Stopping a run on request, after the step that is being done."""

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Notes SIGTERM and SIGINT while it is entered, so that a run can save and end.

    A second SIGINT interrupts at once. Outside the main thread nothing is installed.

    Where several processes train together, each may get its signal at another step, or only one
    of them. SIGTERM is then left to JAX, which tells all processes and lets them agree on a step,
    and the first SIGINT is handed on to it as one.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._interrupted = False  # by SIGINT
        self._previous: dict[int, object] = {}
        self._several = jax.process_count() > 1

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if self._several else (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def asked(self, step: int) -> bool:
        """Whether to stop now, before another step; in all processes the same.

        Args:
            step: how many are done. Each process has to ask at every step.
        """
        # All processes have to ask JAX at the same steps, so one that was told asks no more.
        if (
            self._several
            and not self.signal
            and multihost_utils.reached_preemption_sync_point(step)
        ):
            self.signal = "SIGINT" if self._interrupted else "SIGTERM"
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        if self._several:
            signal.raise_signal(signal.SIGTERM)  # JAX takes it from here
        else:
            self.signal = signal.Signals(number).name
