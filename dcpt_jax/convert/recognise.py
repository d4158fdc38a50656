"""Infers architecture and hyper-parameters of a state dict from its names and shapes."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dcpt_jax.convert.messages import listed, printable
from dcpt_jax.convert.naming import UNUSED_IN_PROMPTIR, maskdcpt_layout
from dcpt_jax.convert.state_shapes import (
    StateDict,
    any_matches,
    count_numbered,
    expansion_factor,
    size_of,
)
from dcpt_jax.weights.description import block_count

# Prefixes that wrappers add to every name: DataParallel, torch.compile, Lightning modules.
_PREFIXES = ("module.", "_orig_mod.", "net.")
ENTRIES = ("params_ema", "params", "state_dict")


def state_dict_of(
    content: Any, key: str | None = None, prefix: str | None = None
) -> tuple[dict[str, np.ndarray], str]:
    """Finds the state dict in the content of a checkpoint file.

    Args:
        content: the result of a reader.
        key: entry to use; None = the first of `params_ema`, `params` and `state_dict` (Lightning)
            that exists, else the only entry that is a dict of tensors, else the whole content.
        prefix: use only the names with this prefix, and strip it; its last dot may be missing.

    Returns:
        (name -> array, the entry used, "" = the whole). The prefixes `module.`, `_orig_mod.` and
        `net.` of wrappers are stripped.

    Raises:
        ValueError: if there is no such entry or prefix, or it contains anything but arrays.
    """
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        kind = {"ndarray": "a single tensor", "Inert": "an object, such as a whole model"}.get(
            kind, kind
        )
        raise ValueError(
            f"expected a dict of tensors, found {kind}; save it with "
            "torch.save(model.state_dict(), ...)"
        )
    if {"state", "param_groups"} <= content.keys() or {
        "optimizers",
        "schedulers",
    } <= content.keys():
        raise ValueError(
            "it is the state of an optimizer; the weights are in another file (BasicSR: "
            "training_states/N.state belongs to models/net_g_N.pth)"
        )
    tensors = state_dicts_in(content)
    if key is None:
        key = next((entry for entry in ENTRIES if isinstance(content.get(entry), Mapping)), "")
        if not key and len(tensors) == 1:
            (key,) = tensors
    known = listed(tensors)
    selected = tensors.get(key, content.get(key)) if key else content
    if not isinstance(selected, Mapping):
        raise ValueError(f"there is no entry {key!r}; entries: {known or 'none'}")
    state = selected
    wrong = [str(name) for name, value in state.items() if not isinstance(value, np.ndarray)]
    if wrong:
        choice = f"; --params takes one of its entries: {known}" if known and not key else ""
        if not known and "optimizer" in content:
            choice = "; it holds the state of an optimizer, but no weights"
        raise ValueError(
            f"not a state dict: these entries are not tensors: {listed(wrong, 5)}{choice}"
        )
    if not state:
        raise ValueError("not a state dict: it is empty")
    state = {str(name): value for name, value in state.items()}
    return _without_wrappers(state if prefix is None else _with_prefix(state, prefix)), key


def state_dicts_in(content: Any, depth: int = 3) -> dict[str, Mapping[str, np.ndarray]]:
    """The entries of a file's content that are state dicts, also in entries: "model.state_dict".

    The states of optimizers, whose entries are numbered or named after parameters, are left out.
    """
    result = {}
    for entry, value in content.items() if isinstance(content, Mapping) else ():
        if not isinstance(entry, str) or entry.startswith("optim"):
            continue
        if not isinstance(value, Mapping) or not value:
            continue
        if all(isinstance(tensor, np.ndarray) for tensor in value.values()):
            result[entry] = value
        elif depth > 1:
            inner = state_dicts_in(value, depth - 1)
            result |= {f"{entry}.{name}": state for name, state in inner.items()}
    return result


def _without_wrappers(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Strips the prefixes of wrappers, if all names have them."""
    while prefixes := [p for p in _PREFIXES if all(name.startswith(p) for name in state)]:
        state = {name.removeprefix(prefixes[0]): value for name, value in state.items()}
    return state


def _with_prefix(state: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The part of a state dict with a prefix, which is stripped."""
    start = prefix.removesuffix(".") + "."
    for names in (state, _without_wrappers(state)):  # messages show the latter
        if stripped := {n.removeprefix(start): v for n, v in names.items() if n.startswith(start)}:
            return stripped
    first = sorted({name.split(".")[0] + "." for name in _without_wrappers(state)})
    raise ValueError(f"--prefix {prefix}: no name starts with it; they start with {listed(first)}")


@dataclasses.dataclass(frozen=True)
class Recognised:
    """The architecture of a state dict.

    Attributes:
        architecture: name for `create_model`, or "classifier".
        arguments: keyword arguments of `create_model` or `create_classifier`.
        remarks: messages about assumptions and omissions.
        state: reference name -> array, without the omitted ones.
    """

    architecture: str
    arguments: dict[str, Any]
    remarks: tuple[str, ...]
    state: dict[str, np.ndarray]


def recognise(
    state: StateDict,
    *,
    attention: str | None = None,
    window_size: int | None = None,
    num_heads: tuple[int, ...] | None = None,
) -> Recognised:
    """Infers architecture and keyword arguments from names and shapes.

    The three options cannot be inferred; without them, defaults are assumed.

    Args:
        state: reference name -> array.
        attention: of a Restormer, "relu" or "softmax". Default: "relu" if its names have `body`
            (DCPT's Restormer), else "softmax" (the original publication).
        window_size: of a SwinIR. Default: 8.
        num_heads: of a SwinIR, one number or one per stage. Default: 6 if that divides the
            channels, else the largest smaller number that does.

    Raises:
        ValueError: if the architecture is unknown, or a variant that computes something else; or
            if an option is for another architecture.
    """
    empty = [name for name, value in state.items() if not value.size]
    if empty:
        advice = (
            "; DeepSpeed keeps such weights in files beside: join them with its zero_to_fp32.py"
        )
        raise ValueError(
            f"empty tensors: {listed(empty, 5)}{advice if len(empty) == len(state) else ''}"
        )
    counters = [
        name
        for name, value in state.items()
        if value.ndim == 0 or (value.size == 1 and value.dtype.kind in "biu")
    ]
    state = {name: value for name, value in state.items() if name not in counters}
    state, prefix = _unwrapped(state)
    architecture = _architecture(state)
    _refuse_relatives(state)
    options = {"attention": attention, "window_size": window_size, "num_heads": num_heads}
    allowed = {"restormer": ("attention",), "swinir": ("window_size", "num_heads")}
    for option, value in options.items():
        if value is not None and option not in allowed.get(architecture, ()):
            flag = "--" + option.replace("_", "-")
            owner = "a Restormer" if option == "attention" else "a SwinIR"
            raise ValueError(f"{flag} is for {owner}, but this is a {architecture}; leave it out")
    state, remarks = dict(state), []
    if architecture == "restormer":
        arguments, remarks = _restormer(state, attention)
    elif architecture == "promptir":
        unused = [name for name in state if re.match(UNUSED_IN_PROMPTIR, name)]
        for name in unused:
            del state[name]
        if unused:
            remarks.append(f"left out, because PromptIR does not use them: {listed(unused)}")
        arguments = _promptir(state)
    elif architecture == "swinir":
        arguments, remarks = _swinir(state, window_size, num_heads)
    else:
        arguments = {"nafnet": _nafnet, "classifier": _classifier}[architecture](state)
    _check_size(arguments, state)
    if "norm_epsilon" in arguments:
        remarks.append("the names are MaskDCPT's, so the norms have an epsilon of 1e-5")
    if counters:
        remarks.append(f"left out, because they are counters: {listed(counters, 5)}")
    if prefix:
        remarks = [f"stripped the prefix {printable(prefix)} that all names have", *remarks]
    return Recognised(architecture, arguments, tuple(remarks), state)


_MOST_LEVELS = 8


def _check_size(arguments: Mapping[str, Any], state: StateDict) -> None:
    """Raises ValueError for a network far larger than its file, which would take too long."""
    blocks = block_count(arguments)
    # Every block has at least nine tensors, some of which may be missing.
    if blocks > 16 + len(state) // 3:
        raise ValueError(
            f"the names imply {blocks} blocks, but there are only {len(state)} tensors"
        )


def _check_levels(levels: int) -> int:
    if levels > _MOST_LEVELS:
        raise ValueError(
            f"the names imply {levels} levels; networks here have at most {_MOST_LEVELS}"
        )
    return levels


# Patterns of names that occur in one architecture only.
_SIGNS = {
    "classifier": r"(?:bottleneck_layers|downsample_layers)\.\d",
    "promptir": r"prompt\d\.(?:prompt_param|linear_layer|conv3x3)",
    "restormer": r"encoder_level\d\.",
    "nafnet": r"encoders\.\d+\.(?:blocks\.)?\d+\.|middle_blks\.",
    "swinir": r"(?:encode_layers\.|decode_layers|layers\.)\d+\.residual_group\.",
}


def _unwrapped(state: StateDict) -> tuple[StateDict, str]:
    """Strips a prefix that all names of a network have.

    Returns:
        (state dict, prefix).

    Raises:
        ValueError: if there are several such prefixes, or names without it.
    """
    if any(any_matches(state, pattern) for pattern in _SIGNS.values()):
        return state, ""
    sign = re.compile(rf"(.*?\.)(?:{'|'.join(_SIGNS.values())})")
    prefixes = sorted({match[1] for name in state if (match := sign.match(name))})
    if not prefixes:
        return state, ""
    if len(prefixes) > 1 or not all(name.startswith(prefixes[0]) for name in state):
        raise ValueError(
            f"the names of a network follow {listed(prefixes, 5)}, besides other names; choose one "
            f"with --prefix {printable(prefixes[0])}"
        )
    return {name.removeprefix(prefixes[0]): value for name, value in state.items()}, prefixes[0]


def _architecture(state: StateDict) -> str:
    for architecture, pattern in _SIGNS.items():
        if any_matches(state, pattern):
            return architecture
    if any_matches(state, r"body\.\d+\.(?:module\.)?blk\."):
        raise ValueError(
            "refused: NAFSSR, which enlarges pairs of stereo images, is not known here"
        )
    raise ValueError(
        f"no known architecture has these names ({listed(state, 5)}); known: NAFNet, Restormer, "
        "PromptIR, DCPT's SwinIR, DCPT's classifier"
    )


_RELATIVES = (
    (
        r".*\.se\.\d\.",
        "it is the Baseline of NAFNet's authors (GELU, channel attention `se`); only NAFNet itself "
        "(gates, `sca`) is supported",
    ),
    (
        r".*relative_position_bias_table$",
        "the published SwinIR has a relative position bias and masks shifted windows; only DCPT's "
        "SwinIR, which has neither, is supported",
    ),
    (r"absolute_pos_embed$", "DCPT's SwinIR has no absolute position embedding"),
    (
        r"upsample\.|conv_before_upsample\.|conv_up\d|output\.\d",
        "it enlarges images; the networks here restore at the same size",
    ),
    (
        r"skip_conv\.",
        "a Restormer for dual-pixel defocus deblurring takes two images and does not add its "
        "input to its output; the one here restores single images",
    ),
)


def _refuse_relatives(state: StateDict) -> None:
    """Raises ValueError for variants with similar names that compute something else."""
    for pattern, reason in _RELATIVES:
        names = [name for name in state if re.match(pattern, name)]
        if names:
            raise ValueError(f"refused because of {printable(names[0])}: {reason}")
    for name in ("intro.weight", "patch_embed.proj.weight", "conv_first.weight"):
        shape = state[name].shape if name in state else (0, 3, 3, 3)
        if len(shape) == 4 and shape[2:] == (3, 3) and shape[1] != 3:
            raise ValueError(
                f"refused because of {name} {shape}: it takes images of {shape[1]} channels; the "
                "networks here take 3, RGB"
            )


def _nafnet(state: StateDict) -> dict[str, Any]:
    width = size_of(
        state, "width", ("intro.weight", 0), ("intro.bias", 0), ("ending.weight", 1)
    )  # fmt: skip
    levels = _check_levels(
        max(count_numbered(state, rf"{part}\.(\d+)\.") for part in ("encoders", "downs"))
    )
    decoder = r"decoder(?:s\.)?"  # a list of stages in the original NAFNet

    def blocks(stage: str) -> int:
        return max(1, count_numbered(state, rf"{stage}\.(?:blocks\.)?(\d+)\."))

    arguments = {
        "width": width,
        "encoder_blocks": tuple(blocks(rf"encoders\.{i}") for i in range(levels)),
        "middle_blocks": blocks("middle_blks"),
        "decoder_blocks": tuple(blocks(rf"{decoder}{i}") for i in range(levels)),
    }
    if maskdcpt_layout(state):
        arguments["norm_epsilon"] = 1e-5
    return arguments


def _classifier(state: StateDict) -> dict[str, Any]:
    levels = _check_levels(
        max(
            count_numbered(state, rf"{part}\.(\d+)\.")
            for part in ("downsample_layers", "bottleneck_layers")
        )
    )
    channels = (
        size_of(
            state,
            f"feature_dims[{i}]",
            (f"downsample_layers.{i}.0.weight", 1),
            (f"bottleneck_layers.{i}.0.conv1.weight", 1),
        )
        for i in range(levels)
    )
    arguments = {
        "feature_dims": tuple(channels),
        "num_classes": size_of(state, "num_classes", ("fc.weight", 0), ("fc.bias", 0)),
        "num_blocks": max(1, count_numbered(state, r"last_stage\.(\d+)\.")),
    }
    if any_matches(state, r"conv_embed\."):
        arguments["image_input"] = True
    return arguments


_STAGES = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")


def _restormer(state: StateDict, attention: str | None) -> tuple[dict[str, Any], list[str]]:
    """Keyword arguments of a Restormer, and remarks about assumptions."""
    remarks: list[str] = []
    if attention is None:
        attention, remark = _attention(state)
        remarks = [remark] if remark else []
    return {**_levels(state), "attention": attention}, remarks


def _attention(state: StateDict) -> tuple[str, str]:
    """(attention, a remark if it is an assumption)."""
    # With biases, names are conclusive: DCPT's blocks never have any.
    if maskdcpt_layout(state) or any_matches(state, r".*\.attn\.qkv\.bias$"):
        return "softmax", ""
    if "output.bias" in state:
        return "relu", ""
    if _infix(state) == ".body":
        return "relu", (
            "assumed: attention is relu, as in DCPT's Restormer, whose names have `body` (with "
            "--attention softmax: as in the original Restormer)"
        )
    return "softmax", (
        "assumed: attention is softmax, as in the original Restormer, whose names have no `body` "
        "(with --attention relu: as in DCPT's Restormer_origin)"
    )


def _promptir(state: StateDict) -> dict[str, Any]:
    """Keyword arguments of a PromptIR."""
    prompts = [f"prompt{i}.prompt_param" for i in (1, 2, 3)]
    return {
        **_levels(state),
        "prompt_dims": tuple(size_of(state, "prompt_dims", (name, 2)) for name in prompts),
        "prompt_sizes": tuple(size_of(state, "prompt_sizes", (name, 3)) for name in prompts),
        "prompt_len": size_of(state, "prompt_len", *((name, 1) for name in prompts)),
    }


def _infix(state: StateDict) -> str:
    """The part of a name between a level and the number of a block."""
    level = r"(?:(?:en|de)coder_level\d|latent|refinement)"
    return next((x for x in (".body", ".blocks") if any_matches(state, rf"{level}\{x}\.")), "")


def _levels(state: StateDict) -> dict[str, Any]:
    """Keyword arguments that Restormer and PromptIR share."""
    infix = _infix(state)

    def blocks(stage: str) -> int:
        return max(1, count_numbered(state, re.escape(stage + infix) + r"\.(\d+)\."))

    num_blocks = tuple(blocks(stage) for stage in _STAGES)
    heads = (
        size_of(
            state,
            f"heads[{level}]",
            *((f"{stage}{infix}.{i}.attn.temperature", 0) for i in range(num_blocks[level])),
        )
        for level, stage in enumerate(_STAGES)
    )
    widths = [
        (value.shape[1], value.shape[0] // 2)
        for name, value in state.items()
        if name.endswith(".ffn.project_in.weight") and value.ndim == 4
    ]
    return {
        "dim": size_of(
            state,
            "dim",
            ("patch_embed.proj.weight", 0),
            (f"encoder_level1{infix}.0.norm1.body.weight", 0),
            (f"encoder_level1{infix}.0.norm1.weight", 0),
        ),
        "num_blocks": num_blocks,
        "num_refinement_blocks": blocks("refinement"),
        "heads": tuple(heads),
        "ffn_expansion": expansion_factor(widths, 2.66),
        "bias": any_matches(state, r"output\.bias$|.*\.attn\.qkv\.bias$"),
        "norm": "with_bias" if any_matches(state, r".*\.norm\d\.(?:body\.)?bias$") else "bias_free",
    }


def _swinir(
    state: StateDict, window_size: int | None, num_heads: tuple[int, ...] | None
) -> tuple[dict[str, Any], list[str]]:
    """Keyword arguments of DCPT's SwinIR, and remarks about assumptions.

    Raises:
        ValueError: if the length of `num_heads` is neither 1 nor the number of stages.
    """
    embed_dim = size_of(
        state, "embed_dim", ("conv_first.weight", 0), ("conv_first.bias", 0), ("norm.weight", 0)
    )
    # Three encoder and three decoder stages, fixed in the reference.
    stages = [rf"{half}{i}" for half in (r"encode_layers\.", "decode_layers") for i in range(3)]
    depths = tuple(
        max(1, count_numbered(state, rf"{stage}\.residual_group\.blocks\.(\d+)\."))
        for stage in stages
    )
    remarks = []
    if window_size is None:
        window_size = 8
        remarks.append("assumed: the window size is 8 (choose another with --window-size)")
    if num_heads is None:
        heads = next(count for count in (6, 5, 4, 3, 2, 1) if embed_dim % count == 0)
        num_heads = (heads,)
        remarks.append(f"assumed: {heads} attention heads (choose others with --num-heads)")
    if len(num_heads) not in (1, len(depths)):
        raise ValueError(
            f"--num-heads names {len(num_heads)} numbers; one is needed, or one for each of the "
            f"{len(depths)} stages"
        )
    widths = [
        (value.shape[1], value.shape[0])
        for name, value in state.items()
        if name.endswith(".mlp.fc1.weight") and value.ndim == 2
    ]
    arguments = {
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": num_heads if len(num_heads) == len(depths) else num_heads * len(depths),
        "window_size": window_size,
        "mlp_ratio": expansion_factor(widths, 2.0),
        "qkv_bias": any_matches(state, r".*\.attn\.qkv\.bias$"),
        "patch_norm": any_matches(state, r"patch_embed\.norm\."),
        "resi_connection": "3conv" if any_matches(state, r"conv_after_body\.\d") else "1conv",
    }
    return arguments, remarks
