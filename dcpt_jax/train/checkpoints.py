"""Checkpoints of a run: state, position in the data, config and description, saved behind its back.

`W/checkpoints/<step>/` holds the items `state`, `data`, `config` and `model`. `data` is the number
of batches taken, which is all that the pipeline needs to continue its stream with any number of
workers, and the checksum of the state.
"""

import dataclasses
import fcntl
import json
import logging
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dcpt_jax import weights
from dcpt_jax.config import ConfigError
from dcpt_jax.train.state import TrainState

DAMAGED = "damaged"


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint held."""

    state: TrainState
    batches: int  # taken from the data when it was written
    step: int


class Checkpoints:
    """The checkpoints of one work directory, which this process alone may write."""

    def __init__(self, workdir: Path | str, *, keep: int = 2):
        """Opens a work directory, making it if need be.

        Args:
            workdir: the run's directory.
            keep: how many checkpoints to keep; older ones are removed.

        Raises:
            RuntimeError: if another process is writing to it.
        """
        self._workdir = Path(workdir).absolute()
        self._folder = self._workdir / weights.CHECKPOINTS
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self._workdir)
        self.unfinished = sorted(
            int(match[1])
            for entry in self._folder.iterdir()
            if (match := re.match(r"(\d+)\.orbax-checkpoint-tmp", entry.name))
        )
        self._keep = keep
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        policies = ocp.checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            save_decision_policy=policies.FixedIntervalPolicy(1),  # the loop decides when
            preservation_policy=policies.LatestN(self._keep),
            cleanup_tmp_directories=True,
        )
        return ocp.CheckpointManager(self._folder, options=options)

    def steps(self) -> list[int]:
        """Steps of the checkpoints here, newest first."""
        return weights.checkpoint_steps(self._workdir)

    def config(self) -> dict[str, Any] | None:
        """The config of the newest checkpoint whose config can be read, or None."""
        for step in self.steps():
            try:
                return json.loads((self._folder / str(step) / "config" / "metadata").read_text())
            except (OSError, ValueError):
                continue
        return None

    def save(
        self, state: TrainState, *, batches: int, config: Mapping[str, Any], model: Mapping
    ) -> None:
        """Starts writing a checkpoint of the state's step; returns once the state is copied.

        Args:
            state: of the run; may be donated to the next step afterwards.
            batches: taken from the data so far.
            config: of the run, as JSON values.
            model: description of the network, see `weights.describe`.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_as_dict(state)),
                data=ocp.args.JsonSave({"batches": batches, "crc32": _checksum(state)}),
                config=ocp.args.JsonSave(dict(config)),
                model=ocp.args.JsonSave(dict(model)),
            ),
            force=True,
        )

    def restore_latest(self, target: TrainState) -> Restored | None:
        """The newest checkpoint that can be read; damaged ones are set aside, and that is said.

        Args:
            target: state with the shapes, dtypes and shardings to restore into (arrays or
                `jax.ShapeDtypeStruct`).

        Returns:
            What it held, or None if there is no checkpoint.

        Raises:
            ConfigError: if a checkpoint is of another network or optimiser; it stays where it is.
            RuntimeError: if there are checkpoints, but none can be read.
        """
        for step in self.unfinished:
            logging.warning("checkpoint %d was cut short by a crash and is not used", step)
        steps = self.steps()
        for step in steps:
            unaveraged = self._check_structure(step, target)
            try:
                restored = self._restore(step, target, unaveraged)
            except Exception as error:
                if _is_no_damage(error):
                    raise
                self._set_aside(step, error)
                continue
            if step != steps[0] or self.unfinished:
                logging.warning("continuing from checkpoint %d instead", step)
            return restored
        damaged = self._workdir / DAMAGED
        if damaged.is_dir() and any(damaged.iterdir()):
            raise RuntimeError(
                f"no checkpoint in {self._folder} can be read; damaged ones lie in {damaged}. "
                "Start again with another --workdir, if you like with --config.init_from set to "
                f"weights that you still have; or remove {damaged} to start over here"
            )
        return None

    def _check_structure(self, step: int, target: TrainState) -> tuple[str, ...]:
        """Tells a state of another network or optimiser from a damaged one.

        Returns:
            The parts whose moving average the checkpoint lacks: earlier versions averaged only the
            network.

        Raises:
            ConfigError: if the checkpoint's arrays have other names or shapes than the target's.
        """
        try:
            # The handler, as the checkpointer warns of a file that a folder of items has not.
            metadata = ocp.PyTreeCheckpointHandler().metadata(self._folder / str(step) / "state")
            found = _shapes(getattr(metadata, "tree", metadata))
        except Exception:
            return ()  # unreadable: restoring it will say so
        expected = _shapes(_as_dict(target))
        averaged = {name.split(".")[1] for name in found if name.startswith("ema.")}
        unaveraged = tuple(sorted(set(target.ema) - averaged)) if averaged else ()
        for part in unaveraged:
            expected = {k: v for k, v in expected.items() if not k.startswith(f"ema.{part}.")}
        if not found or found == expected:
            return unaveraged
        differing = sorted(
            name for name in {*found, *expected} if found.get(name) != expected.get(name)
        )
        raise ConfigError(
            f"checkpoint {step} in {self._folder} is of another network or optimiser: "
            f"{len(differing)} of {len(expected)} arrays differ, first {differing[0]}: "
            f"{found.get(differing[0], 'missing')} there, "
            f"{expected.get(differing[0], 'none')} by this config. Use another --workdir, with "
            "--config.init_from set to this one to start from its network"
        )

    def _restore(self, step: int, target: TrainState, unaveraged: tuple[str, ...] = ()) -> Restored:
        averages = {name: tree for name, tree in target.ema.items() if name not in unaveraged}
        target = target.replace(ema=averages)
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _as_dict(target)
        )
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
            ),
        )
        state = TrainState(**items["state"])
        if _checksum(state) != items["data"]["crc32"]:
            raise ValueError("its content is not what was saved: the checksum differs")
        if unaveraged:
            logging.warning(
                "checkpoint %d has no moving average of the %s (it is of an earlier version): "
                "averaging starts at this step",
                step,
                " and ".join(unaveraged),
            )
            fresh = {name: jax.tree.map(jnp.copy, state.params[name]) for name in unaveraged}
            state = state.replace(ema={**state.ema, **fresh})
        return Restored(state=state, batches=int(items["data"]["batches"]), step=step)

    def _set_aside(self, step: int, error: Exception) -> None:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        kept = self._workdir / DAMAGED / str(step)
        if kept.exists():
            shutil.rmtree(kept)
        kept.parent.mkdir(exist_ok=True)
        (self._folder / str(step)).rename(kept)
        logging.warning("checkpoint %d is damaged (%s); moved to %s", step, reason, kept)
        self._manager.close()
        self._manager = self._open()

    def close(self) -> None:
        """Waits until everything is on disk and lets go of the directory."""
        try:
            self._manager.wait_until_finished()
        finally:
            self._manager.close()
            self._lock.close()


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array of a state or of a checkpoint's metadata."""
    leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {
        ".".join(
            str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path
        ): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _is_no_damage(error: Exception) -> bool:
    """Whether reading failed for want of memory, files or access rather than for what was read."""
    missing = isinstance(error, FileNotFoundError)
    wanting = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
    return wanting or (isinstance(error, OSError) and not missing)


def _checksum(state: TrainState) -> int:
    """CRC-32 over every array. Orbax's own files tell of a cut end, but not of a flipped bit."""
    crc = 0
    for path, leaf in jax.tree.leaves_with_path(_as_dict(state)):
        crc = zlib.crc32(jax.tree_util.keystr(path).encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(jax.device_get(leaf)), crc)
    return crc


def _lock(workdir: Path) -> Any:
    """Takes the directory for this process; the system lets go of it however the process ends."""
    file = (workdir / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise RuntimeError(f"another process is training in {workdir}; wait or stop it") from error
    return file
