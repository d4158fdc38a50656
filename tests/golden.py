"""Filling networks with weights, reading the reference recordings, running networks."""

from __future__ import annotations

import functools
import json
import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dcpt_jax.convert import from_torch
from dcpt_jax.models import create_model

# A network of each kind that compiles in seconds.
TINY: dict[str, dict[str, Any]] = {
    "nafnet": dict(width=4, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1)),
    "restormer": dict(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, heads=(1, 2, 2, 2)),
    "promptir": dict(
        dim=4,
        num_blocks=(1, 1, 1, 1),
        num_refinement_blocks=1,
        heads=(1, 2, 2, 2),
        prompt_dims=(4, 6, 8),
        prompt_sizes=(8, 4, 2),
        prompt_len=3,
    ),
    "swinir": dict(embed_dim=8, depths=(1, 1, 1, 1, 1, 2), num_heads=(2,) * 6, window_size=4),
}


def rule_weights(
    names_and_shapes: Iterable[tuple[str, Iterable[int]]], salt: str = ""
) -> dict[str, np.ndarray]:
    """Weights by the rule of the recordings: they follow from names and shapes alone.

    Args:
        names_and_shapes: (name, shape) in the reference's names and layouts: "params" of a
            recording's JSON file.
        salt: text in front of each name, "weight_salt" of the JSON file.

    Returns:
        Name -> float32 array.
    """
    return {name: _rule_weight(name, tuple(shape), salt) for name, shape in names_and_shapes}


def _rule_weight(name: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    seed = zlib.crc32((salt + name).encode())
    random = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    last = name.split(".")[-1]
    if last == "prompt_param":
        return np.float32(0.5) * random
    if last in ("beta", "gamma"):
        return np.float32(0.2) * random
    if last in ("temperature", "mixing_weights"):
        return 1 + np.float32(0.1) * random
    if random.ndim >= 2:
        return random * np.float32(1 / math.sqrt(math.prod(shape[1:])))
    if last == "weight":
        return 1 + np.float32(0.1) * random
    if last == "bias":
        return np.float32(0.05) * random
    raise ValueError(f"the rule has no case for {name} {shape}")


def read_case(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads config.json and io.npz of one recorded case."""
    config = json.loads((folder / "config.json").read_text())
    with np.load(folder / "io.npz") as arrays:
        return config, dict(arrays)


def run(model: Any, variables: Any, *inputs: Any, method: str = "__call__") -> Any:
    """Applies a Flax module jitted: compiling once is faster than compiling each operation."""
    return jax.jit(functools.partial(model.apply, method=method))(variables, *inputs)


def random_params(shapes: Any, scale: float = 0.3) -> Any:
    """Normal numbers in place of each jax.ShapeDtypeStruct of a tree of parameters.

    For tests in which every part must take part: at initialisation NAFNet's blocks do nothing.
    """
    rng = np.random.default_rng(0)

    def draw(leaf):
        return (scale * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(draw, shapes)


def network_arguments(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and keyword arguments of ours for a recorded network's own (`arch` and `kwargs`)."""
    kwargs = dict(config["kwargs"])
    for theirs, ours in _ARGUMENTS.items():
        if theirs in kwargs:
            kwargs[ours] = kwargs.pop(theirs)
    if "norm" in kwargs:
        kwargs["norm"] = {"BiasFree": "bias_free", "WithBias": "with_bias"}[kwargs["norm"]]
    if config["arch"] == "Restormer_origin":
        kwargs.setdefault("norm", "with_bias")
    name = _ARCHITECTURES[config["arch"]]
    kwargs.pop("upscale", None)  # always 1
    if name != "swinir":
        kwargs.pop("window_size", None)  # what the reference's test program pads to
    return name, kwargs


_ARCHITECTURES = {
    "NAFNetBaseline": "nafnet",
    "NAFNet": "nafnet",
    "Restormer": "restormer",
    "Restormer_origin": "restormer",
    "PromptIR": "promptir",
    "PromptIRFree": "promptir",
    "SwinIR": "swinir",
}
_ARGUMENTS = {
    "enc_blk_nums": "encoder_blocks",
    "middle_blk_num": "middle_blocks",
    "dec_blk_nums": "decoder_blocks",
    "ffn_expansion_factor": "ffn_expansion",
    "LayerNorm_type": "norm",
}


def recorded_network(
    config: dict[str, Any], dtype: Any = np.float32, salt: str = "", **changes: Any
) -> tuple[Any, Any]:
    """A recorded network and its parameters by the rule: (model, {"params": ...})."""
    name, arguments = network_arguments(config)
    model = create_model(name, dtype=dtype, **{**arguments, **changes})
    weights = rule_weights(config["params"], salt)
    return model, {"params": from_torch(_cast(weights, dtype), model)}


def _cast(weights: dict[str, np.ndarray], dtype: Any) -> dict[str, np.ndarray]:
    stored = np.float64 if dtype == np.float64 else np.float32
    return {name: np.asarray(value, stored) for name, value in weights.items()}
