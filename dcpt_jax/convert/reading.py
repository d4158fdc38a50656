"""Loads networks and classifiers from files of the PyTorch reference."""

import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from dcpt_jax import models, weights
from dcpt_jax.convert import files
from dcpt_jax.convert.messages import listed
from dcpt_jax.convert.naming import from_torch, maskdcpt_layout
from dcpt_jax.convert.recognise import ENTRIES, recognise, state_dict_of, state_dicts_in


@dataclasses.dataclass(frozen=True)
class ReadFile:
    """Content of a file.

    Attributes:
        module: network or classifier.
        params: its float32 parameters, the nested dict of "params".
        source: its origin, for `model.json`: "file", "entry" (the entry read, "" = the whole file)
            and, if the names are MaskDCPT's, "layout", of `LAYOUTS`.
        remarks: messages about assumptions, conversions and omissions.
    """

    module: nn.Module
    params: dict[str, Any]
    source: dict[str, Any]
    remarks: tuple[str, ...]


def read_file(
    path: Path,
    *,
    expected: tuple[str, ...] = ("network",),
    entry: str | None = None,
    prefix: str | None = None,
    resize: bool = False,
    known: Mapping[str, Any] | None = None,
) -> ReadFile:
    """Reads and recognises a `.pth` or `.safetensors` file.

    Args:
        path: the file.
        expected: allowed content, "network" and "classifier".
        entry: see `state_dict_of`.
        prefix: see `state_dict_of`.
        resize: whether the classifier is for features that all have the same size.
        known: keyword arguments of `recognise`, which cannot be inferred from names and shapes.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is refused, or does not fit its architecture.
    """
    try:
        content = files.read_checkpoint(path)
        requested = entry
        state, entry = state_dict_of(content, entry, prefix)
        recognised = recognise(state, **(known or {}))
        kind = "classifier" if recognised.architecture == "classifier" else "network"
        if kind not in expected:
            raise ValueError(
                f"it holds a {recognised.architecture}, but a {expected[0]} was expected here"
            )
        if kind == "classifier":
            module = models.create_classifier(resize_features=resize, **recognised.arguments)
        else:
            module = models.create_model(recognised.architecture, **recognised.arguments)
        state, remarks = _as_float32(recognised.state)
        params = from_torch(state, module)
    except OSError:
        raise
    except Exception as error:  # nonsensical names and shapes can fail anywhere
        expected_error = isinstance(error, ValueError)
        message = f"not a valid network ({type(error).__name__}: {error})"
        message = str(error) if expected_error else message
        if re.search(r"-\d+-of-\d+\.", path.name):
            message += "; the name says that this is one of several files: join their tensors first"
        raise ValueError(message if str(path) in message else f"{path}: {message}") from error
    others = (
        [name for name in state_dicts_in(content) if name != entry] if requested is None else []
    )
    if others:
        choice = f"taken from its entry {entry}; --params takes another one: {listed(others, 5)}"
        remarks = [choice, *remarks]
    elif entry and entry not in ENTRIES:
        remarks = [f"taken from its entry {entry}", *remarks]
    source = {"file": path.name, "entry": entry}
    if layout := maskdcpt_layout(state):
        source["layout"] = layout
    return ReadFile(module, params, source, (*recognised.remarks, *remarks))


def read_weights(path: Path | str) -> tuple[weights.Params, weights.WeightsDescription, str]:
    """Reads a network from a file, like `weights.load_weights` from a folder.

    Args:
        path: `.pth` or `.safetensors` file.

    Returns:
        ({"network": ...}, description, message about what was recognised and assumed).

    Raises:
        OSError: see `read_file`.
        ValueError: see `read_file`.
    """
    path = Path(path)
    read = read_file(path)
    description = weights.describe(read.module, source=read.source)
    summary_text = "; ".join(
        [f"recognised in {path}: {summary(read.module, read.params)}", *read.remarks]
    )
    return {"network": read.params}, description, summary_text


def load(path: Path | str | None = None) -> tuple[nn.Module, weights.Params]:
    """Loads a restoration network and its parameters, of this package or the PyTorch reference.

    Args:
        path: weights folder, work directory or one of its checkpoints (see `load_weights`), or a
            `.pth` or `.safetensors` file. Assumptions about a file are logged as a warning;
            `python -m dcpt_jax.convert` has options for them. None: the bundled network.

    Returns:
        (model, params): `model.apply({"params": params}, degraded)`.

    Raises:
        FileNotFoundError: if there are no weights.
        ValueError: if they are damaged, refused or not recognised.
    """
    path = None if path is None else Path(path).expanduser()
    if path is None:
        logging.info("network: bundled with dcpt_jax (a path names another)")
    if path is None or path.is_dir():
        return weights.load(path)
    if not path.exists():
        raise FileNotFoundError(f"no weights in {path}: there is no such file or folder")
    params, description, summary_text = read_weights(path)
    logging.warning("%s", summary_text)
    return description.network(), params["network"]


def _as_float32(state: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays in float32, and a remark if they had another dtype."""
    stored = {str(value.dtype) for value in state.values()}
    numbers = {"float16", "bfloat16", "float32", "float64"}
    if stored - numbers:
        wrong = [f"{name} ({v.dtype})" for name, v in state.items() if str(v.dtype) not in numbers]
        raise ValueError(f"these are not floating-point numbers: {listed(wrong, 5)}")
    other_dtypes = sorted(stored - {"float32"})
    remarks = (
        [f"stored as {' and '.join(other_dtypes)}; converted to float32"] if other_dtypes else []
    )
    with np.errstate(over="ignore"):
        converted = {name: np.asarray(value, np.float32) for name, value in state.items()}
    infinite = [name for name, value in converted.items() if not np.isfinite(value).all()]
    wrong = [name for name in infinite if not np.isfinite(state[name].astype(np.float64)).all()]
    if wrong:
        raise ValueError(
            f"NaN or infinity in {len(wrong)} of {len(state)} tensors, as after diverged training: "
            f"{listed(wrong, 5)}; use an earlier checkpoint"
        )
    if infinite:
        raise ValueError(f"numbers too large for float32: {listed(infinite, 5)}")
    # Biases and factors may be zeros, as they are at the start of a training.
    matrices = [name for name, value in converted.items() if sum(n > 1 for n in value.shape) > 1]
    zeros = [name for name in matrices if not converted[name].any()]
    if zeros and len(zeros) == len(matrices):
        raise ValueError("all its weights are zeros, as after an incomplete download: get it again")
    if zeros:
        remarks.append(f"only zeros, as after an incomplete download, in {listed(zeros, 3)}")
    return converted, remarks


def summary(module: nn.Module, params: dict[str, Any]) -> str:
    """One line: architecture, size and arguments."""
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    arguments = ", ".join(f"{key}={value}" for key, value in module.arguments().items())
    return f"{module.architecture}, {size:,} parameters: {arguments}"
