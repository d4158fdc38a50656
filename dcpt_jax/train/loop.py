"""The training loop, shared by all modes.

A run starts from the newest checkpoint in its work directory; else from the checkpoint that
`config.resume_from` names; else from the weights in `config.init_from`; else from scratch.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import ml_collections

from dcpt_jax import files, logs, weights
from dcpt_jax.data import pipeline
from dcpt_jax.data.phases import phase_at
from dcpt_jax.devices import start_devices
from dcpt_jax.train import curves, processes, sharding, throughput
from dcpt_jax.train.begin import checkpoint_description, first_state, with_inherited_init_from
from dcpt_jax.train.checkpoints import Checkpoints
from dcpt_jax.train.progress import Progress
from dcpt_jax.train.run import Run, prepare
from dcpt_jax.train.state import Metrics, TrainState
from dcpt_jax.train.step_log import StepLog
from dcpt_jax.train.stop_request import StopRequest
from dcpt_jax.train.validation import Validation
from dcpt_jax.train.writers import (
    METRICS,
    create_writer,
    grouped,
    metric_writers,
    read_metrics,
)


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of a training run."""

    state: TrainState
    finished: bool  # False if stopped by a signal
    metrics: dict[str, float]  # means over the last logging interval


def train(config: ml_collections.ConfigDict, workdir: Path | str) -> Result:
    """Runs or resumes the training that a config describes.

    Args:
        config: see `dcpt_jax.config`; it is not changed.
        workdir: directory of the run: checkpoints, weights, config, metrics, curves, log and
            TensorBoard files.

    Returns:
        The final state and metrics.

    Raises:
        ConfigError: if the config is invalid, or differs from the one used in this directory.
        FloatingPointError: if the loss is no longer finite; names the step.
        OSError: if the directory is not writable.
        RuntimeError: if another process is training in this directory.
    """
    workdir = Path(workdir).absolute()
    start_devices()
    with StopRequest() as stop, contextlib.ExitStack() as stack:
        if processes.is_main():
            stack.enter_context(logs.written_to(workdir))
        return _train(config, workdir, stop)


def _train(config: ml_collections.ConfigDict, workdir: Path, stop: StopRequest) -> Result:
    stop.check()
    config = with_inherited_init_from(config, workdir)
    run = prepare(config, begun=checkpoint_description(config, workdir))
    stop.check()
    checkpoints = Checkpoints(
        workdir,
        keep=config.checkpoint.keep,
        keep_best=config.checkpoint.keep_best,
        best_metric=run.held_out.best,
    )
    try:
        state, batches = first_state(
            run,
            checkpoints,
            resume_from=config.resume_from,
            allow_config_change=config.checkpoint.allow_config_change,
        )
        stop.check()
        first = int(state.step)
        with run.batches(start=batches) as stream:
            result = _run_steps(run, state, stream, workdir, checkpoints, stop)
        checkpoints.wait()
        last = int(result.state.step)
        # A finished run that is started again takes no step and keeps the weights it wrote.
        written = processes.on_main(lambda: weights.saved_steps(workdir))
        if result.finished and (last > first or written != last):
            _write_weights(run, result, workdir, checkpoints.best())
    finally:
        checkpoints.close()
    return result


def _write_weights(
    run: Run, result: Result, workdir: Path, best: tuple[int, Mapping[str, float]] | None
) -> None:
    """Writes the final weights, and names the best checkpoint."""
    steps, extra = int(result.state.step), {}
    if best is not None:
        extra["best"] = {"step": best[0], "metrics": dict(best[1])}
        if best[0] != steps:
            processes.say(
                f"best: step {best[0]}, {run.held_out.best} {best[1][run.held_out.best]:.4g}, in "
                f"{workdir / weights.CHECKPOINTS / str(best[0])}"
            )
    description = run.describe(metrics=result.metrics, steps=steps, **extra)
    params = processes.gather(run.result(result.state))

    def save() -> None:
        try:
            weights.save_weights(workdir / weights.WEIGHTS, params, description)
        except OSError as error:
            raise OSError(
                f"the weights {error}. The run is complete in its last checkpoint: once that is "
                "corrected, the same command writes them"
            ) from error

    processes.on_main(save)
    processes.say(f"weights: {workdir / weights.WEIGHTS}")


def _run_steps(
    run: Run,
    state: TrainState,
    stream: pipeline.BatchIterator,
    workdir: Path,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> Result:
    """Trains up to the last step of the config, or until a signal."""
    total = run.num_steps
    first = step = int(state.step)
    if step >= total:
        processes.say(f"finished: step {step} of {total}; more with --config.num_steps=N")
        description = weights.newest_description(workdir)
        metrics = {} if description is None else dict(description.metrics)
        return Result(state=state, finished=True, metrics=metrics)
    with contextlib.closing(Monitor(run, workdir, checkpoints, stream, stop)) as monitor:
        compiled = monitor.compile(step, state)
        stop.check()
        changes = {phase.first_step for phase in run.phases} - {first}
        while step < total and not stop.is_requested(step):
            if step in changes:
                compiled = monitor.compile(step, state)
            batch = sharding.put_batch(monitor.log.timed(stream), run.mesh)
            with jax.transfer_guard("disallow"):  # no implicit host-device copies in a step
                state, metrics = compiled(state, batch)
            step += 1
            monitor.after(step, state, metrics)
        monitor.finish(step, state)
    processes.say(monitor.log.summary(step - first))
    if stop.signal and step < total:
        processes.say(f"{stop.signal}: saved step {step} of {total}; the same command continues")
    return Result(state=state, finished=step >= total, metrics=monitor.latest)


class Monitor:
    """Everything besides the steps: compilation, metrics, pictures, validation, checkpoints."""

    def __init__(
        self,
        run: Run,
        workdir: Path,
        checkpoints: Checkpoints,
        stream: pipeline.BatchIterator,
        stop: StopRequest,
    ):
        """Opens the validation data."""
        self._run, self._checkpoints, self._stream = run, checkpoints, stream
        self._stop = stop
        self._workdir = workdir
        self._writer = metric_writers.MultiWriter([])
        # Both are created in `compile`.
        self.log: StepLog | None = None
        self._progress: Progress | None = None
        self._saved = -1
        self.latest: dict[str, float] = {}
        self._validation = None
        if run.intervals.validation or run.intervals.pictures:
            self._validation = Validation(run)

    def compile(self, step: int, state: TrainState) -> jax.stages.Compiled:
        """Compiles the step of the current phase; it accepts only that phase's batches.

        The clocks of the log and of the progress bar start after the first compilation, and are
        paused during later ones.
        """
        run = self._run
        if self.log is None:
            self._open(step)
        elif self.log.unreported:  # so that no report mixes two phases
            self._report(step)
        start = time.perf_counter()
        phase = phase_at(run.phases, step)
        sizes = ""
        if len(run.phases) > 1:
            sizes = f" for batches of {phase.batch_size} of {phase.crop_size}x{phase.crop_size}"
        processes.say(f"compiling the training step{sizes} (can take minutes) ...")
        lowered = run.lower(state, phase)
        compiled = lowered.compile()
        flops = None
        if run.platform != "cpu":  # there kernel gradients are loops, whose body XLA counts once
            flops = throughput.flops_of(lowered, accumulate_steps=run.accumulate_steps)
        if self.log is not None:
            self.log.resume(start, batch_size=phase.batch_size, flops=flops)
            self._progress.resume()
            return compiled
        self._progress = Progress(run.mode.name, start=step, total=run.num_steps, phases=run.phases)
        peak = throughput.peak_flops(list(run.mesh.devices.flat), run.dtype)
        self.log = StepLog(step, batch_size=phase.batch_size, flops=flops, peak=peak)
        return compiled

    def _open(self, step: int) -> None:
        """Writes the config and opens the metric writers."""
        run = self._run
        if processes.is_main():
            files.write_json(self._workdir / "config.json", run.config)
            self._writer = create_writer(self._workdir, first_step=step)
            text = "\n".join(f"    {line}" for line in json.dumps(run.config, indent=2).split("\n"))
            self._writer.write_texts(
                step, {"config": text}
            )  # an indented block is code in Markdown

    def after(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Records a step, and does what is due after it."""
        self.log.add(metrics)
        self._progress.step()
        every = self._run.intervals
        stopping = self._stop.signal is not None
        last = step == self._run.num_steps
        if _due(step, every.pictures, last) and not stopping:
            sheet = self._validation.sheet(state)
            if sheet is not None:
                self._writer.write_images(step, {"pictures": sheet})
        if _due(step, every.log):
            self._report(step)
        validated = _due(step, every.validation, last) and not stopping
        if validated or _due(step, every.checkpoint):
            self._save(step, state, validate=validated)

    def finish(self, step: int, state: TrainState) -> None:
        """Reports and saves the last steps."""
        if self.log.unreported:
            self._report(step)
        if step != self._saved:
            self._save(step, state, validate=False)
        self._writer.flush()
        if processes.is_main():
            curves.draw(read_metrics(self._workdir / METRICS), self._workdir / "curves.png")

    def close(self) -> None:
        """Closes the progress bar and the writers."""
        if self._progress is not None:
            self._progress.close()
        self._writer.close()

    def _report(self, step: int) -> None:
        self.latest = self.log.means()
        values = self.latest | self._run.learning_rates(step - 1)
        values |= throughput.memory(jax.local_devices()[0])
        self._writer.write_scalars(step, grouped(values))
        self._progress.report(step, self.latest)

    def _save(self, step: int, state: TrainState, *, validate: bool) -> None:
        self.log.check()  # never checkpoint a state after a loss that is not finite
        metrics = None
        if validate:
            metrics = self._validation.measure(state)
            self._writer.write_scalars(step, grouped(metrics, validation=True))
            self._progress.validated(step, metrics)
        self._checkpoints.save(
            state,
            batches=self._stream.position,
            config=self._run.config,
            model=self._run.describe(steps=step, metrics=self.latest).to_json(),
            metrics=metrics,
        )
        self._saved = step


def _due(step: int, every: int, last: bool = False) -> bool:
    return bool(every) and (last or step % every == 0)
