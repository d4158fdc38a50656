"""The training loop: the same for every mode.

Order at the start: the work directory's own newest checkpoint, else the weights in
`config.init_from`, else from scratch.
"""

import contextlib
import dataclasses
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np

from dcpt_jax import config as configs
from dcpt_jax import weights
from dcpt_jax.data import pipeline
from dcpt_jax.train import sharding
from dcpt_jax.train.checkpoints import Checkpoints
from dcpt_jax.train.interruption import StopRequest
from dcpt_jax.train.progress import Progress
from dcpt_jax.train.setup import Run, prepare, resume
from dcpt_jax.train.state import Metrics, TrainState
from dcpt_jax.train.writers import create_writer, metric_writers, periodic_actions


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended."""

    state: TrainState
    finished: bool  # False: stopped by a signal, to be continued
    metrics: dict[str, float]  # means over the last steps that were logged


def train(config: ml_collections.ConfigDict, workdir: Path | str) -> Result:
    """Runs, or continues, the training that a config describes.

    Args:
        config: see `dcpt_jax.config`; it is not changed.
        workdir: directory of the run: checkpoints, weights and TensorBoard files.

    Returns:
        The final state and metrics.

    Raises:
        ConfigError: if the config cannot run, or another config was used in this directory.
        FloatingPointError: if the loss stops being finite; names the step.
        RuntimeError: if another process trains in this directory.
    """
    workdir = Path(workdir).absolute()
    run = prepare(config, begun=weights.newest_description(workdir))
    checkpoints = Checkpoints(workdir, keep=run.config.checkpoint.keep)
    try:
        state, batches = resume(run, checkpoints)
        first = int(state.step)
        with StopRequest() as stop, run.batches(start=batches) as stream:
            result = _run_steps(run, state, stream, workdir, checkpoints, stop)
    finally:
        checkpoints.close()
    last = int(result.state.step)
    # A finished run that is started again does no step and leaves the weights that it wrote.
    if result.finished and (last > first or weights.saved_steps(workdir) != last):
        description = run.describe(metrics=result.metrics, steps=last)
        folder = weights.save_weights(
            workdir / weights.WEIGHTS, run.result(result.state), description
        )
        print(f"weights: {folder}", flush=True)
    return result


def _run_steps(
    run: Run,
    state: TrainState,
    stream: pipeline.BatchIterator,
    workdir: Path,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> Result:
    """Steps from the state's to the config's last one, or until a signal asks to stop."""
    config, total = run.config, run.config.num_steps
    first = step = int(state.step)
    progress = Progress(config.mode, start=step, total=total)
    log = StepLog(step)
    latest: dict[str, float] = {}

    def save(step: int, t: float | None = None) -> None:
        del step, t
        log.check()  # a checkpoint is only ever of a finite state
        checkpoints.save(
            state,
            batches=stream.position,
            config=configs.to_json(config),
            model=run.describe(steps=int(state.step)),
        )

    with (
        contextlib.closing(create_writer(workdir)) as writer,
        metric_writers.ensure_flushes(writer),
        contextlib.closing(progress),
    ):

        def report(step: int, t: float | None = None) -> None:
            del t
            latest.update(log.means())
            writer.write_scalars(step, latest | run.learning_rates(step - 1))
            progress.report(step, latest)

        def images(step: int, t: float | None = None) -> None:
            del t
            writer.write_images(step, {"degraded | restored | clean": run.sheet(state)})

        every = periodic_actions.PeriodicCallback
        actions = [
            every(every_steps=config.log.every_steps, callback_fn=report),
            every(every_steps=config.checkpoint.every_steps, callback_fn=save),
        ]
        if config.log.image_every_steps:
            actions.insert(0, every(every_steps=config.log.image_every_steps, callback_fn=images))
        while step < total and stop.signal is None:
            batch = log.timed(stream)
            state, metrics = run.step(state, sharding.put_batch(batch, run.mesh))
            step += 1
            log.add(metrics)
            progress.step()
            for action in actions:
                action(step)
        if log.unreported:
            report(step)
        save(step)
    if step > first:
        print(log.summary(step - first), flush=True)
    if stop.signal:
        print(
            f"{stop.signal}: saved step {step} of {total}; the same command continues", flush=True
        )
    return Result(state=state, finished=step >= total, metrics=latest)


class StepLog:
    """Metrics of the steps since the last report, fetched without holding up the device.

    A step's metrics are looked at only once `BEHIND` newer steps were started, so that the device
    always has work; that wait also keeps the loop from running far ahead of it.
    """

    BEHIND = 2

    def __init__(self, step: int):
        """Starts counting at `step` steps done."""
        self._step = step  # number of the last step in `_values`
        self._values: list[dict[str, float]] = []
        self.pending: list[Metrics] = []
        self._began = self._started = time.perf_counter()
        self._waited = self._waited_before = 0.0
        self._count = 0

    @property
    def unreported(self) -> bool:
        """Whether a step was done since the last report."""
        return bool(self.pending or self._values)

    def timed(self, stream: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The next batch; counts the time that it kept us waiting."""
        began = time.perf_counter()
        batch = next(stream)
        self._waited += time.perf_counter() - began
        return batch

    def add(self, metrics: Metrics) -> None:
        """Notes a step's metrics, still on the device."""
        self.pending.append(metrics)
        self._count += 1
        while len(self.pending) > self.BEHIND:
            self._fetch()

    def check(self) -> None:
        """Waits for all steps so far.

        Raises:
            FloatingPointError: if the loss of one was not finite.
        """
        while self.pending:
            self._fetch()

    def means(self) -> dict[str, float]:
        """Means since the last call, and `steps_per_second` and `data_wait` (share of the time)."""
        self.check()
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        means = {k: float(np.mean([v[k] for v in self._values])) for k in self._values[0]}
        means["steps_per_second"] = self._count / elapsed
        means["data_wait"] = self._waited / elapsed
        self._waited_before += self._waited
        self._values, self._count, self._waited = [], 0, 0.0
        self._began = time.perf_counter()
        return means

    def summary(self, steps: int) -> str:
        """One line about the whole run: how long it took, and what it waited for."""
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        waited = (self._waited_before + self._waited) / elapsed
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
        return (
            f"{steps} steps in {elapsed:.0f} s, compilation and checkpoints included; "
            f"{waited:.1%} of it waiting for data; at most {peak:.1f} GB of memory"
        )

    def _fetch(self) -> None:
        values = {k: float(v) for k, v in jax.device_get(self.pending.pop(0)).items()}
        self._step += 1
        bad = [key for key, value in values.items() if not np.isfinite(value)]
        if bad:
            shown = ", ".join(f"{key} = {values[key]}" for key in bad)
            raise FloatingPointError(
                f"step {self._step}: {shown}. Training stopped; the last checkpoint is kept. "
                "Try a smaller learning_rate, or clip_norm, of the optimizer in the config"
            )
        self._values.append(values)
