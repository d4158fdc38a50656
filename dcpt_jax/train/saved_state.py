"""Reads the state in a run's checkpoints, whatever devices wrote them.

Nothing here changes a work directory. All processes of a run must call these functions together.
"""

import dataclasses
import errno
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dcpt_jax import weights
from dcpt_jax.config import ConfigError
from dcpt_jax.train import processes
from dcpt_jax.train.state import TrainState

_DAMAGE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


@dataclasses.dataclass(frozen=True)
class SavedState:
    """Content of a checkpoint."""

    state: TrainState
    batches: int  # number of batches taken from the data so far
    step: int


def newest_state(path: Path | str, target: TrainState) -> SavedState:
    """The state in the newest intact checkpoint of another run, for `config.resume_from`.

    Raises:
        ConfigError: if the checkpoint is of another network or optimiser.
        FileNotFoundError: if there is no checkpoint.
        RuntimeError: if no checkpoint can be read.
    """
    folders = [Path(name) for name in processes.on_main(lambda: _folders_to_resume(path))]

    def skip(folder: Path, reason: str) -> None:
        logging.warning("checkpoint %s is damaged (%s) and is skipped", folder, reason)

    advice = "Use --config.init_from instead of --config.resume_from to start from its network"
    restored = first_intact(folders, target, advice=advice, on_damage=skip)
    if restored is None:
        raise RuntimeError(
            f"config.resume_from: no checkpoint in {path} can be read; name another run, or start "
            "from weights with --config.init_from"
        )
    return restored


def saved_config(path: Path | str) -> dict[str, Any] | None:
    """The config in the newest checkpoint where it is readable, or None."""
    return processes.on_main(
        lambda: weights.newest_readable(path, lambda folder: weights.read_item(folder, "config"))
    )


def _folders_to_resume(path: Path | str) -> list[str]:
    folders = [str(folder) for folder in weights.checkpoint_folders(path)]
    if folders:
        return folders
    exists = Path(path).expanduser().is_dir()
    raise FileNotFoundError(
        f"config.resume_from: there is no {'checkpoint in ' if exists else ''}{path}; name a work "
        "directory W that holds checkpoints, or one of them, W/checkpoints/5000"
        + ("" if exists else "; weights alone are taken by --config.init_from")
    )


def first_intact(
    folders: Sequence[Path],
    target: TrainState,
    *,
    advice: str,
    on_damage: Callable[[Path, str], None],
) -> SavedState | None:
    """The first of several checkpoints that all processes can read, or None.

    Raises:
        ConfigError: if a checkpoint is of another network or optimiser.
    """
    for folder in folders:
        check_structure(folder, target, advice=advice)
        restored, damage = read(folder, target)
        if restored is not None:
            return restored
        on_damage(folder, damage)
    return None


def check_structure(folder: Path, target: TrainState, *, advice: str) -> None:
    """Raises ConfigError if a checkpoint is of another network or optimiser."""
    try:
        stored = _shapes(weights.array_metadata(folder))
    except Exception:
        return  # unreadable; reading it reports that
    expected = _shapes(as_dict(target))
    if not stored or stored == expected:
        return
    differing = sorted(
        name for name in {*stored, *expected} if stored.get(name) != expected.get(name)
    )
    raise ConfigError(
        f"checkpoint {folder.name} in {folder.parent} has another network or optimiser: "
        f"{len(differing)} arrays differ, first {differing[0]}: "
        f"{stored.get(differing[0], 'missing')} there, "
        f"{expected.get(differing[0], 'none')} by this config. {advice}"
    )


def read(folder: Path, target: TrainState) -> tuple[SavedState | None, str]:
    """Reads one checkpoint.

    Returns:
        (content, ""), or (None, what is damaged); the same in all processes.

    Raises:
        OSError: if reading failed for lack of memory, open files or permission.
        RuntimeError: if it failed for one of these reasons in another process.
    """
    state, data, failure = None, {}, None
    try:
        state, data = _read_arrays(folder, target)
    except Exception as error:
        failure = error
    fatal = failure is not None and _is_no_damage(failure)
    reason = "" if failure is None else weights.reason_of(failure)
    message = "" if failure is None else f"{'fatal' if fatal else 'damage'}:{reason}"
    reports = processes.exchange(message)
    if fatal:
        raise OSError(
            f"checkpoint {folder} cannot be read: {reason}. Once that is corrected, the same "
            "command continues from it"
        ) from failure
    for number, report in enumerate(reports):
        if report.startswith("fatal:"):
            raise RuntimeError(f"process {number} cannot read {folder}: {report[6:]}")
    damage = next((report[7:] for report in reports if report), "")
    if damage:
        return None, damage
    return SavedState(state=state, batches=int(data["batches"]), step=int(folder.name)), ""


def _read_arrays(folder: Path, target: TrainState) -> tuple[TrainState, dict[str, Any]]:
    processes.on_main(lambda: weights.refuse_damaged(folder, "state"))
    data = weights.read_item(folder, "data")
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        as_dict(target),
    )
    # Unlike a checkpointer, the handler waits for no other process, even if this one fails.
    arrays = ocp.StandardCheckpointHandler().restore(
        folder / "state", args=ocp.args.StandardRestore(abstract)
    )
    state = TrainState(**arrays)
    if int(state.step) != int(folder.name):
        raise weights.WeightsError(
            f"its state is of step {int(state.step)}: a checkpoint's folder must have that name"
        )
    return state, data


def as_dict(state: TrainState) -> dict[str, Any]:
    """A state as it is stored in checkpoints."""
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array in a state or in a checkpoint's metadata."""
    leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {
        ".".join(
            str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path
        ): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _is_no_damage(error: Exception) -> bool:
    """Whether reading failed for lack of memory, open files or permission, not by damage."""
    if isinstance(error, OSError):
        return not (isinstance(error, _DAMAGE) or error.errno == errno.EIO)
    text = str(error)
    return isinstance(error, MemoryError) or any(
        name in text for name in ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED")
    )
