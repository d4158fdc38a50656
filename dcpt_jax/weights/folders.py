"""Weights folders: written atomically, and read from any place that holds weights."""

import contextlib
import glob
import logging
import os
import re
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
    refuse_pattern,
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

# The bundled weights, made with `python -m dcpt_jax.convert RUN dcpt_jax/bundled --dtype float16`
# from a run of configs/classify.py, which keeps network and classifier.
BUNDLED = Path(__file__).resolve().parents[1] / "bundled"
FILE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")  # of weights of other programs
# Content of a weights folder: the description, and files of any version of Orbax.
_WRITTEN = {
    *(DESCRIPTION, "_METADATA", "_CHECKPOINT_METADATA", "_sharding", "array_metadatas"),
    *("manifest.ocdbt", "d", "commit_success.txt"),
}


def save_weights(folder: Path | str, params: Params, description: WeightsDescription) -> Path:
    """Writes a weights folder; an older one is replaced only once the new one is complete.

    Any other folder in its place is kept beside it under another name, with a warning. A symbolic
    link in its place is kept, and the folder it leads to is replaced. If several processes train
    together, only one of them calls this.

    Args:
        folder: target; missing parent folders are created.
        params: {"network": ...[, "classifier": ...]}, arrays of any kind.
        description: see `describe`; checksums are added.

    Returns:
        The folder's absolute path.

    Raises:
        OSError: if it cannot be written; nothing is changed then.
        ValueError: if `params` are not by part.
    """
    if "network" not in params:
        raise ValueError(
            'expected params {"network": ...[, "classifier": ...]}, '
            f"not {', '.join(sorted(params)[:3])}, ..."
        )
    folder = Path(folder).absolute()
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f"{target.name}.new-{os.getpid()}")
    try:
        refuse_pattern(target)
        _remove_remains(target)
        arrays = jax.device_get(params)
        with _without_orbax_logs(), _checkpointer() as checkpointer:
            checkpointer.save(fresh, arrays, force=True)
        checksums = checksums_of_arrays(arrays)
        write_description(fresh / DESCRIPTION, description.with_checksums(checksums))
        _put_in_place(fresh, target)
    except BaseException as error:
        for partial in (
            fresh,
            *target.parent.glob(f"{glob.escape(fresh.name)}.orbax-checkpoint-tmp*"),
        ):
            shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, Exception):  # the storage libraries raise various types
            raise OSError(f"{folder} cannot be written: {reason_of(error)}") from error
        raise
    return folder


def _remove_remains(folder: Path) -> None:
    """Removes new and old weights folders that killed processes left beside this one."""
    for entry in folder.parent.glob(f"{glob.escape(folder.name)}.*"):
        # Seven digits at most: `weights.old-20261128` is somebody's copy.
        match = re.fullmatch(
            r"\.(?:new-([0-9]{1,7})(?:\..*)?|old-([0-9]{1,7}))", entry.name[len(folder.name) :]
        )
        if match is None or (match[2] and not is_replaceable(entry)):
            continue
        try:
            if (process := int(match[1] or match[2])) != os.getpid():  # common in containers
                os.kill(process, 0)  # sends nothing
                continue
        except ProcessLookupError:
            pass
        except OSError:  # another user's process
            continue
        shutil.rmtree(entry, ignore_errors=True)


@contextlib.contextmanager
def _without_orbax_logs() -> Iterator[None]:
    """Suppresses tracebacks logged by Orbax's threads after a failed write, which raises anyway."""
    logger = logging.getLogger("absl")

    def passes(record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)


def _checkpointer() -> ocp.StandardCheckpointer:
    """A checkpointer that does not wait for other processes of a distributed run."""
    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    index = jax.process_index()
    single_process = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process_{index}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=single_process)


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Renames a new folder to its final name; removes an older weights folder of that name."""
    if not folder.exists():
        fresh.rename(folder)
        return
    replaceable = is_replaceable(folder)
    old = folder.with_name(f"{folder.name}.old-{os.getpid()}")
    folder.rename(old)
    try:
        fresh.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    if replaceable:
        shutil.rmtree(old, ignore_errors=True)  # a file in use may remain on a network disk
    else:
        logging.warning(
            "%s is not a weights folder or contains other files; it is kept as %s", folder, old
        )


def is_replaceable(folder: Path | str) -> bool:
    """Whether a folder holds only what `save_weights` wrote, or nothing."""
    folder = Path(folder)
    try:
        names = set(os.listdir(folder))
        if names:
            read_description(folder / DESCRIPTION)
    except (OSError, ValueError):
        return False
    others = [name for name in names - _WRITTEN if not name.startswith("ocdbt.process_")]
    return not names or ("_METADATA" in names and not others)


def bundled_weights() -> Path:
    """The folder of the bundled weights.

    Raises:
        FileNotFoundError: if this installation does not have them.
    """
    if not (BUNDLED / DESCRIPTION).is_file():
        raise FileNotFoundError(
            f"this installation has no bundled network ({BUNDLED}); give a weights folder or work "
            "directory: --weights PATH on the command line, a path in Python"
        )
    return BUNDLED


def load_weights(path: Path | str | None = None) -> tuple[Params, WeightsDescription]:
    """Reads parameters and description from a weights folder, a work directory or a checkpoint.

    For a work directory without `weights`, whose run has not ended, the newest readable checkpoint
    is used, with the moving average of the network if any. If a finished run was continued and has
    not ended again, its older `weights` are used, with a warning.

    Args:
        path: weights folder, work directory W, or one of its checkpoints, W/checkpoints/5000; None:
            the bundled weights.

    Returns:
        ({"network": ...[, "classifier": ...]} as host arrays, their description). Arrays stored as
        float16 or bfloat16 are converted to float32.

    Raises:
        FileNotFoundError: if there are no weights; the message lists where they were searched.
        WeightsError: if the weights are damaged (invalid description, or arrays that do not match
            the checksums), or if the path is a file.
        DeviceError: if JAX has no device.
    """
    start_devices()  # first, as Orbax's error without a device would look like damage
    if path is None:
        path = bundled_weights()
    path = Path(path).expanduser().absolute()
    if path.is_file():
        raise WeightsError(
            f"{path} is a file; convert it to a weights folder: "
            f"python -m dcpt_jax.convert {path} OUT"
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
        f"readable checkpoint in {CHECKPOINTS}/ (a work directory){weights_files_in(path)}"
    )


def weights_files_in(folder: Path) -> str:
    """Where weights are near a folder without them, as the end of a message; "" if unknown.

    They are in a parent folder, or in files of other programs.
    """
    for parent in folder.absolute().parents[:2]:
        if (parent / DESCRIPTION).is_file():
            return f"; {parent} is a weights folder"
    try:
        names = sorted(e.name for e in folder.iterdir() if e.name.lower().endswith(FILE_SUFFIXES))
    except OSError:
        return ""
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return f"; files that may be weights there: {', '.join(names[:5])}{more}"
    if any(folder.glob("data.pkl")) or any(folder.glob("*/data.pkl")):
        return "; it is an unpacked file of PyTorch: give the file itself"
    return ""


def load_weights_of_key(key: str, path: Path | str) -> tuple[Params, WeightsDescription]:
    """`load_weights` for the path in a key of the config, which the errors name."""
    try:
        return load_weights(path)
    except (FileNotFoundError, WeightsError) as error:
        raise type(error)(f"config.{key}: {error}") from error


def _load_folder(folder: Path, newest: int) -> tuple[Params, WeightsDescription]:
    """Reads a weights folder; `newest` is the step of the newest checkpoint beside it."""
    description = read_description(folder / DESCRIPTION)
    if description.steps is not None and newest > description.steps:
        logging.warning(
            "%s has the weights of step %d; the run continued to step %d and has not ended",
            folder, description.steps, newest,
        )  # fmt: skip
    try:
        with _checkpointer() as checkpointer:
            params = checkpointer.restore(folder)
    except Exception as error:  # the storage libraries raise various types
        raise WeightsError(f"{folder} cannot be read: {reason_of(error)}") from error
    refuse_other_arrays(params, description, folder)
    return jax.tree.map(_as_parameter, params), description


def _as_parameter(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    # Half precision only reduces the file size: parameters are float32.
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
    """Degradation classifier, its parameters, and the meaning of its logits.

    The `classifier.labels` of the description returned by `load_weights` interpret the logits.

    Args:
        path: see `load_weights`.

    Returns:
        (classifier, params, class names in index order; for a multi-hot classifier names of its
        components).

    Raises:
        FileNotFoundError: see `load_weights`.
        WeightsError: if the weights are damaged or have no classifier.
    """
    params, description = load_weights(path)
    classifier = description.required_classifier(path)
    return classifier.module(), params["classifier"], classifier.labels.names


def saved_steps(workdir: Path | str) -> int | None:
    """The step at which a work directory's `weights` were written; None if there are none."""
    try:
        return read_description(Path(workdir) / WEIGHTS / DESCRIPTION).steps
    except (OSError, ValueError):
        return None
