"""Tells architecture and hyper-parameters of a state dict from its names and shapes."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

StateDict = dict[str, np.ndarray]


def state_dict_of(content: Any, key: str | None = None) -> tuple[StateDict, str]:
    """Finds the state dict in what a checkpoint file holds.

    Args:
        content: what `read_pth` returned.
        key: entry to take; None takes `params_ema` if there is one, else `params`, else the whole.

    Returns:
        (name -> array, the entry that was taken, "" for the whole). The prefix `module.`, which
        PyTorch's parallel wrappers put before every name, is stripped.

    Raises:
        ValueError: if there is no such entry, or something in it is no array.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a dict of tensors, found {type(content).__name__}")
    if key is None:
        key = next((k for k in ("params_ema", "params") if isinstance(content.get(k), Mapping)), "")
    if key and not isinstance(content.get(key), Mapping):
        known = ", ".join(str(k) for k, v in content.items() if isinstance(v, Mapping))
        raise ValueError(f"there is no entry {key!r}; entries: {known or 'none'}")
    state = content[key] if key else content
    wrong = [str(name) for name, value in state.items() if not isinstance(value, np.ndarray)]
    if wrong or not state:
        raise ValueError(f"no state dict: these entries are no tensors: {', '.join(wrong[:5])}")
    return {str(name).removeprefix("module."): value for name, value in state.items()}, key


def recognise(state: Mapping[str, np.ndarray]) -> tuple[str, dict[str, Any]]:
    """Architecture and keyword arguments.

    Args:
        state: reference name -> array.

    Returns:
        ("nafnet", arguments of `create_model`) or ("classifier", arguments of `create_classifier`).

    Raises:
        ValueError: if the names belong to no known architecture.
    """
    if "intro.weight" in state and "ending.weight" in state:
        return "nafnet", _nafnet(state)
    if "mixing_weights" in state and "fc.weight" in state:
        return "classifier", _classifier(state)
    shown = ", ".join(list(state)[:5])
    raise ValueError(
        f"no known architecture has these names ({shown}, ...); known: NAFNet, DCPT's classifier"
    )


def _nafnet(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    levels = _count(state, r"downs\.(\d+)\.weight")
    return {
        "width": state["intro.weight"].shape[0],
        "encoder_blocks": tuple(
            _count(state, rf"encoders\.{i}\.(\d+)\.norm1\.weight") for i in range(levels)
        ),
        "middle_blocks": _count(state, r"middle_blks\.(\d+)\.norm1\.weight"),
        "decoder_blocks": tuple(
            _count(state, rf"decoder{i}\.(\d+)\.norm1\.weight") for i in range(levels)
        ),
    }


def _classifier(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    levels = state["mixing_weights"].size
    first = [state.get(f"downsample_layers.{i}.0.weight") for i in range(levels)]
    if any(weight is None for weight in first):
        raise ValueError("a classifier without downsample_layers for each of its features")
    return {
        "feature_dims": tuple(int(weight.shape[1]) for weight in first),
        "num_classes": int(state["fc.weight"].shape[0]),
        "num_blocks": _count(state, r"last_stage\.(\d+)\.conv1\.weight"),
    }


def _count(state: Mapping[str, np.ndarray], pattern: str) -> int:
    """How many different numbers stand in the group of a pattern that matches whole names."""
    return len({match[1] for name in state if (match := re.fullmatch(pattern, name))})
