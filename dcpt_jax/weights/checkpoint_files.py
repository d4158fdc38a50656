"""Reads the checkpoints of a work directory, for all but the training.

`dcpt_jax.train.checkpoints` writes them: `W/checkpoints/5000/` holds the items `state`, `data`,
`config` and `model`, and `metrics` after a validation. Orbax detects truncated files but not
flipped bits, so `checksums.json` has the CRC-32 of each file.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dcpt_jax import files
from dcpt_jax.weights.checksums import refuse_other_shapes
from dcpt_jax.weights.description import (
    Params,
    WeightsDescription,
    WeightsError,
    parse_description,
    read_json,
)
from dcpt_jax.weights.failures import reason_of

CHECKPOINTS, WEIGHTS = "checkpoints", "weights"  # folders in a work directory
PARTS = ("network", "classifier")  # the weights in a state; others are used only in training
CHECKSUMS = "checksums.json"
_STEP = re.compile(r"0|[1-9][0-9]*")
_FILES = {"metrics": "metrics"}  # Orbax's names of the files inside items; others are "metadata"


def refuse_pattern(folder: Path) -> None:
    """Raises OSError for a path in which Orbax would write nothing that can be read.

    Orbax searches its own files with an unescaped pattern.
    """
    if found := sorted(set(str(folder)) & set("*?[\\")):
        raise OSError(
            f"its path contains {' and '.join(found)}, which Orbax takes for a pattern; choose or "
            "rename a folder without these characters"
        )


def checkpoint_steps(workdir: Path | str) -> list[int]:
    """Steps of the complete checkpoints in a work directory, newest first.

    Other entries, such as `.DS_Store` or a copy named "5000 (copy)", are ignored.
    """
    folder = Path(workdir) / CHECKPOINTS
    if not folder.is_dir():
        return []
    steps = [int(entry.name) for entry in folder.iterdir() if _STEP.fullmatch(entry.name)]
    return sorted(steps, reverse=True)


def is_checkpoint(path: Path | str) -> bool:
    """Whether a path is one checkpoint of a work directory, such as W/checkpoints/5000.

    A copy elsewhere must have state and model. In `checkpoints` any of the items is enough, so that
    a damaged checkpoint is recognised. The name of a work directory may be a number, too.
    """
    path = Path(path).expanduser().absolute()

    def holds(*names: str) -> list[bool]:
        return [(path / name).is_dir() for name in names]

    if not _STEP.fullmatch(path.name) or any(holds(CHECKPOINTS, WEIGHTS)):
        return False
    if path.parent.name == CHECKPOINTS:
        return any(holds("state", "data", "config", "model"))
    return all(holds("state", "model"))


def checkpoint_folders(path: Path | str) -> list[Path]:
    """Folders of the checkpoints in a work directory, newest first; or the given checkpoint."""
    path = Path(path).expanduser().absolute()
    if is_checkpoint(path):
        return [path]
    return [path / CHECKPOINTS / str(step) for step in checkpoint_steps(path)]


def newest_description(path: Path | str) -> WeightsDescription | None:
    """The description in the newest checkpoint that has one, or None.

    Args:
        path: work directory, or one of its checkpoints.
    """
    return newest_readable(path, _describes)


def newest_readable(path: Path | str, read: Callable[[Path], Any]) -> Any | None:
    """The result of `read` for the newest checkpoint for which it succeeds, or None.

    Args:
        path: work directory, or one of its checkpoints.
        read: function of a checkpoint's folder; raises OSError or ValueError if it fails.
    """
    for folder in checkpoint_folders(path):
        try:
            return read(folder)
        except (OSError, ValueError):
            continue
    return None


def write_checksums(checkpoint: Path) -> None:
    """Writes the CRC-32 of each file in a checkpoint's items to `checksums.json`.

    Args:
        checkpoint: its temporary folder, before it is renamed.
    """
    checksums = {
        file.relative_to(checkpoint).as_posix(): files.crc32_of(file)
        for file in sorted(checkpoint.glob("*/**/*"))
        if file.is_file()
    }
    files.write_json(checkpoint / CHECKSUMS, checksums)


def refuse_damaged(checkpoint: Path, item: str) -> None:
    """Checks the files of an item against their checksums.

    A copy elsewhere that has only the items state and model is not checked, as it has no checksums.

    Raises:
        OSError: if a file, or the checksums, cannot be read.
        WeightsError: naming a file that differs.
    """
    if not (checkpoint / CHECKSUMS).exists() and checkpoint.parent.name != CHECKPOINTS:
        return
    expected = read_json(checkpoint / CHECKSUMS)
    if not isinstance(expected, dict):
        raise WeightsError(f"{checkpoint / CHECKSUMS} is damaged: it is not a JSON object")
    names = [name for name in expected if name.startswith(f"{item}/")]
    if not names:
        raise WeightsError(f"{checkpoint / CHECKSUMS} is damaged: it lacks {item}")
    for name in names:
        if files.crc32_of(checkpoint / name) != expected[name]:
            raise WeightsError(f"{checkpoint / name} is damaged: its checksum differs")


def read_item(checkpoint: Path, name: str) -> dict[str, Any]:
    """Reads a JSON item of a training checkpoint: "data", "config", "model" or "metrics".

    Raises:
        OSError: if it cannot be read.
        WeightsError: if it is damaged.
    """
    refuse_damaged(checkpoint, name)
    file = checkpoint / name / _FILES.get(name, "metadata")
    content = read_json(file)
    if not isinstance(content, dict):
        raise WeightsError(f"{file} is damaged: it is not a JSON object")
    return content


def array_metadata(checkpoint: Path) -> Any:
    """Names, shapes and dtypes of the arrays in a checkpoint, in a tree like its state.

    Raises:
        Exception: of various types, if they cannot be read.
    """
    # Uses the handler, as the checkpointer warns of a file that folders of items do not have.
    metadata = ocp.PyTreeCheckpointHandler().metadata(checkpoint / "state")
    return getattr(metadata, "tree", metadata)


def load_checkpoint(folder: Path) -> tuple[Params, WeightsDescription]:
    """Parameters and description of one training checkpoint, for any number of devices.

    Raises:
        WeightsError: if it is damaged or its checksums do not match.
    """
    try:
        return _load_checkpoint(folder)
    except Exception as error:  # the storage libraries raise various types
        raise WeightsError(f"checkpoint {folder} cannot be read: {reason_of(error)}") from error


def _load_checkpoint(folder: Path) -> tuple[Params, WeightsDescription]:
    description = _describes(folder)
    refuse_damaged(folder, "state")
    tree = array_metadata(folder)
    item = {
        name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree[name])
        for name in ("params", "ema")
        if tree.get(name)
    }
    to_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    state = ocp.PyTreeCheckpointHandler().restore(
        folder / "state",
        args=ocp.args.PyTreeRestore(item=item, restore_args=to_host, partial_restore=True),
    )
    averaged = {**state["params"], **state.get("ema", {})}
    # Parts used only in training are not weights.
    params = {name: averaged[name] for name in PARTS if name in averaged}
    if description.classifier is None:
        params.pop("classifier", None)  # the guide of a transfer
    if not (folder / CHECKSUMS).exists():
        refuse_other_shapes(params, description, folder)
    return params, description


def _describes(checkpoint: Path) -> WeightsDescription:
    return parse_description(read_item(checkpoint, "model"), checkpoint / "model")
