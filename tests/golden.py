"""Filling networks with weights, reading the reference recordings, running networks."""

from __future__ import annotations

import functools
import gzip
import json
import math
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dcpt_jax.convert.naming import from_torch, to_torch
from dcpt_jax.models import create_model, parameter_shapes
from dcpt_jax.models.formulation import traced_for

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


# The full recordings, where they are at hand, and the smallest ones, which every clone has.
FULL = Path(os.environ.get("DCPT_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
RECORDINGS = Path(__file__).parent / "recordings"


def reference_shapes(model: Any, **options: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the reference's state dict of a network; options of `to_torch`."""
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.uint8), parameter_shapes(model))
    return {name: array.shape for name, array in to_torch(zeros, model, **options).items()}


def recording(path: str) -> Path:
    """A file or folder of the recordings; skips the test if it is missing."""
    folders = (FULL,) if FULL.is_dir() else (RECORDINGS,)
    for file in (folder / path for folder in folders):
        if file.exists() or _packed(file).exists():
            return file
    pytest.skip(f"the full recordings, with {path}, are not beside this checkout")


def _packed(file: Path) -> Path:
    return file.with_name(file.name + ".gz")


def read_json(path: str) -> Any:
    """Reads a JSON file of the recordings."""
    file = recording(path)
    packed = _packed(file)
    return json.loads(gzip.decompress(packed.read_bytes()) if packed.exists() else file.read_text())


class Arrays(dict[str, np.ndarray]):
    """Recorded arrays; skips the test if one of them is only in the full recordings."""

    def __missing__(self, name: str) -> np.ndarray:
        pytest.skip(f"only the full recordings have {name}")


def read_arrays(path: str) -> Arrays:
    """Reads an .npz file of the recordings."""
    with np.load(recording(path)) as arrays:
        return Arrays(arrays)


def read_case(path: str) -> tuple[dict[str, Any], Arrays]:
    """Reads config.json and io.npz of one recorded case; draws the input if it is not stored."""
    config, arrays = read_json(f"{path}/config.json"), read_arrays(f"{path}/io.npz")
    for name, drawn in config.get("drawn", {}).items():
        values = np.random.default_rng(drawn["seed"]).random(drawn["shape"], dtype=drawn["dtype"])
        arrays[name] = values.astype(np.float32)
    return config, arrays


def like(found: Any, recorded: np.ndarray) -> np.ndarray:
    """`found` as it was recorded: whole, or every 23rd value (see tests/recordings/README.md).

    SwinIR's features, which the reference has as lists of tokens, take that shape.
    """
    found = np.asarray(found)
    if found.size != recorded.size:
        found = found.reshape(-1)[::23]
    return found.reshape(recorded.shape)


def run(model: Any, variables: Any, *inputs: Any, method: str = "__call__") -> Any:
    """Applies a Flax module jitted: compiling once is faster than compiling each operation."""
    function = functools.partial(model.apply, method=method)
    return jax.jit(traced_for(jax.default_backend())(function))(variables, *inputs)


def random_params(shapes: Any, scale: float = 0.3) -> Any:
    """Normal numbers in place of each jax.ShapeDtypeStruct of a tree of parameters.

    For tests in which every part must take part: at initialisation NAFNet's blocks do nothing.
    """
    rng = np.random.default_rng(0)

    def draw(leaf):
        return (scale * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(draw, shapes)


def network_arguments(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our name and keyword arguments for those of a recorded network (`arch` and `kwargs`)."""
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
