"""Names and layouts of parameters in the PyTorch reference and here, and the way between them.

The rules turn a name of ours into the reference's; which names there are, the network says. So
the way back needs no second set of rules, and a name that no rule fits shows up as missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from dcpt_jax.models import parameter_shapes

# Applied one after another to our name, e.g. "encoder_0/block_3/conv_1/kernel".
_ENDINGS = ((r"/(?:kernel|scale)$", ".weight"), (r"/", "."))
_RULES: dict[str, tuple[tuple[str, str], ...]] = {
    "nafnet": (
        (r"^encoder_(\d+)/block_(\d+)", r"encoders.\1.\2"),
        (r"^down_(\d+)", r"downs.\1"),
        (r"^middle/block_(\d+)", r"middle_blks.\1"),
        (r"^up_(\d+)", r"ups.\1.0"),
        (r"^decoder_(\d+)/block_(\d+)", r"decoder\1.\2"),
        (r"/attention", r"/sca.1"),
        (r"/(conv|norm)_(\d)", r"/\1\2"),
        *_ENDINGS,
    ),
    "classifier": (
        (r"^level_(\d+)/block_(\d+)", r"bottleneck_layers.\1.\2"),
        (r"^down_(\d+)", r"downsample_layers.\1.0"),
        (r"^last/block_(\d+)", r"last_stage.\1"),
        (r"^head", r"fc"),
        (r"/conv_(\d)", r"/conv\1"),
        (r"/norm_(\d)", r"/conv\1.norm"),
        *_ENDINGS,
    ),
}


def from_torch(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Turns the reference's state dict into parameters of this package.

    Args:
        state_dict: name in the reference -> array (NumPy, JAX, or a PyTorch tensor), convolution
            weights [out, in / groups, kh, kw], linear weights [out, in].
        model: the network or classifier that the weights are for.

    Returns:
        The nested dict that goes under "params", of NumPy arrays in the dtypes given.

    Raises:
        ValueError: listing every name that is missing, unexpected or of another shape; or if the
            architecture of `model` has no rules.
    """
    rules, shapes = _rules_for(model), _shapes(model)
    paths = {_reference_name(path, rules): path for path in shapes}
    expected = {name: _reference_shape(path, shapes[path]) for name, path in paths.items()}
    arrays = {name: _as_numpy(value) for name, value in state_dict.items()}
    _compare("the state dict", arrays, expected, model)
    converted = {path: _from_reference(path, arrays[name]) for name, path in paths.items()}
    return unflatten_dict(converted, sep="/")


def to_torch(params: Mapping[str, Any], model: nn.Module) -> dict[str, np.ndarray]:
    """Turns parameters of this package into the reference's state dict: from_torch's inverse.

    Args:
        params: nested dict of arrays, what `init` puts under "params".
        model: the network or classifier that the parameters belong to.

    Returns:
        Name in the reference -> NumPy array in the reference's layout, in the dtypes given.

    Raises:
        ValueError: listing every name that is missing, unexpected or of another shape; or if the
            architecture of `model` has no rules.
    """
    rules, expected = _rules_for(model), _shapes(model)
    arrays = {path: _as_numpy(value) for path, value in flatten_dict(params, sep="/").items()}
    _compare("the parameters", arrays, expected, model)
    return {
        _reference_name(path, rules): _to_reference(path, arrays[path])
        for path in sorted(expected, key=_natural_order)
    }


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    flat = flatten_dict(parameter_shapes(model), sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def _rules_for(model: nn.Module) -> tuple[tuple[str, str], ...]:
    architecture = getattr(model, "architecture", None)
    if architecture not in _RULES:
        raise ValueError(
            f"no conversion rules for {type(model).__name__}; known: {', '.join(_RULES)}"
        )
    return _RULES[architecture]


def _reference_name(path: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        path = re.sub(pattern, replacement, path)
    return path


# Axes of the reference's arrays in terms of ours, by rank: convolution and linear weights.
_TO_REFERENCE_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}


def _is_residual_scale(path: str) -> bool:
    """NAFNet's beta and gamma: [c] here, [1, c, 1, 1] in the reference."""
    return path.rsplit("/", 1)[-1] in ("beta", "gamma")


def _reference_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if _is_residual_scale(path):
        return (1, *shape, 1, 1)
    return tuple(shape[axis] for axis in _TO_REFERENCE_AXES.get(len(shape), range(len(shape))))


def _to_reference(path: str, array: np.ndarray) -> np.ndarray:
    if array.ndim in _TO_REFERENCE_AXES:
        return np.ascontiguousarray(array.transpose(_TO_REFERENCE_AXES[array.ndim]))
    return array.reshape(_reference_shape(path, array.shape))


def _from_reference(path: str, array: np.ndarray) -> np.ndarray:
    if _is_residual_scale(path):
        return array.reshape(-1)
    if array.ndim in _TO_REFERENCE_AXES:
        axes = np.argsort(_TO_REFERENCE_AXES[array.ndim])
        return np.ascontiguousarray(array.transpose(axes))
    return array


def _as_numpy(value: Any) -> np.ndarray:
    # A tensor of PyTorch that takes part in autodiff or lies on a GPU refuses np.asarray.
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _natural_order(path: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", path)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _compare(
    what: str,
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    model: nn.Module,
) -> None:
    """Raises one ValueError with everything in which `arrays` departs from the expected shapes."""
    missing = [name for name in expected if name not in arrays]
    unexpected = [name for name in arrays if name not in expected]
    misshaped = [
        f"{name} {arrays[name].shape} (expected {shape})"
        for name, shape in expected.items()
        if name in arrays and arrays[name].shape != shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    if any(problems.values()):
        lists = "\n".join(
            f"  {kind} ({len(names)}): {', '.join(sorted(names, key=_natural_order))}"
            for kind, names in problems.items()
            if names
        )
        raise ValueError(
            f"{what} does not fit {type(model).__name__} with arguments {model.arguments()}:\n"
            f"{lists}"
        )
