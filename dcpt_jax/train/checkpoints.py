"""Checkpoints of a run, saved asynchronously: state, data position, config and description.

`W/checkpoints/<step>/` holds the items `state`, `data`, `config` and `model`, and after a
validation its `metrics`. `data` is the number of batches taken so far: all that the pipeline needs
to resume its stream, with any number of workers. `checksums.json` is computed in the background
from the written files, before the checkpoint gets its final name. So a save never gathers the
state, and blocks only while Orbax copies each host's part of it.

With several processes, all of them call these methods, but only the main one locks, moves and
deletes; the directory must be on a file system that they share.
"""

import contextlib
import dataclasses
import fcntl
import logging
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dcpt_jax import files, weights
from dcpt_jax.train import processes, saved_state
from dcpt_jax.train.saved_state import SavedState
from dcpt_jax.train.state import NOT_FINITE_ADVICE, TrainState

DAMAGED = "damaged"
_METRICS = "metrics"  # Orbax's own name of this item


class Checkpoints:
    """The checkpoints of one work directory, locked for this run."""

    def __init__(
        self,
        workdir: Path | str,
        *,
        keep: int = 2,
        keep_best: int = 0,
        best_metric: str = "",
    ):
        """Opens a work directory, creating it if necessary.

        Args:
            workdir: the run's directory.
            keep: how many of the newest checkpoints to keep; older ones are deleted.
            keep_best: how many of the best checkpoints to keep in addition.
            best_metric: the metric, among those saved, that defines the best; larger is better.
                Checkpoints without it do not count.

        Raises:
            RuntimeError: if another run is using it.
            OSError: if it is not writable, or not all processes see it.
        """
        self._workdir = Path(workdir).absolute()
        self._folder = self._workdir / weights.CHECKPOINTS
        self._lock: Any = None
        self.unfinished: list[int] = processes.on_main(self._take)
        _check_shared(self._workdir)
        self._kept = _Kept(self._folder, keep, keep_best, best_metric)
        self._failed = False
        self._writing = -1  # step of the checkpoint that is being written
        self._manager = self._open()

    def _take(self) -> list[int]:
        """Creates and locks the directory; returns the steps of unfinished checkpoints.

        Deletes these: Orbax would do so in a thread that nothing waits for.
        """
        try:
            weights.refuse_pattern(self._folder)
            files.check_writable(self._folder)
            self._lock = _lock(self._workdir)
        except OSError as error:
            raise OSError(
                f"the work directory {self._workdir} cannot be written: "
                f"{error.strerror or error}. Correct that, or use another --workdir"
            ) from error
        unfinished = {
            entry: int(match[1])
            for entry in self._folder.iterdir()
            if (match := re.match(r"(\d+)\.orbax-checkpoint-tmp", entry.name))
            and entry.is_dir()
            and not entry.is_symlink()
        }
        for entry in unfinished:
            shutil.rmtree(entry)
        return sorted(unfinished.values())

    def _open(self) -> ocp.CheckpointManager:
        policies = ocp.checkpoint_managers
        self._kept.metrics = {
            step: _read_metrics(self._folder / str(step)) for step in self.steps()
        }
        options = ocp.CheckpointManagerOptions(
            save_decision_policy=policies.FixedIntervalPolicy(1),  # the loop decides when
            preservation_policy=self._kept,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
        )
        return ocp.CheckpointManager(self._folder, options=options)

    def _write_checksums(self) -> None:
        """Called by Orbax in its thread, after writing the items and before renaming the folder."""
        folders = list(self._folder.glob(f"{self._writing}.orbax-checkpoint-tmp*"))
        if not folders:  # without checksums the checkpoint would count as damaged
            raise FileNotFoundError(f"checkpoint {self._writing} is not where it is written")
        for folder in folders:
            weights.write_checksums(folder)

    def steps(self) -> list[int]:
        """Steps of the checkpoints, newest first."""
        return weights.checkpoint_steps(self._workdir)

    def best(self) -> tuple[int, dict[str, float]] | None:
        """Step and metrics of the best checkpoint, even one still being written, or None."""
        best = self._kept.best(self._manager.all_steps())
        return (best[-1], dict(self._kept.metrics[best[-1]])) if best else None

    def config(self) -> dict[str, Any] | None:
        """The config of the newest checkpoint whose config can be read, or None."""
        return saved_state.saved_config(self._workdir)

    def save(
        self,
        state: TrainState,
        *,
        batches: int,
        config: Mapping[str, Any],
        model: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts writing a checkpoint of the state; returns once the state has been copied.

        Raises:
            FloatingPointError: if the state is not finite; nothing is written then.
            OSError: if this checkpoint or the previous one cannot be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        texts = {"config": dict(config), "model": dict(model)}
        values = {name: float(value) for name, value in (metrics or {}).items()}
        if values:
            texts[_METRICS] = values
        _check_finite(state)
        items = {
            "state": ocp.args.StandardSave(saved_state.as_dict(state)),
            "data": ocp.args.JsonSave({"batches": batches}),
            **{name: ocp.args.JsonSave(text) for name, text in texts.items()},
        }
        with self._explained():
            self._manager.wait_until_finished()
            self._kept.metrics[step] = values
            self._writing = step
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def wait(self) -> None:
        """Waits until everything is on disk."""
        with self._explained():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Converts the various exceptions of a failed write into an OSError with advice."""
        try:
            yield
        except Exception as error:
            self._failed = True
            steps = self.steps()
            follows = (
                f"continues from checkpoint {steps[0]}" if steps else "starts from the first step"
            )
            raise OSError(
                f"a checkpoint cannot be written to {self._folder}: {weights.reason_of(error)}. "
                f"Once that is corrected, the same command {follows}"
            ) from error

    def read_newest(self, target: TrainState) -> SavedState | None:
        """The newest readable checkpoint; damaged ones are moved aside with a warning.

        Raises:
            ConfigError: if a checkpoint is of another network or optimiser; it stays where it is.
            RuntimeError: if there are checkpoints, but none can be read.
        """
        for step in self.unfinished:
            logging.warning("checkpoint %d was cut short by a crash and is not used", step)
        steps = processes.on_main(self.steps)
        restored = saved_state.first_intact(
            [self._folder / str(step) for step in steps],
            target,
            advice="Use another --workdir, with --config.init_from set to this one to start from "
            "its network",
            on_damage=self._move_aside,
        )
        if restored is not None:
            if restored.step != steps[0] or self.unfinished:
                logging.warning("continuing from checkpoint %d instead", restored.step)
            return restored
        damaged = self._workdir / DAMAGED
        if processes.on_main(lambda: damaged.is_dir() and any(damaged.iterdir())):
            raise RuntimeError(
                f"no checkpoint in {self._folder} can be read; damaged ones are in {damaged}. "
                "Start again with another --workdir, optionally with --config.init_from set "
                f"to weights that you still have; or remove {damaged} to start over here"
            )
        return None

    def _move_aside(self, folder: Path, reason: str) -> None:
        def move() -> str:
            damaged, number = self._workdir / DAMAGED, 1
            kept = damaged / folder.name
            while os.path.lexists(kept):
                number += 1
                kept = damaged / f"{folder.name}_{number}"
            damaged.mkdir(exist_ok=True)
            folder.rename(kept)
            return str(kept)

        kept = processes.on_main(move)
        logging.warning("checkpoint %s is damaged (%s); moved to %s", folder.name, reason, kept)
        self._manager.close()
        self._manager = self._open()

    def close(self) -> None:
        """Waits until everything is on disk, and unlocks the directory.

        Raises:
            OSError: if something could not be written and has not been reported yet.
        """
        try:
            if not self._failed:
                self.wait()
        finally:
            with contextlib.suppress(Exception):  # failures have been reported above
                self._manager.close()
            if self._lock is not None:
                self._lock.close()


def _check_finite(state: TrainState) -> None:
    """Raises FloatingPointError, in all processes, if a value of a state is not finite.

    Each process checks what its own devices hold, and one replica of each array.
    """
    checked = [
        (jax.tree_util.keystr(path), _all_finite(shard.data))
        for path, leaf in jax.tree.leaves_with_path(state)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
        for shard in leaf.addressable_shards
        if shard.replica_id == 0
    ]
    first_bad = next((name for name, finite in checked if not finite), "")
    if name := next(filter(None, processes.exchange(first_bad)), ""):
        raise FloatingPointError(
            f"step {int(state.step)}: {name} is not finite. {NOT_FINITE_ADVICE}"
        )


def _all_finite(array: jax.Array) -> Any:
    if next(iter(array.devices())).platform == "cpu":  # NumPy needs no copy and no compilation
        return np.isfinite(np.asarray(array)).all()
    return _all_finite_on_device(array)


@jax.jit
def _all_finite_on_device(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).all()


@dataclasses.dataclass
class _Kept:
    """Preservation policy for Orbax: keeps the newest checkpoints and, in addition, the best.

    Orbax's own `BestN` would also count checkpoints without metrics. A folder that is named like a
    checkpoint but is none is not counted, and kept.
    """

    folder: Path
    newest: int
    number_of_best: int
    metric: str
    metrics: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)  # by step

    def best(self, steps: Sequence[int]) -> list[int]:
        """Those of the steps whose metric is known and not NaN, the best last."""
        values = {step: self.metrics.get(step, {}).get(self.metric, math.nan) for step in steps}
        known = [step for step in steps if not math.isnan(values[step])]
        return sorted(known, key=lambda step: (values[step], step))

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """See `orbax.checkpoint.checkpoint_managers.PreservationPolicy`."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        foreign = {step for step in steps if self._is_foreign(step)}
        own = [step for step in steps if step not in foreign]
        best = self.best(own)
        kept = {*own[-self.newest :], *best[max(0, len(best) - self.number_of_best) :], *foreign}
        return [step in kept for step in steps]

    def _is_foreign(self, step: int) -> bool:
        folder = self.folder / str(step)
        return folder.exists() and not weights.is_checkpoint(folder)


def _read_metrics(folder: Path) -> dict[str, float]:
    """The metrics in a checkpoint; {} if missing or unreadable."""
    try:
        content = weights.read_item(folder, _METRICS)
        return {name: float(value) for name, value in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _lock(workdir: Path) -> Any:
    """Locks the directory; the system releases the lock however the process ends.

    Some network file systems have no locks.
    """
    file = (workdir / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise RuntimeError(f"another process is training in {workdir}; wait or stop it") from error
    except OSError as error:
        logging.warning(
            "%s cannot be locked (%s): do not train in it twice at a time", workdir, error.strerror
        )
    return file


def _check_shared(workdir: Path) -> None:
    """Raises OSError if a process does not see files that the main process writes."""
    if jax.process_count() == 1:
        return
    mark = workdir / processes.on_main(lambda: f".shared-{uuid.uuid4().hex}")
    processes.on_main(mark.touch)
    deadline = time.monotonic() + 10  # network file systems show new files late
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    blind = [name for name in processes.exchange("" if mark.exists() else processes.host()) if name]
    processes.on_main(lambda: mark.unlink(missing_ok=True))
    if blind:
        raise OSError(
            f"{', '.join(blind)}: {workdir} is not the one that process 0 writes to; --workdir "
            "must be on a file system that all processes share"
        )
