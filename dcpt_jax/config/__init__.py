"""Configurations: keys with defaults, presets, and the checks before a run starts.

A file in `configs/` is a recipe: it states every value that differs from the defaults of `base`.
The name after the colon of `--config=configs/pretrain.py:nafnet,5d` selects a preset: a backbone,
and a task set or a single class.
"""

from dcpt_jax import extras

with extras.needed("train", "dcpt_jax.config"):
    from dcpt_jax.config.checks import (
        differences,
        labels_of,
        phases_of,
        repeats_of,
        tasks_of,
        to_json,
        validate,
        validate_data,
        validation_metrics,
    )
    from dcpt_jax.config.keys import ConfigError, base
    from dcpt_jax.config.presets import BACKBONES, backbone_keys, parse_preset
    from dcpt_jax.config.recipes import load, locate, summaries

__all__ = [
    "BACKBONES",
    "ConfigError",
    "backbone_keys",
    "base",
    "differences",
    "labels_of",
    "load",
    "locate",
    "parse_preset",
    "phases_of",
    "repeats_of",
    "summaries",
    "tasks_of",
    "to_json",
    "validate",
    "validate_data",
    "validation_metrics",
]
