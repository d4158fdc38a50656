"""Presets: the published networks, and the name after the colon of `--config=FILE:PRESET`."""

from typing import Any

import ml_collections

from dcpt_jax.config.keys import ConfigError
from dcpt_jax.data import tasks as task_sets
from dcpt_jax.data.tasks import TASK_SETS, Task
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


# Samples in a pre-training pass on 5d, by class, where they differ from NAFNet's in the task set.
_MORE_SAMPLES = {"low_light": 1_383 * 50, "motion_blur": 16_824 * 5}


# Samples of MaskDCPT's pre-training on 5d, the same for all backbones: the fine-tuning data with
# repeats of its own (MaskDCPT, 2025).
_MASKED_SAMPLES = {
    "rain": 200 * 300,
    "noise": 85_443 * 15,
    "haze": 72_135,
    "low_light": 485 * 60,
    "motion_blur": 16_824 * 5,
}


def published_samples(task: Task, recipe: str, *, masked: bool = False) -> tuple[int, int]:
    """Published number of samples of a class in a pass of (pre-training, restoration).

    Args:
        task: the class; only classes of 5d differ between backbones.
        recipe: the backbone, or "" for NAFNet.
        masked: for the masked pre-training, which uses the data of the restoration: the second
            number is then that of the pre-training. Only those of 5d are published; for other
            classes it stays that of the restoration.
    """
    before, after = task.samples
    of_5d = any(
        (task.name, task.samples) == (other.name, other.samples) for other in TASK_SETS["5d"]
    )
    if of_5d and recipe not in ("", "nafnet"):
        before = _MORE_SAMPLES.get(task.name, before)
    if of_5d and masked:
        after = _MASKED_SAMPLES[task.name]
    return before, after
