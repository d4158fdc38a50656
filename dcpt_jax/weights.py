"""Weights folders: parameters that any JAX program can read, and what they belong to.

`W/weights` is an Orbax folder of host arrays, `{"network": ..., "classifier": ...}`, with
`model.json` beside them. Orbax alone restores it, on any number of devices:
`orbax.checkpoint.StandardCheckpointer().restore(path)`.
"""

import glob
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp

from dcpt_jax import models

DESCRIPTION = "model.json"
WEIGHTS = "weights"
CHECKPOINTS = "checkpoints"
PARTS = ("network", "classifier")
_FILES = {"metrics": "metrics"}  # Orbax's names of the files inside items; others are "metadata"
FLAT, MULTI_HOT = "flat", "multi_hot"  # kinds of labels, see `outputs_of`
# What is in a weights folder: the description, and Orbax's files, of whatever version.
_WRITTEN = {
    *(DESCRIPTION, "_METADATA", "_CHECKPOINT_METADATA", "_sharding", "array_metadatas"),
    *("manifest.ocdbt", "d", "commit_success.txt"),
}

Params = dict[str, Any]


def describe(
    network: nn.Module,
    classifier: nn.Module | None,
    *,
    task_set: str,
    classes: tuple[str, ...],
    components: tuple[str, ...] = (),
    **extra: Any,
) -> dict[str, Any]:
    """What `model.json` says: enough to rebuild the modules, and where the weights came from.

    Args:
        network: restoration network.
        classifier: degradation classifier, or None.
        task_set: name of the task set, or the classes joined by commas.
        classes: class names in index order.
        components: what the logits of a multi-hot classifier stand for; () for a flat one, whose
            logits are those of the classes.
        **extra: further JSON values, e.g. `metrics`, `source`, `crop_size`.
    """
    return {
        "format": 1,
        "architecture": network.architecture,
        "arguments": network.arguments(),
        "classifier": classifier.arguments() if classifier is not None else None,
        "task_set": task_set,
        "classes": list(classes),
        **({} if classifier is None else _label(components)),
        **extra,
    }


def _label(components: tuple[str, ...]) -> dict[str, Any]:
    return {"label": MULTI_HOT, "components": list(components)} if components else {"label": FLAT}


def outputs_of(description: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """What the logits of a classifier say.

    Args:
        description: content of `model.json`, or of the part of it that a run keeps; where it has no
            label, it was written before there was another than `FLAT`.

    Returns:
        (`FLAT`, class names): the softmax over all logits tells the class, or (`MULTI_HOT`, names
        of components): the sigmoid of each logit tells whether the component is there.
    """
    if description.get("label", FLAT) == MULTI_HOT:
        return MULTI_HOT, tuple(description["components"])
    return FLAT, tuple(description["classes"])


def save_weights(folder: Path | str, params: Params, description: Mapping[str, Any]) -> Path:
    """Writes a weights folder; an older one in its place is replaced only once this is whole.

    Any other folder in its place is kept beside it, under a name that a warning says. Where several
    processes train together, one of them calls this.

    Args:
        folder: where to; parents are made.
        params: {"network": ...[, "classifier": ...]}, arrays of any kind.
        description: see `describe`.

    Returns:
        The folder's absolute path.

    Raises:
        OSError: if it cannot be written; nothing has changed then.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f"{folder.name}.new-{os.getpid()}")
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(fresh, jax.device_get(params), force=True)
        text = json.dumps(description, indent=2) + "\n"
        (fresh / DESCRIPTION).write_text(text, encoding="utf-8")
        _put_in_place(fresh, folder)
    except BaseException as error:
        for left in (
            fresh,
            *folder.parent.glob(f"{glob.escape(fresh.name)}.orbax-checkpoint-tmp*"),
        ):
            shutil.rmtree(left, ignore_errors=True)
        if isinstance(error, Exception):  # the storage libraries raise many kinds
            raise OSError(f"{folder} cannot be written: {_first(error)}") from error
        raise
    return folder


def _checkpointer() -> ocp.StandardCheckpointer:
    """One that waits for no other process, where several train together."""
    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process_{this}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Renames a new folder to its name; an older weights folder of that name is removed."""
    if not folder.exists():
        fresh.rename(folder)
        return
    replaceable = is_weights_folder(folder)
    old = folder.with_name(f"{folder.name}.old-{os.getpid()}")
    folder.rename(old)
    try:
        fresh.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    if replaceable:
        shutil.rmtree(old)
    else:
        logging.warning("%s was no weights folder, or held more; it is kept as %s", folder, old)


def is_weights_folder(folder: Path | str) -> bool:
    """Whether a folder is one that `save_weights` wrote, and holds nothing else."""
    folder = Path(folder)
    try:
        description = _read_description(folder / DESCRIPTION)
    except (OSError, ValueError):
        return False
    inside = {entry.name for entry in folder.iterdir()}
    others = [name for name in inside - _WRITTEN if not name.startswith("ocdbt.process_")]
    return "architecture" in description and "_METADATA" in inside and not others


def load_weights(path: Path | str) -> tuple[Params, dict[str, Any]]:
    """Reads parameters and description from a weights folder, a work directory or a checkpoint.

    A work directory whose run has not ended yet holds no `weights`; its newest readable checkpoint
    is taken then, the moving average of the network if there is one. If a finished run was
    continued and has not ended again, its older `weights` are taken, with a warning.

    Args:
        path: weights folder, work directory W, or one of its checkpoints, W/checkpoints/5000.

    Returns:
        ({"network": ...[, "classifier": ...]} as host arrays, the content of `model.json`).

    Raises:
        FileNotFoundError: if there are no weights; the message says what was looked for.
        ValueError: if `model.json` is damaged or of a format this version does not know, or the
            checkpoint that is named cannot be read.
    """
    path = Path(path).expanduser().absolute()
    if is_checkpoint(path):
        try:
            return _load_checkpoint(path)
        except Exception as error:  # the storage libraries raise many kinds
            raise ValueError(f"checkpoint {path} cannot be read: {_first(error)}") from error
    for folder in (path, path / WEIGHTS):
        if (folder / DESCRIPTION).is_file():
            description = _read_description(folder / DESCRIPTION)
            newest = max(checkpoint_steps(path), default=0)
            if newest > (description.get("steps") or newest):
                logging.warning(
                    "%s: weights of step %d; the run has gone on to step %d since and not ended",
                    path, description["steps"], newest,
                )  # fmt: skip
            with _checkpointer() as checkpointer:
                params = checkpointer.restore(folder)
            return jax.tree.map(np.asarray, params), description
    for step in checkpoint_steps(path):
        try:
            return _load_checkpoint(path / CHECKPOINTS / str(step))
        except Exception as error:
            logging.warning("%s: checkpoint %d cannot be read (%s)", path, step, _first(error))
    raise FileNotFoundError(
        f"no weights in {path}: neither {DESCRIPTION} (a weights folder) nor {WEIGHTS}/ nor a "
        f"readable checkpoint in {CHECKPOINTS}/ (a work directory)"
    )


def load(path: Path | str) -> tuple[nn.Module, Params]:
    """Restoration network and its parameters from a weights folder or work directory.

    Args:
        path: see `load_weights`.

    Returns:
        (model, params): `model.apply({"params": params}, degraded)`.

    Raises:
        FileNotFoundError: see `load_weights`.
        ValueError: see `load_weights`.
    """
    params, description = load_weights(path)
    return network_of(description), params["network"]


def load_classifier(path: Path | str) -> tuple[nn.Module, Params, tuple[str, ...]]:
    """Degradation classifier, its parameters, and what each of its logits stands for.

    A softmax over the logits is meant where "label" in `model.json` is "flat" or missing, the
    sigmoid of each where it is "multi_hot".

    Args:
        path: see `load_weights`.

    Returns:
        (classifier, params, class names in index order; of a multi-hot classifier the names of its
        components).

    Raises:
        FileNotFoundError: see `load_weights`.
        ValueError: if these weights hold no classifier.
    """
    params, description = load_weights(path)
    if description["classifier"] is None or "classifier" not in params:
        raise ValueError(
            f"the weights in {path} hold no classifier (they were fine-tuned for restoration); "
            "take those of the pre-training"
        )
    return classifier_of(description), params["classifier"], outputs_of(description)[1]


def network_of(description: Mapping[str, Any], **changes: Any) -> nn.Module:
    """The network that a description names, with some keyword arguments changed."""
    arguments = {**_tuples(description["arguments"]), **changes}
    return models.create_model(description["architecture"], **arguments)


def classifier_of(description: Mapping[str, Any], **changes: Any) -> nn.Module:
    """The classifier that a description names, with some keyword arguments changed."""
    return models.create_classifier(**{**_tuples(description["classifier"]), **changes})


def local_converter_size(network: nn.Module, crop: int) -> int:
    """The `tlc_size` for a network that was trained on crops of this many pixels.

    Networks take only sizes that suit all their levels, so it is rounded up to one.
    """
    return -(-int(crop) // network.size_multiple) * network.size_multiple


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
            return _read_description(folder / "model")
        except (OSError, ValueError):
            continue
    return None


def saved_steps(workdir: Path | str) -> int | None:
    """After how many steps a work directory's `weights` were written; None if there are none."""
    try:
        return _read_description(Path(workdir) / WEIGHTS / DESCRIPTION).get("steps")
    except (OSError, ValueError):
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


def _load_checkpoint(folder: Path) -> tuple[Params, dict[str, Any]]:
    """Parameters and description of one training checkpoint, whatever devices it was written on."""
    description = _read_description(folder / "model")
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


def _read_description(file: Path) -> dict[str, Any]:
    """Content of `model.json`, or of the item `model` of a checkpoint, which is a folder."""
    try:
        if file.is_dir():
            description = read_item(file.parent, file.name)
        else:
            description = json.loads(file.read_text(encoding="utf-8"))
        if description["format"] != 1:
            raise ValueError(f"format {description['format']} is newer than this version reads")
        return description
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not describe weights: {error}") from error


def _tuples(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}


def _first(error: Exception) -> str:
    if code := re.search(r"os_error_code='(\d+)'", str(error)):  # in the storage's long messages
        return os.strerror(int(code[1]))
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
