"""The checkpoints of a work directory, as far as other programs than training read them.

Training writes them, see `dcpt_jax.train.checkpoints`: `W/checkpoints/5000/` holds the items
`state`, `data`, `config` and `model`, and after a validation its `metrics`.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dcpt_jax.weights.description import Params, parse

CHECKPOINTS, WEIGHTS = "checkpoints", "weights"  # folders in a work directory
PARTS = ("network", "classifier")  # of a state, that are weights; others only help in training
_FILES = {"metrics": "metrics"}  # Orbax's names of the files inside items; others are "metadata"


def checkpoint_steps(workdir: Path | str) -> list[int]:
    """Steps of the whole checkpoints in a work directory, newest first."""
    folder = Path(workdir) / CHECKPOINTS
    if not folder.is_dir():
        return []
    steps = [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()]
    return sorted(steps, reverse=True)


def is_checkpoint(path: Path | str) -> bool:
    """Whether a path is one checkpoint of a work directory, such as W/checkpoints/5000.

    One that was copied elsewhere has to have state and model; where it was written, anything of it
    is enough, so that a damaged one is told from nothing. A work directory may be a number, too.
    """
    path = Path(path).expanduser().absolute()

    def holds(*names: str) -> list[bool]:
        return [(path / name).is_dir() for name in names]

    if not path.name.isdigit() or any(holds(CHECKPOINTS, WEIGHTS)):
        return False
    if path.parent.name == CHECKPOINTS:
        return any(holds("state", "data", "config", "model"))
    return all(holds("state", "model"))


def checkpoint_folders(path: Path | str) -> list[Path]:
    """Folders of the whole checkpoints in a work directory, newest first; or the one named."""
    path = Path(path).expanduser().absolute()
    if is_checkpoint(path):
        return [path]
    return [path / CHECKPOINTS / str(step) for step in checkpoint_steps(path)]


def newest_description(path: Path | str) -> dict[str, Any] | None:
    """The description in a work directory's newest checkpoint that has one, or None.

    Args:
        path: work directory, or one of its checkpoints.
    """
    for folder in checkpoint_folders(path):
        try:
            return _describes(folder)
        except (OSError, ValueError):
            continue
    return None


def read_item(checkpoint: Path, name: str) -> Any:
    """An item of a training checkpoint that is JSON: "config", "model" or "metrics".

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not what was written.
    """
    content = json.loads((checkpoint / name / _FILES.get(name, "metadata")).read_text())
    try:
        data = json.loads((checkpoint / "data" / "metadata").read_text())
        expected = data.get("items", {}).get(name)  # earlier versions wrote none
    except (OSError, ValueError, AttributeError):
        expected = None
    if expected is not None and checksum_of_json(content) != expected:
        raise ValueError(f"{checkpoint / name} is damaged: its checksum differs")
    return content


def checksum_of_json(content: Any) -> int:
    """CRC-32 of JSON values, however they are laid out."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def load_checkpoint(folder: Path) -> tuple[Params, dict[str, Any]]:
    """Parameters and description of one training checkpoint, whatever devices it was written on."""
    description = _describes(folder)
    # The handler, as the checkpointer warns of a file that a folder of items has not.
    metadata = ocp.PyTreeCheckpointHandler().metadata(folder / "state")
    tree = getattr(metadata, "tree", metadata)
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
    params = {**state["params"], **state.get("ema", {})}
    # What only helps in training is no part of the weights.
    return {name: params[name] for name in PARTS if name in params}, description


def _describes(checkpoint: Path) -> dict[str, Any]:
    try:
        return parse(read_item(checkpoint, "model"))
    except ValueError as error:
        raise ValueError(f"{checkpoint / 'model'} does not describe weights: {error}") from error
