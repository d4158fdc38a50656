"""Configurations: the demo, the published recipes, and the checks before a run starts.

A file in `configs/` states what differs from `base`; every key has a default here. The name after
the colon of `--config=configs/pretrain.py:nafnet,5d` selects presets: a backbone, and a task set or
a single class.
"""

from dcpt_jax import extras

with extras.needed("train", "dcpt_jax.config"):
    from dcpt_jax.config.checks import (
        MODES,
        ConfigError,
        differences,
        outputs_of,
        repeats_of,
        tasks_of,
        to_json,
        validate,
        validate_data,
        validation_metrics,
    )
    from dcpt_jax.config.class_flags import set_class_flags, take_class_flags
    from dcpt_jax.config.keys import base
    from dcpt_jax.config.modes import (
        classify,
        direct,
        evaluate,
        mask_pretrain,
        parse_preset,
        pretrain,
        restore,
        transfer,
    )
    from dcpt_jax.config.recipes import BACKBONES, DEMO_BACKBONE

__all__ = [
    "BACKBONES",
    "DEMO_BACKBONE",
    "MODES",
    "ConfigError",
    "base",
    "classify",
    "differences",
    "direct",
    "evaluate",
    "mask_pretrain",
    "outputs_of",
    "parse_preset",
    "pretrain",
    "repeats_of",
    "restore",
    "set_class_flags",
    "take_class_flags",
    "tasks_of",
    "to_json",
    "transfer",
    "validate",
    "validate_data",
    "validation_metrics",
]
