"""Hyper-parameters of Restormer, PromptIR and SwinIR from names and shapes."""

import re
from typing import Any

from dcpt_jax.convert.state_shapes import (
    StateDict,
    any_matches,
    count_numbered,
    expansion_factor,
    size_of,
)

# Of MaskDCPT's networks, whose blocks are ordinary layer norms and have no `body`.
_MASKDCPT_NORM = r".*\.norm\d\.(?:weight|bias)$"
_STAGES = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")


def restormer(state: StateDict, attention: str | None) -> tuple[dict[str, Any], list[str]]:
    """Keyword arguments of a Restormer and remarks on what was assumed.

    Args:
        state: reference name -> array, in either layout of names.
        attention: "relu" or "softmax" if it is known.
    """
    remarks: list[str] = []
    if attention is None:
        attention, remark = _attention(state)
        remarks = [remark] if remark else []
    return {**_levels(state), "attention": attention}, remarks


def _attention(state: StateDict) -> tuple[str, str]:
    """(attention, a remark unless the names tell it)."""
    # With biases, the two differ in names: DCPT's blocks never have any.
    if any_matches(state, _MASKDCPT_NORM):
        return "softmax", ""
    if any_matches(state, r".*\.attn\.qkv\.bias$"):
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


def promptir(state: StateDict) -> dict[str, Any]:
    """Keyword arguments of a PromptIR.

    Args:
        state: reference name -> array.
    """

    prompts = [f"prompt{i}.prompt_param" for i in (1, 2, 3)]
    return {
        **_levels(state),
        "prompt_dims": tuple(size_of(state, "prompt_dims", (name, 2)) for name in prompts),
        "prompt_sizes": tuple(size_of(state, "prompt_sizes", (name, 3)) for name in prompts),
        "prompt_len": size_of(state, "prompt_len", *((name, 1) for name in prompts)),
    }


def _infix(state: StateDict) -> str:
    """What stands between a level and the numbers of its blocks."""
    level = r"(?:(?:en|de)coder_level\d|latent|refinement)"
    return next((x for x in (".body", ".blocks") if any_matches(state, rf"{level}\{x}\.")), "")


def _levels(state: StateDict) -> dict[str, Any]:
    """What Restormer and PromptIR have in common."""
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


def swinir(
    state: StateDict, window_size: int | None, num_heads: tuple[int, ...] | None
) -> tuple[dict[str, Any], list[str]]:
    """Keyword arguments of DCPT's SwinIR and remarks on what was assumed.

    Args:
        state: reference name -> array.
        window_size: if it is known.
        num_heads: if known, one number for all stages or one for each.

    Raises:
        ValueError: if there are not as many numbers of heads as stages.
    """
    embed_dim = size_of(
        state, "embed_dim", ("conv_first.weight", 0), ("conv_first.bias", 0), ("norm.weight", 0)
    )
    # Always three stages and three: the reference has this number in its code.
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
