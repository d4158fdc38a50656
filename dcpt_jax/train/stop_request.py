"""Stops a run on a signal, after the current step."""

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

from dcpt_jax.interruption import Interruption


class StopRequest(Interruption):
    """An `Interruption` on which all processes of a run agree, so that they save the same step.

    With several processes, a signal may reach them at different steps, or only one of them. SIGTERM
    is then handled by JAX, which makes all processes agree on a step; the first SIGINT is turned
    into a SIGTERM.
    """

    def __init__(self) -> None:
        super().__init__("stopping after this step; press Ctrl-C again to stop at once")
        self._interrupted = False  # by SIGINT
        self._several = jax.process_count() > 1
        if self._several:
            self.NUMBERS = (signal.SIGINT,)

    def is_requested(self, step: int) -> bool:
        """Whether to stop before the next step; the same answer in all processes.

        Args:
            step: number of steps done. Every process must call this at every step.
        """
        # All processes must query JAX at the same steps, so none does after the answer was yes.
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
