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
