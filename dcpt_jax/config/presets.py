"""Presets: the published networks, and the name after the colon of `--config=FILE:PRESET`."""

from typing import Any

import ml_collections

from dcpt_jax.config.keys import ConfigError
from dcpt_jax.data import tasks as task_sets
from dcpt_jax.data.tasks import TASK_SETS
from dcpt_jax.suggestions import did_you_mean

# The paper's networks (DCPT, appendix; MaskDCPT, table of architectures).
_LEVELS: dict[str, Any] = {
    "dim": 48,
    "num_blocks": (4, 6, 6, 8),
    "num_refinement_blocks": 4,
    "heads": (1, 2, 4, 8),
    "ffn_expansion": 2.66,
    "bias": False,
}
BACKBONES: dict[str, dict[str, Any]] = {
    "nafnet": {
        "width": 64,
        "encoder_blocks": (1, 1, 1, 28),
        "middle_blocks": 1,
        "decoder_blocks": (1, 1, 1, 1),
    },
    "restormer": {**_LEVELS, "norm": "bias_free", "attention": "relu"},
    "promptir": {
        **_LEVELS,
        "norm": "with_bias",
        "prompt_dims": (64, 128, 320),
        "prompt_sizes": (64, 32, 16),
        "prompt_len": 5,
    },
    "swinir": {
        "embed_dim": 180,
        "depths": (6, 6, 6, 6, 6, 6),
        "num_heads": (6, 6, 6, 6, 6, 6),
        "window_size": 8,
        "mlp_ratio": 2.0,
        "qkv_bias": True,
        "patch_norm": True,
        "resi_connection": "1conv",
    },
}


def backbone_keys(name: str) -> ml_collections.ConfigDict:
    """`config.model` of a published network; `name` is a key of `BACKBONES`."""
    return ml_collections.ConfigDict({"name": name, **BACKBONES[name]})


def parse_preset(arg: str, *, backbone: str = "", tasks: str = "") -> tuple[str, str]:
    """Splits the text after the config's colon into (backbone, tasks), with defaults for both.

    Raises:
        ConfigError: for an unknown name, or two of one kind; lists the known ones.
    """
    preset = {}
    for name in filter(None, (part.strip() for part in (arg or "").split(","))):
        kind = "backbone" if name in BACKBONES else "tasks"
        if kind in preset or (kind == "tasks" and not _is_task(name)):
            raise ConfigError(
                f"unknown preset {name!r} in {arg!r}; "
                f"backbones: {', '.join(BACKBONES)}; task sets: {', '.join(TASK_SETS)}; "
                f"classes: {', '.join(task_sets.class_names())}"
                + did_you_mean(name, (*BACKBONES, *TASK_SETS, *task_sets.class_names()))
            )
        preset[kind] = name
    return preset.get("backbone", backbone), preset.get("tasks", tasks)


def _is_task(name: str) -> bool:
    try:
        task_sets.resolve_tasks(name)
    except ValueError:
        return False
    return True
