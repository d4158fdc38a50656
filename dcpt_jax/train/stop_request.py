"""Stopping a run on request, after the step that is being done."""

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

from dcpt_jax.interruption import Interruption


class StopRequest(Interruption):
    """An `Interruption` on which all processes of a run agree, so that it can save and end.

    Where several processes train together, each may get its signal at another step, or only one
    of them. SIGTERM is then left to JAX, which tells all processes and lets them agree on a step,
    and the first SIGINT is passed on to it as one.
    """

    def __init__(self) -> None:
        super().__init__("stopping after this step; press Ctrl-C again to stop at once")
        self._interrupted = False  # by SIGINT
        self._several = jax.process_count() > 1
        if self._several:
            self.NUMBERS = (signal.SIGINT,)

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
        if not self._several:
            super()._note(number, frame)
        elif self._interrupted:
            raise KeyboardInterrupt
        else:
            self._interrupted = True
            signal.raise_signal(signal.SIGTERM)  # JAX takes it from here
