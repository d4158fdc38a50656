"""The figures of the published runs (DCPT, appendix; its released training options)."""

from typing import Any

from dcpt_jax.data.tasks import TASK_SETS, Task

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

# The transfer experiments start from Restormers of the original publication.
ORIGINAL_RESTORMER = {"norm": "with_bias", "attention": "softmax"}

# Small enough to learn something in minutes on two CPU cores.
DEMO_BACKBONE = {
    "width": 16,
    "encoder_blocks": (1, 1, 2),
    "middle_blocks": 1,
    "decoder_blocks": (1, 1, 1),
}

# Global batch, and the learning rates of network and classifier.
_SMALLER_BATCH = {"batch_size": 16, "learning_rate": 2e-4, "classifier_learning_rate": 5e-5}
PRETRAINING: dict[str, dict[str, Any]] = {
    "nafnet": {"batch_size": 32, "learning_rate": 3e-4, "classifier_learning_rate": 1e-4},
    "restormer": _SMALLER_BATCH,
    "promptir": _SMALLER_BATCH,
    "swinir": _SMALLER_BATCH,
}

# Global batch, learning rate, and bound on the gradient norm (0 = none).
_CLIPPED = {"batch_size": 24, "learning_rate": 3e-4, "clip_norm": 0.01}
RESTORATION: dict[str, dict[str, Any]] = {
    "nafnet": _CLIPPED,
    "restormer": _CLIPPED,
    "promptir": _CLIPPED,
    "swinir": {"batch_size": 16, "learning_rate": 1.5e-4, "clip_norm": 0.0},
}

# What the settings of other task sets change of it: CDD-11 as MaskDCPT (2025) states it for all
# backbones; ten degradations as DCPT does for NAFNet alone.
_TEN = {
    "batch_size": 128,
    "num_steps": 500_000,
    "learning_rate": 2.5e-4,
    "min_learning_rate": 1e-5,
    "decay_steps": 500_000,
}
_CDD11 = {
    "batch_size": 32,
    "num_steps": 750_000,
    "learning_rate": 3e-4,
    "min_learning_rate": 1e-6,
    "decay_steps": 750_000,
}
_FIVE = {"num_steps": 750_000, "min_learning_rate": 1e-6, "decay_steps": 1_000_000}


def restoration(backbone: str, tasks: str) -> dict[str, Any]:
    """Figures of the fine-tuning of a backbone on a task set.

    Args:
        backbone: its name.
        tasks: task set or class; without published figures of its own, those of 5d are taken.

    Returns:
        Global batch, steps, learning rate, where its cosine ends and after how many steps, and the
        bound on the gradient norm (0 = none).
    """
    changes: dict[str, Any] = {}
    if tasks == "cdd11":
        changes = _CDD11
    elif (backbone, tasks) == ("nafnet", "10d"):
        changes = _TEN
    return {**_FIVE, **RESTORATION[backbone], **changes}


# Samples in a pass of the pre-training on 5d, by class: those of NAFNet stand in the task set.
_MORE_SAMPLES = {"low_light": 1_383 * 50, "motion_blur": 16_824 * 5}


# Those of its masked pre-training, the same for all backbones: the data of the fine-tuning, times
# its own repeats (MaskDCPT, 2025).
_MASKED_SAMPLES = {
    "rain": 200 * 300,
    "noise": 85_443 * 15,
    "haze": 72_135,
    "low_light": 485 * 60,
    "motion_blur": 16_824 * 5,
}


def published_samples(task: Task, recipe: str, *, masked: bool = False) -> tuple[int, int]:
    """Published samples of a class in a pass of (pre-training, restoration) of a backbone.

    Args:
        task: the class; only classes of 5d differ between backbones.
        recipe: the backbone, or "" for NAFNet.
        masked: for the masked pre-training, which uses the data of the restoration: the second
            number is its own then. None are published but those of 5d; other classes keep those of
            the restoration.
    """
    before, after = task.samples
    of_5d = any((task.name, task.samples) == (one.name, one.samples) for one in TASK_SETS["5d"])
    if of_5d and recipe not in ("", "nafnet"):
        before = _MORE_SAMPLES.get(task.name, before)
    if of_5d and masked:
        after = _MASKED_SAMPLES[task.name]
    return before, after
