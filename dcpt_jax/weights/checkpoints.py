"""The checkpoints of a work directory, as far as other programs than training read them.

Training writes them, see `dcpt_jax.train.checkpoints`: `W/checkpoints/5000/` holds the items
`state`, `data`, `config` and `model`, and after a validation its `metrics`. Here is also what tells
whether they are whole: the checksums in `data`, and how they are computed.
"""

import contextlib
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dcpt_jax.weights.description import Params, parse

CHECKPOINTS, WEIGHTS = "checkpoints", "weights"  # folders in a work directory
PARTS = ("network", "classifier")  # of a state, that are weights; others only help in training
OTHER_CONTENT = "its content is not what was saved: the checksum differs"
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
    return newest_readable(path, _describes)


def newest_readable(path: Path | str, read: Callable[[Path], Any]) -> Any | None:
    """What is read of the newest checkpoint of which it can be read, or None.

    Args:
        path: work directory, or one of its checkpoints.
        read: from the folder of a checkpoint; raises OSError or ValueError where it cannot.
    """
    for folder in checkpoint_folders(path):
        try:
            return read(folder)
        except (OSError, ValueError):
            continue
    return None


def position(
    batches: int, crc32: Mapping[str, int] | int, items: Mapping[str, int]
) -> dict[str, Any]:
    """The item `data` of a checkpoint.

    Args:
        batches: taken from the data so far.
        crc32: `checksum_of_arrays` of the parts of the state, "params", "ema" and so on; earlier
            versions wrote that of the state as a whole, which only all of it can be compared with.
        items: `checksum_of_json` of the checkpoint's other items, by their names.
    """
    if isinstance(crc32, Mapping):
        crc32 = dict(sorted(crc32.items()))
    # A flipped bit can make another digit of a digit, which no reader of JSON would notice.
    found = {"batches": batches, "crc32": crc32}
    text = f"{batches} {crc32}"
    if items:
        found["items"] = dict(sorted(items.items()))
        text += f" {found['items']}"
    return {**found, "check": zlib.crc32(text.encode())}


def read_position(checkpoint: Path) -> dict[str, Any]:
    """The item `data` of a checkpoint, see `position`.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not what was written.
    """
    data = json.loads((checkpoint / "data" / "metadata").read_text())
    try:
        expected = position(int(data["batches"]), data["crc32"], data.get("items") or {})
        whole = data.get("check", expected["check"]) == expected["check"]  # once there was none
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ValueError("the position in the data is not what was saved")
    return expected


def read_item(checkpoint: Path, name: str) -> Any:
    """An item of a training checkpoint that is JSON: "config", "model" or "metrics".

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not what was written.
    """
    content = json.loads((checkpoint / name / _FILES.get(name, "metadata")).read_text())
    expected = None
    with contextlib.suppress(OSError, ValueError):
        expected = read_position(checkpoint).get("items", {}).get(name)  # once there was none
    if expected is not None and checksum_of_json(content) != expected:
        raise ValueError(f"{checkpoint / name} is damaged: its checksum differs")
    return content


def checksum_of_json(content: Any) -> int:
    """CRC-32 of JSON values, however they are laid out."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def checksum_of_arrays(
    tree: Any, to_host: Callable[[str, Any], np.ndarray] = lambda name, leaf: np.asarray(leaf)
) -> int:
    """CRC-32 over the names and contents of arrays.

    Orbax's own files tell of a cut end, but not of a flipped bit.

    Args:
        tree: of arrays of any kind.
        to_host: brings one of them, and its name, to this process.
    """
    crc = 0
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        array = np.ascontiguousarray(to_host(name, leaf))
        crc = zlib.crc32(array, zlib.crc32(name.encode(), crc))
    return crc


def read_metadata(checkpoint: Path) -> Any:
    """Names, shapes and dtypes of the arrays in a checkpoint, in a tree like its state.

    Raises:
        Exception: of many kinds if they cannot be read.
    """
    # The handler, as the checkpointer warns of a file that a folder of items has not.
    metadata = ocp.PyTreeCheckpointHandler().metadata(checkpoint / "state")
    return getattr(metadata, "tree", metadata)


def load_checkpoint(folder: Path) -> tuple[Params, dict[str, Any]]:
    """Parameters and description of one training checkpoint, whatever devices it was written on.

    Raises:
        ValueError: if their checksums differ from what was saved.
        Exception: of many kinds if they cannot be read.
    """
    description = _describes(folder)
    tree = read_metadata(folder)
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
    expected = None
    # It may be a copy of state and model alone, but where it was written nothing may be missing.
    if (folder / "data").is_dir() or folder.parent.name == CHECKPOINTS:
        expected = read_position(folder)["crc32"]
    for name, arrays in state.items():
        if isinstance(expected, Mapping) and checksum_of_arrays(arrays) != expected.get(name):
            raise ValueError(OTHER_CONTENT)
    params = {**state["params"], **state.get("ema", {})}
    # What only helps in training is no part of the weights.
    return {name: params[name] for name in PARTS if name in params}, description


def _describes(checkpoint: Path) -> dict[str, Any]:
    try:
        return parse(read_item(checkpoint, "model"))
    except ValueError as error:
        raise ValueError(f"{checkpoint / 'model'} does not describe weights: {error}") from error
