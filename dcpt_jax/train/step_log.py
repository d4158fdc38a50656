"""Collects metrics and throughput of training steps."""

import time
from collections.abc import Iterator

import jax
import numpy as np

from dcpt_jax.train import throughput
from dcpt_jax.train.state import NOT_FINITE_ADVICE, Metrics


class StepLog:
    """Metrics of the steps since the last report, fetched without stalling the device.

    The metrics of a step are fetched once `BEHIND` later steps have been dispatched, so the device
    always has work, and the loop never runs further ahead than that.
    """

    BEHIND = 2

    def __init__(
        self,
        step: int,
        *,
        batch_size: int = 0,
        flops: float | None = None,
        peak: float | None = None,
    ):
        """Starts counting.

        Args:
            step: number of steps done before.
            batch_size: images per step, over all devices.
            flops: floating-point operations per step, over all devices; None if unknown.
            peak: peak operations per second of all devices; None if unknown.
        """
        self._step = step  # number of the last step in `_values`
        self._batch_size, self._flops, self._peak = batch_size, flops, peak
        self._values: list[dict[str, float]] = []
        self.pending: list[Metrics] = []
        self._began = self._started = time.perf_counter()
        self._waited = self._waited_before = 0.0
        self._count = 0

    @property
    def unreported(self) -> bool:
        """Whether there are steps since the last report."""
        return bool(self.pending or self._values)

    def timed(self, stream: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The next batch; measures the time spent waiting for it."""
        start = time.perf_counter()
        batch = next(stream)
        self._waited += time.perf_counter() - start
        return batch

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of a step, still on the device."""
        self.pending.append(metrics)
        self._count += 1
        while len(self.pending) > self.BEHIND:
            self._fetch()

    def check(self) -> None:
        """Waits for all steps so far and fetches their metrics.

        Raises:
            FloatingPointError: if a metric is not finite.
        """
        while self.pending:
            self._fetch()

    def means(self) -> dict[str, float]:
        """Mean metrics since the last call, and throughput.

        The latter are `steps_per_second`, `images_per_second`, `data_wait` (share of the time), and
        if known `tflops_per_second` and `share_of_peak`. All time between two calls counts,
        validation and checkpoints included.
        """
        self.check()
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        means = {k: float(np.mean([v[k] for v in self._values])) for k in self._values[0]}
        rate = self._count / elapsed
        means |= {"steps_per_second": rate, "images_per_second": rate * self._batch_size}
        means["data_wait"] = self._waited / elapsed
        if self._flops is not None:
            means["tflops_per_second"] = rate * self._flops / 1e12
            if self._peak is not None:
                means["share_of_peak"] = rate * self._flops / self._peak
        self._waited_before += self._waited
        self._values, self._count, self._waited = [], 0, 0.0
        self._began = time.perf_counter()
        return means

    def resume(self, paused_at: float, *, batch_size: int, flops: float | None) -> None:
        """Continues with steps of another size; the time since `paused_at` is not counted.

        Args:
            paused_at: `time.perf_counter()` when the pause began, after the last report.
            batch_size: see `__init__`.
            flops: see `__init__`.
        """
        paused = time.perf_counter() - paused_at
        self._began, self._started = self._began + paused, self._started + paused
        self._batch_size, self._flops = batch_size, flops

    def summary(self, steps: int) -> str:
        """One line about the whole run: time, share of waiting for data, memory."""
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        waited = (self._waited_before + self._waited) / elapsed
        peak = throughput.peak_resident_bytes() / 2**30
        return (
            f"{steps} steps in {elapsed:.0f} s, checkpoints and validations included, compilation "
            f"of the step not; {waited:.1%} of it waiting for data; at most {peak:.1f} GB of memory"
        )

    def _fetch(self) -> None:
        values = {k: float(v) for k, v in jax.device_get(self.pending.pop(0)).items()}
        self._step += 1
        bad = [key for key, value in values.items() if not np.isfinite(value)]
        if bad:
            shown = ", ".join(f"{key} = {values[key]}" for key in bad)
            raise FloatingPointError(f"step {self._step}: {shown}. {NOT_FINITE_ADVICE}")
        self._values.append(values)
