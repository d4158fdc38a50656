"""Converts parameters between this package and the PyTorch reference: names and axes.

The rules map our names to those of the reference. The list of names comes from the network, so the
inverse needs no rules of its own, and a name that no rule matches is reported as missing.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from dcpt_jax.convert.messages import listed
from dcpt_jax.models import parameter_shapes

Rule = tuple[str, str | Callable[[re.Match[str]], str]]  # pattern and replacement of re.sub

# Applied in order to our names, e.g. "encoder_0/block_3/conv_1/kernel".
_ENDINGS: tuple[Rule, ...] = ((r"/(?:kernel|scale)$", ".weight"), (r"/", "."))
_LEVELS: tuple[Rule, ...] = (  # Restormer and PromptIR
    (r"^patch_embed", "patch_embed.proj"),
    (r"^down_(\d)", lambda match: f"down{match[1]}_{int(match[1]) + 1}.body.0"),
    (r"^up_(\d)", lambda match: f"up{int(match[1]) + 1}_{match[1]}.body.0"),
    (r"^reduce_(\d)", r"reduce_chan_level\1"),
    (r"^(encoder|decoder)_(\d)/block_(\d+)", r"\1_level\2.\3"),
    (r"^(latent|refinement)/block_(\d+)", r"\1.\2"),
    (r"^prompt_(\d)/prompts", r"prompt\1.prompt_param"),
    (r"^prompt_(\d)/mixing", r"prompt\1.linear_layer"),
    (r"^prompt_(\d)/conv", r"prompt\1.conv3x3"),
    (r"^(noise|reduce_noise)_(\d)", r"\1_level\2"),
    (r"/norm_(\d)", r"/norm\1.body"),
    (r"/attention/qkv_depthwise", r"/attn.qkv_dwconv"),
    (r"/attention", r"/attn"),
    (r"/feed_forward/depthwise", r"/ffn.dwconv"),
    (r"/feed_forward", r"/ffn"),
    *_ENDINGS,
)
_RULES: dict[str, tuple[Rule, ...]] = {
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
    "restormer": _LEVELS,
    "promptir": _LEVELS,
    "swinir": (
        (r"^(first|last|after_body)", r"conv_\1"),
        (r"^embed_norm", r"patch_embed.norm"),
        (r"^encoder_(\d+)", r"encode_layers.\1"),
        (r"^decoder_(\d+)", r"decode_layers\1"),
        (r"/block_(\d+)", r".residual_group.blocks.\1"),
        (r"/norm_(\d)", r"/norm\1"),
        (r"/attention/project_out", r"/attn.proj"),
        (r"/attention", r"/attn"),
        (r"/mlp/expand", r"/mlp.fc1"),
        (r"/mlp/project", r"/mlp.fc2"),
        # "3conv": the activations between the convolutions are numbered too.
        (r"/conv_(\d)", lambda match: f"/{2 * int(match[1])}"),
        *_ENDINGS,
    ),
    "classifier": (
        (r"^embed/conv", r"conv_embed.0"),
        (r"^embed/norm", r"conv_embed.1"),
        (r"^level_(\d+)/block_(\d+)", r"bottleneck_layers.\1.\2"),
        (r"^down_(\d+)", r"downsample_layers.\1.0"),
        (r"^last/block_(\d+)", r"last_stage.\1"),
        (r"^head", r"fc"),
        (r"/conv_(\d)", r"/conv\1"),
        (r"/norm_(\d)", r"/conv\1.norm"),
        *_ENDINGS,
    ),
}
# Published layouts of names for each network: a pattern that identifies the layout, and rules that
# are applied last. Other networks have DCPT's layout only. DCPT's Restormer wraps the blocks of a
# level; the original NAFNet has a list of decoder stages; MaskDCPT wraps the blocks of every stage,
# but no norms, except that its Restormer_origin wraps neither.
LAYOUTS = ("dcpt", "original", "maskdcpt", "maskdcpt_origin")
Layout = tuple[tuple[str, tuple[Rule, ...]], ...]
_LEVEL = r"((?:en|de)coder_level\d|latent|refinement)"
_NAFNET_STAGE = r"(encoders\.\d+|middle_blks|decoders?\.?\d+)"
_MASKDCPT_PLAIN: Layout = (
    (
        r".*\.norm\d\.(?:weight|bias)$|(?:down|up)\d_\d\.conv\.",
        ((r"\.norm(\d)\.body\.", r".norm\1."), (r"^(down|up)(\d_\d)\.body\.0\.", r"\1\2.conv.")),
    ),
)
_MASKDCPT_LEVELS: Layout = (
    (rf"{_LEVEL}\.blocks\.", ((rf"^{_LEVEL}\.", r"\1.blocks."),)),
    *_MASKDCPT_PLAIN,
)
_LAYOUTS: dict[str, dict[str, Layout]] = {
    "nafnet": {
        "dcpt": (),
        "original": ((r"decoders\.", ((r"^decoder(\d+)\.", r"decoders.\1."),)),),
        "maskdcpt": (
            (rf"{_NAFNET_STAGE}\.blocks\.", ((rf"^{_NAFNET_STAGE}\.(\d+)\.", r"\1.blocks.\2."),)),
        ),
    },
    "restormer": {
        "dcpt": ((rf"{_LEVEL}\.body\.", ((rf"^{_LEVEL}\.", r"\1.body."),)),),
        "original": (),
        "maskdcpt": _MASKDCPT_LEVELS,
        "maskdcpt_origin": _MASKDCPT_PLAIN,
    },
    "promptir": {"dcpt": (), "original": (), "maskdcpt": _MASKDCPT_LEVELS},
}
_NAFNET_EPSILON = {"dcpt": 1e-6, "original": 1e-6, "maskdcpt": 1e-5}  # of the norms

# Convolutions that the original PromptIR defines but does not use.
UNUSED_IN_PROMPTIR = r"(?:chnl_reduce|reduce_noise_channel_)[123]\."


def from_torch(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Converts a state dict of the reference to parameters of this package.

    All published layouts of names are accepted: Restormer with `body` below each level (DCPT's
    Restormer) and without (the original publication, DCPT's Restormer_origin), NAFNet with and
    without a list of decoders, and MaskDCPT's with `blocks` below each stage. The unused
    convolutions of the original PromptIR are ignored.

    Args:
        state_dict: name in the reference -> array (NumPy, JAX, or a PyTorch tensor), convolution
            weights [out, in / groups, kh, kw], linear weights [out, in].
        model: the network or classifier that the weights are for.

    Returns:
        The nested dict of "params", with new NumPy arrays of the same dtypes.

    Raises:
        ValueError: if names are missing, unexpected or of another shape (lists them), or if there
            are no rules for the architecture of `model`.
        TypeError: if `state_dict` is not a mapping.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            "expected a state dict, which maps names to arrays, not "
            f"{type(state_dict).__name__}; dcpt_jax.load reads files"
        )
    architecture = getattr(model, "architecture", "")
    if architecture == "promptir":
        state_dict = {
            name: value
            for name, value in state_dict.items()
            if not re.match(UNUSED_IN_PROMPTIR, name)
        }
    rules, shapes = _rules_for(model, _rules_of_names(state_dict, architecture)), _shapes(model)
    paths = {_reference_name(path, rules): path for path in shapes}
    expected = {name: _reference_shape(path, shapes[path]) for name, path in paths.items()}
    arrays = {name: _as_numpy(value) for name, value in state_dict.items()}
    _compare("the state dict", arrays, expected, model)
    converted = {path: _from_reference(path, arrays[name]) for name, path in paths.items()}
    return unflatten_dict(converted, sep="/")


def to_torch(
    params: Mapping[str, Any],
    model: nn.Module,
    *,
    layout: str | None = None,
    force: bool = False,
) -> dict[str, np.ndarray]:
    """Converts parameters of this package to a state dict of the reference: from_torch's inverse.

    Args:
        params: nested dict of arrays, the "params" of `init`.
        model: the network or classifier that the parameters belong to.
        layout: the layout of names. "dcpt": DCPT's, which uses the original names for softmax
            Restormers. "original": that of the repository in which NAFNet, Restormer or PromptIR
            was first published, as other tools expect. "maskdcpt": MaskDCPT's, of the same three.
            "maskdcpt_origin": that of MaskDCPT's Restormer_origin. None: "maskdcpt" for a NAFNet
            with MaskDCPT's epsilon, otherwise "dcpt".
        force: whether to write a layout whose own network computes something different.

    Returns:
        Name in the reference -> new NumPy array in the reference's axis order, of the same dtype.
        The unused convolutions of the original PromptIR are zero.

    Raises:
        ValueError: if names are missing, unexpected or of another shape (lists them); if there are
            no rules or no such layout for `model`; or, without `force`, if the network of this
            layout computes something different, such as softmax instead of ReLU attention.
    """
    layout = _written_layout(model, layout, force)
    rules, expected = _rules_for(model, _rules_of(model, layout)), _shapes(model)
    arrays = {path: _as_numpy(value) for path, value in flatten_dict(params, sep="/").items()}
    _compare("the parameters", arrays, expected, model)
    written = {
        _reference_name(path, rules): _to_reference(path, arrays[path])
        for path in sorted(expected, key=_natural_order)
    }
    dtype = next(iter(arrays.values())).dtype
    unused = _unused_shapes(model, layout).items()
    return written | {name: np.zeros(shape, dtype) for name, shape in unused}


def maskdcpt_layout(names: Iterable[str]) -> str | None:
    """The layout of MaskDCPT that names are in, of `LAYOUTS`; None for other names."""
    names = list(names)
    if any(re.match(rf"(?:{_LEVEL}|{_NAFNET_STAGE})\.blocks\.", name) for name in names):
        return "maskdcpt"
    if any(re.match(rf"{_LEVEL}\.\d+\.norm\d\.(?:weight|bias)$", name) for name in names):
        return "maskdcpt_origin"
    return None


def _rules_of_names(names: Iterable[str], architecture: str) -> tuple[Rule, ...]:
    """Rules of the layout of some names, in addition to those of the architecture."""
    names = list(names)
    return tuple(
        rule
        for layout in _LAYOUTS.get(architecture, {}).values()
        for pattern, rules in layout
        if any(re.match(pattern, name) for name in names)
        for rule in rules
    )


def _rules_of(model: nn.Module, layout: str) -> tuple[Rule, ...]:
    """Rules of a layout to write, in addition to those of the architecture."""
    architecture = getattr(model, "architecture", "")
    if architecture == "restormer" and layout == "dcpt" and model.attention == "softmax":
        layout = "original"  # DCPT's own names imply ReLU attention
    return tuple(
        rule for _, rules in _LAYOUTS.get(architecture, {}).get(layout, ()) for rule in rules
    )


def _written_layout(model: nn.Module, layout: str | None, force: bool) -> str:
    """The layout to write; ValueError if there is none for the model or it needs `force`."""
    architecture = getattr(model, "architecture", "")
    if layout is None:
        masked = architecture == "nafnet" and model.norm_epsilon == _NAFNET_EPSILON["maskdcpt"]
        layout = "maskdcpt" if masked else "dcpt"
    known = _LAYOUTS.get(architecture, {"dcpt": ()})
    if layout not in known:
        raise ValueError(
            f"there is no layout {layout!r} for a {type(model).__name__}; known: {', '.join(known)}"
        )
    difference = _difference(model, layout)
    if difference and not force:
        raise ValueError(
            f"refused to write the layout {layout!r}: the network that loads it would silently "
            f"compute something else, because {difference}; --force (force=True) writes it anyway"
        )
    return layout


def _difference(model: nn.Module, layout: str) -> str:
    """How a network differs from that of a layout beyond names and shapes; "" if it does not."""
    architecture = getattr(model, "architecture", "")
    if architecture == "restormer" and layout != "dcpt" and model.attention == "relu":
        return "the attention is relu here and softmax there"
    if architecture == "nafnet" and model.norm_epsilon != _NAFNET_EPSILON[layout]:
        return (
            f"the norms have an epsilon of {model.norm_epsilon:g} here and "
            f"{_NAFNET_EPSILON[layout]:g} there"
        )
    return ""


def _unused_shapes(model: nn.Module, layout: str) -> dict[str, tuple[int, ...]]:
    """Shapes of `UNUSED_IN_PROMPTIR`, which the original requires with strict=True."""
    if (getattr(model, "architecture", ""), layout) != ("promptir", "original"):
        return {}
    dim = model.dim
    channels = {
        "chnl_reduce1": (64, 64),
        "chnl_reduce2": (128, 128),
        "chnl_reduce3": (256, 320),
        "reduce_noise_channel_1": (dim, dim + 64),
        "reduce_noise_channel_2": (2 * dim, 2 * dim + 128),
        "reduce_noise_channel_3": (4 * dim, 4 * dim + 256),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (outputs, inputs) in channels.items():
        shapes[f"{name}.weight"] = (outputs, inputs, 1, 1)
        if model.bias:
            shapes[f"{name}.bias"] = (outputs,)
    return shapes


@functools.lru_cache(maxsize=8)  # tracing a large network takes a second
def _shapes(model: nn.Module) -> Mapping[str, tuple[int, ...]]:
    flat = flatten_dict(parameter_shapes(model), sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def _rules_for(model: nn.Module, layout: tuple[Rule, ...]) -> tuple[Rule, ...]:
    architecture = getattr(model, "architecture", None)
    if architecture not in _RULES:
        raise ValueError(
            f"no conversion rules for {type(model).__name__}; known: {', '.join(_RULES)}"
        )
    return (*_RULES[architecture], *layout)


def _reference_name(path: str, rules: tuple[Rule, ...]) -> str:
    for pattern, replacement in rules:
        path = re.sub(pattern, replacement, path)
    return path


# For each axis of the reference's arrays the axis of ours, or None for an extra one of length 1: by
# the last part of the name, and for all other arrays by rank.
_AXES_BY_NAME: dict[str, tuple[int | None, ...]] = {
    "beta": (None, 0, None, None),
    "gamma": (None, 0, None, None),
    "temperature": (0, None, None),
    "prompts": (None, 0, 3, 1, 2),
}
_AXES_BY_RANK: dict[int, tuple[int | None, ...]] = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}


def _axes(path: str, rank: int) -> tuple[int | None, ...]:
    name = path.rsplit("/", 1)[-1]
    return _AXES_BY_NAME[name] if name in _AXES_BY_NAME else _AXES_BY_RANK[rank]


def _reference_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if axis is None else shape[axis] for axis in _axes(path, len(shape)))


def _to_reference(path: str, array: np.ndarray) -> np.ndarray:
    order = [axis for axis in _axes(path, array.ndim) if axis is not None]
    shape = _reference_shape(path, array.shape)
    return np.array(array.transpose(order), order="C").reshape(shape)  # a copy in any case


def _from_reference(path: str, array: np.ndarray) -> np.ndarray:
    axes = _axes(path, array.ndim)
    kept = [(size, axis) for size, axis in zip(array.shape, axes, strict=True) if axis is not None]
    order = np.argsort([axis for _, axis in kept])
    squeezed = array.reshape([size for size, _ in kept])
    return np.array(squeezed.transpose(order), order="C")  # a copy in any case


def _as_numpy(value: Any) -> np.ndarray:
    # np.asarray fails for PyTorch tensors that require gradients or are on a GPU, and for bfloat16,
    # whose bits are passed as integers.
    if not hasattr(value, "detach"):
        return np.asarray(value)
    value = value.detach().cpu()
    if str(value.dtype) == "torch.bfloat16":
        import torch

        return value.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


def _natural_order(path: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", path)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _compare(
    source: str,
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    model: nn.Module,
) -> None:
    """Raises a ValueError that lists all differences from the expected names and shapes."""
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
            f"  {kind} ({len(names)}): {listed(sorted(names, key=_natural_order))}"
            for kind, names in problems.items()
            if names
        )
        outer = {name.partition("/")[0] for name in unexpected}
        if len(outer) == 1 and outer < {"params", "params_ema", "state_dict", "network", "model"}:
            lists += f"\npass what {outer.pop()!r} holds"
        raise ValueError(
            f"{source} cannot be used for {type(model).__name__} with arguments "
            f"{model.arguments()}:\n{lists}"
        )
