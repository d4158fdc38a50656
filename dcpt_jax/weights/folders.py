"""Weights folders: written whole, and read from wherever weights are."""

import contextlib
import glob
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dcpt_jax.devices import start_devices
from dcpt_jax.weights.checkpoint_files import (
    CHECKPOINTS,
    WEIGHTS,
    checkpoint_folders,
    checkpoint_steps,
    is_checkpoint,
    load_checkpoint,
)
from dcpt_jax.weights.checksums import checksums_of_arrays, refuse_other_arrays
from dcpt_jax.weights.description import (
    DESCRIPTION,
    Params,
    WeightsDescription,
    WeightsError,
    read_description,
    write_description,
)
from dcpt_jax.weights.failures import reason_of

# The weights that come with the package: `python -m dcpt_jax.convert RUN dcpt_jax/bundled --dtype
# float16` makes them of a run of configs/classify.py, which keeps network and classifier.
BUNDLED = Path(__file__).resolve().parents[1] / "bundled"
# What is in a weights folder: the description, and Orbax's files, of whatever version.
_WRITTEN = {
    *(DESCRIPTION, "_METADATA", "_CHECKPOINT_METADATA", "_sharding", "array_metadatas"),
    *("manifest.ocdbt", "d", "commit_success.txt"),
}


def save_weights(folder: Path | str, params: Params, description: WeightsDescription) -> Path:
    """Writes a weights folder; an older one in its place is replaced only once this is whole.

    Any other folder in its place is kept beside it, under a name that a warning says. Where several
    processes train together, one of them calls this.

    Args:
        folder: where to; parents are made.
        params: {"network": ...[, "classifier": ...]}, arrays of any kind.
        description: see `describe`; checksums are added.

    Returns:
        The folder's absolute path.

    Raises:
        OSError: if it cannot be written; nothing has changed then.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f"{folder.name}.new-{os.getpid()}")
    try:
        arrays = jax.device_get(params)
        with _without_orbax_logs(), _checkpointer() as checkpointer:
            checkpointer.save(fresh, arrays, force=True)
        checksums = checksums_of_arrays(arrays)
        write_description(fresh / DESCRIPTION, description.with_checksums(checksums))
        _put_in_place(fresh, folder)
    except BaseException as error:
        for left in (
            fresh,
            *folder.parent.glob(f"{glob.escape(fresh.name)}.orbax-checkpoint-tmp*"),
        ):
            shutil.rmtree(left, ignore_errors=True)
        if isinstance(error, Exception):  # the storage libraries raise many kinds
            raise OSError(f"{folder} cannot be written: {reason_of(error)}") from error
        raise
    return folder


@contextlib.contextmanager
def _without_orbax_logs() -> Iterator[None]:
    """Leaves out the tracebacks that Orbax's threads log after a failed write, which is raised."""
    logger = logging.getLogger("absl")

    def passes(record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)


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
        read_description(folder / DESCRIPTION)
    except (OSError, ValueError):
        return False
    inside = {entry.name for entry in folder.iterdir()}
    others = [name for name in inside - _WRITTEN if not name.startswith("ocdbt.process_")]
    return "_METADATA" in inside and not others


def bundled_weights() -> Path:
    """The weights folder that comes with this package.

    Raises:
        FileNotFoundError: if this installation has none.
    """
    if not (BUNDLED / DESCRIPTION).is_file():
        raise FileNotFoundError(
            f"there is no bundled network in this installation ({BUNDLED}); name a weights folder "
            "or work directory: --weights PATH on the command line, a path in Python"
        )
    return BUNDLED


def load_weights(path: Path | str | None = None) -> tuple[Params, WeightsDescription]:
    """Reads parameters and description from a weights folder, a work directory or a checkpoint.

    A work directory whose run has not ended yet holds no `weights`; its newest readable checkpoint
    is taken then, the moving average of the network if there is one. If a finished run was
    continued and has not ended again, its older `weights` are taken, with a warning.

    Args:
        path: weights folder, work directory W, or one of its checkpoints, W/checkpoints/5000; None:
            the network that comes with this package, see `bundled_weights`.

    Returns:
        ({"network": ...[, "classifier": ...]} as host arrays, their description). Arrays that are
        stored as float16 or bfloat16 are converted to float32.

    Raises:
        FileNotFoundError: if there are no weights; the message says what was looked for.
        WeightsError: if the weights are damaged: their description, or arrays whose checksums
            differ; or if the path is a file.
        DeviceError: if JAX has no device.
    """
    start_devices()  # or Orbax's complaint would be taken for damage
    if path is None:
        path = bundled_weights()
    path = Path(path).expanduser().absolute()
    if path.is_file():
        raise WeightsError(
            f"{path} is a file; make a weights folder of it: python -m dcpt_jax.convert {path} OUT"
        )
    if is_checkpoint(path):
        return load_checkpoint(path)
    for folder in (path, path / WEIGHTS):
        if (folder / DESCRIPTION).is_file():
            return _load_folder(folder, newest=max(checkpoint_steps(path), default=0))
    for folder in checkpoint_folders(path):
        try:
            return load_checkpoint(folder)
        except WeightsError as error:
            logging.warning("%s", error)
    raise FileNotFoundError(
        f"no weights in {path}: neither {DESCRIPTION} (a weights folder) nor {WEIGHTS}/ nor a "
        f"readable checkpoint in {CHECKPOINTS}/ (a work directory)"
    )


def _load_folder(folder: Path, newest: int) -> tuple[Params, WeightsDescription]:
    """Reads a weights folder, beside which a checkpoint of the step `newest` may lie."""
    description = read_description(folder / DESCRIPTION)
    if description.steps is not None and newest > description.steps:
        logging.warning(
            "%s: weights of step %d; the run has gone on to step %d since and not ended",
            folder, description.steps, newest,
        )  # fmt: skip
    try:
        with _checkpointer() as checkpointer:
            params = checkpointer.restore(folder)
    except Exception as error:  # the storage libraries raise many kinds
        raise WeightsError(f"{folder} cannot be read: {reason_of(error)}") from error
    refuse_other_arrays(params, description, folder)
    return jax.tree.map(_as_parameter, params), description


def _as_parameter(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    # Half precision only saves space in files: parameters are float32.
    return array.astype(np.float32) if array.dtype in (np.float16, jnp.bfloat16) else array


def load(path: Path | str | None = None) -> tuple[nn.Module, Params]:
    """Restoration network and its parameters from a weights folder or work directory.

    Args:
        path: see `load_weights`; None: the network that comes with this package.

    Returns:
        (model, params): `model.apply({"params": params}, degraded)`.

    Raises:
        FileNotFoundError: see `load_weights`.
        WeightsError: see `load_weights`.
    """
    params, description = load_weights(path)
    return description.network(), params["network"]


def load_classifier(path: Path | str | None = None) -> tuple[nn.Module, Params, tuple[str, ...]]:
    """Degradation classifier, its parameters, and what each of its logits stands for.

    `load_weights` returns a description whose `classifier.labels` say how to read the logits.

    Args:
        path: see `load_weights`.

    Returns:
        (classifier, params, class names in index order; of a multi-hot classifier the names of its
        components).

    Raises:
        FileNotFoundError: see `load_weights`.
        WeightsError: if they are damaged or hold no classifier.
    """
    params, description = load_weights(path)
    classifier = description.required_classifier(path)
    return classifier.module(), params["classifier"], classifier.labels.names


def saved_steps(workdir: Path | str) -> int | None:
    """After how many steps a work directory's `weights` were written; None if there are none."""
    try:
        return read_description(Path(workdir) / WEIGHTS / DESCRIPTION).steps
    except (OSError, ValueError):
        return None
