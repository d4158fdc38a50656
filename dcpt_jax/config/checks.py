"""Checks of a config, and its comparison with the config of an earlier run."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from dcpt_jax import plugins
from dcpt_jax.config.keys import OPTIMIZERS, ConfigError
from dcpt_jax.config.presets import BACKBONES
from dcpt_jax.data import phases, spec
from dcpt_jax.data import tasks as task_sets
from dcpt_jax.labels import FLAT, KINDS, Labels
from dcpt_jax.modes import MODES
from dcpt_jax.suggestions import did_you_mean

_LARGEST = 2**31 - 1  # largest integer: JAX counts steps in 32 bits
_LARGEST_OF = {
    "data.max_pixels": 2**53,
    "seed": 2**32 - 1,
    "data.num_workers": 1000,
    # Larger ones would take all memory, or forever, before they fail.
    "data.crop_size": 2**14,
    "batch_size": 2**20,
    "model.": 2**16,
    "classifier.": 2**16,
}
SCRATCH = "scratch"  # value of config.classifier_from: start with an untrained classifier
_SMALLEST_CROP = 16  # smallest crop that all classifiers can halve
# Sections whose keys are class names, with the type of their values; 0 and "" mean "not set".
CLASS_SECTIONS: dict[str, type] = {
    "repeats": int,
    "synthetic_repeats": int,
    "data.sources": str,
    "validation.sources": str,
}


def tasks_of(config: ml_collections.ConfigDict) -> tuple[task_sets.Task, ...]:
    """The classes of a config with its repeats, and with the published samples of its recipe."""
    try:
        tasks = task_sets.resolve_tasks(config.tasks)
    except ValueError as error:
        raise ConfigError(f"config.tasks: {error}") from error
    synthetic = config.get("synthetic_repeats") or {}
    return tuple(
        dataclasses.replace(
            task,
            repeats=synthetic.get(task.name) or task.repeats,
            samples=task_sets.published_samples(
                task, config.get("recipe", ""), masked=MODES[config.mode].masks
            ),
        )
        for task in tasks
    )


def repeats_of(config: ml_collections.ConfigDict) -> dict[str, int]:
    """The repeats set by a config, by class name; without classes that are not set."""
    return {name: count for name, count in (config.get("repeats") or {}).items() if count}


def labels_of(config: ml_collections.ConfigDict) -> Labels:
    """The labels, of the kind `config.label`, of a classifier of the config's classes."""
    return Labels.of_tasks(tasks_of(config), config.get("label", FLAT))


def phases_of(config: ml_collections.ConfigDict) -> tuple[phases.Phase, ...]:
    """The phases of a training run; a single one unless `config.progressive` is set."""
    sizes = {"crop_size": config.data.crop_size, "batch_size": config.batch_size}
    try:
        return phases.parse(config.progressive, **sizes)
    except ValueError as error:
        raise ConfigError(f"config.progressive: {error}") from error


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks a config before any computation.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    validate_data(config)
    _known("dtype", config.dtype, ("float32", "bfloat16"))
    _known("matmul_precision", config.matmul_precision, ("default", "high", "highest"))
    _at_least("batch_size", config.batch_size, 1)
    _at_least("seed", config.seed, 0)
    mode = MODES[config.mode]
    if not mode.trains:
        if not config.init_from:
            raise ConfigError("no weights to evaluate: set --config.init_from to a work directory")
        return
    if "label" in config:
        _known("label", config.label, KINDS)
    _check_two_classes(config)
    if mode.needs_network and not (config.init_from or config.resume_from):
        raise ConfigError(
            f"{mode.name} needs a trained network: set --config.init_from to a work directory or "
            "a weights folder"
        )
    if not config.plugins:  # plugins may register a network of that name
        _known("model.name", config.model.name, tuple(BACKBONES))
    _known("recipe", config.recipe, ("", *BACKBONES))
    _at_least("num_steps", config.num_steps, 1)
    _at_least("accumulate_steps", config.accumulate_steps, 1)
    if config.fsdp_devices != -1:
        _at_least("fsdp_devices", config.fsdp_devices, 1)
    _at_least("log.every_steps", config.log.every_steps, 1)
    _at_least("log.image_every_steps", config.log.image_every_steps, 0)
    _at_least("checkpoint.every_steps", config.checkpoint.every_steps, 1)
    _at_least("checkpoint.keep", config.checkpoint.keep, 1)
    _at_least("checkpoint.keep_best", config.checkpoint.keep_best, 0)
    _validate_validation(config)
    _at_least("classifier.num_blocks", config.classifier.num_blocks, 1)
    if not 0 <= config.ema_decay < 1:
        raise ConfigError(f"config.ema_decay is {config.ema_decay}; it must be in [0, 1)")
    for name in OPTIMIZERS.values():
        if name in config:
            _validate_optimizer(name, config[name])
    for name in ("focal_gamma", "guidance"):
        if name in config:
            _at_least(name, config[name], 0)
    if "fft_weight" in config:
        _at_least("fft_weight", config.fft_weight, 0)
    if "pixel_weight" in config:
        _check_loss_weights(config)
    if "first_pass" in config:
        _known("first_pass", config.first_pass, ("clean", "degraded"))
    if mode.masks:
        _check_mask(config)
    _check_later_phases(config)
    if config.get("guidance") and config.classifier_from == SCRATCH:
        raise ConfigError(
            "config.classifier_from is scratch, but guidance needs a trained classifier; set it to "
            "a work directory or weights folder with one, or set --config.guidance=0"
        )


def _validate_validation(config: ml_collections.ConfigDict) -> None:
    for key in ("every_steps", "photos_per_class"):
        _at_least(f"validation.{key}", config.validation[key], 0)
    _at_least("validation.crops_per_photo", config.validation.crops_per_photo, 1)
    known = validation_metrics(config)
    _known("validation.metric", config.validation.metric, ("", *known))


def validation_metrics(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The metrics of a validation; the first one selects the best checkpoint."""
    mode = MODES[config.mode]
    restores = mode.restores or config.get("first_pass") == "degraded"
    return (*(("psnr", "ssim") if restores else ()), *(("accuracy",) if mode.classifies else ()))


def validate_data(config: ml_collections.ConfigDict) -> None:
    """Checks the data section and the keys that belong to it.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    _check_numbers(config)
    _known("mode", config.mode, tuple(MODES))
    plugins.load(config.plugins)
    trains = MODES[config.mode].trains
    _known("data.on_bad_file", config.data.on_bad_file, ("skip", "refuse"))
    _known("data.colour", config.data.colour, ("srgb", "as_is"))
    _at_least("data.max_pixels", config.data.max_pixels, 1)
    _check_class_sections(config)
    if config.data.crop_size or trains:  # 0 in an evaluation = whole images
        _at_least("data.crop_size", config.data.crop_size, _SMALLEST_CROP)
    _check_sources(config)
    if config.data.datasets and not os.path.isdir(config.data.datasets):
        raise ConfigError(f"config.data.datasets: no such folder: {config.data.datasets}")
    _at_least("data.num_workers", config.data.num_workers, 0)
    _at_least("data.cache_megabytes", config.data.cache_megabytes, 0)
    if config.tasks or trains:
        tasks_of(config)
    if not trains:
        _at_least("data.crops_per_photo", config.data.crops_per_photo, 1)
        _known("rounding", config.rounding, ("uint8", "none"))
        _known("channel", config.channel, ("rgb", "y"))
        _check_save_images(config.save_images)


def _check_numbers(section: ml_collections.ConfigDict, prefix: str = "") -> None:
    """Raises ConfigError for a number in any key that is too large or not finite."""
    for name, value in section.items():
        key = prefix + name
        most = _LARGEST_OF.get(key, _LARGEST_OF.get(prefix, _LARGEST))
        numbers = value if isinstance(value, tuple) else (value,)
        if isinstance(value, ml_collections.ConfigDict):
            _check_numbers(value, f"{key}.")
        elif any(isinstance(number, int) and abs(number) > most for number in numbers):
            raise ConfigError(f"config.{key} is {value}; it must be at most {most}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"config.{key} is {value}; it must be a finite number")


def _check_save_images(folder: str) -> None:
    """Raises ConfigError if the images of a run would be mixed with other files."""
    if folder and os.path.exists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
        raise ConfigError(
            f"config.save_images: {folder} exists and is not an empty folder; choose a new folder, "
            "as other programs would include the existing files in their metrics"
        )


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as plain JSON values; tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(config)


# Keys that change only logging, data loading or memory use, and not what is computed (within
# rounding).
_OPERATIONAL = ("log.", "checkpoint.", "validation.", "resume_from", "data.num_workers",
                "data.cache_megabytes", "require_accelerator", "num_steps", "remat",
                "accumulate_steps", "fsdp_devices")  # fmt: skip


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Lines "key: saved -> current" for differences that make it another training run.

    The number of steps may grow if the learning rate does not depend on it. It therefore counts
    only through `decay_steps` of the optimizers, which is 0 if the cosine spans all steps.
    """
    saved, current = _comparable(saved), _comparable(current)
    a, b = _flatten(saved), _flatten(current)
    keys = [key for key in sorted({*a, *b}) if not key.startswith(_OPERATIONAL)]
    if any(
        config[name]["schedule"] == "cosine" and not config[name].get("decay_steps")
        for config in (saved, current)
        for name in OPTIMIZERS.values()
        if name in config
    ):
        keys.append("num_steps")
    missing = "(not set)"
    return [
        f"config.{key}: {a.get(key, missing)!r} -> {b.get(key, missing)!r}"
        for key in keys
        if a.get(key, missing) != b.get(key, missing)
    ]


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without unset classes and without keys that a constant learning rate ignores."""
    config = dict(config)
    for section, entries in list(_class_sections(config)):
        *parents, last = section.split(".")
        parent = config
        for part in parents:
            parent[part] = parent = dict(parent[part])
        parent[last] = {name: value for name, value in entries.items() if value}
    for name in OPTIMIZERS.values():
        if name in config:
            settings = dict(config[name])
            if settings["schedule"] == "constant":
                settings.pop("min_learning_rate", None)
                settings.pop("decay_steps", None)
            config[name] = settings
    return config


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _known(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        names = ", ".join(name or '""' for name in known)
        raise ConfigError(f"config.{key} is {value!r}; known: {names}{did_you_mean(value, known)}")


def _at_least(key: str, value: float, low: float) -> None:
    if value < low:
        raise ConfigError(f"config.{key} is {value}; it must be {low} or larger")


def _check_loss_weights(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError unless the loss weights are valid and one of them is above 0."""
    for key in ("pixel_weight", "class_weight"):
        _at_least(key, config[key], 0)
    if not config.pixel_weight and not config.class_weight:
        raise ConfigError(
            "config.pixel_weight and config.class_weight are both 0; at least one of them must be "
            "above 0"
        )


def _check_mask(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError unless the mask's patches fit the crops and some of them stay visible."""
    _at_least("mask_patch", config.mask_patch, 1)
    _at_least("reconstruction.width", config.reconstruction.width, 1)
    crop, patch, ratio = config.data.crop_size, config.mask_patch, config.mask_ratio
    if crop % patch:
        raise ConfigError(
            f"config.mask_patch is {patch}; it must divide config.data.crop_size, {crop}"
        )
    count = (crop // patch) ** 2
    if not 0 <= ratio < 1 or not round((1 - ratio) * count):
        raise ConfigError(
            f"config.mask_ratio is {ratio}; it must be in [0, 1), and at least one of the {count} "
            f"patches of a crop ({crop} pixels, patches of {patch}) must stay visible"
        )


def _check_later_phases(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError if a later phase has a size that the first phase may not have."""
    for first_step, crop_size, batch_size in phases_of(config)[1:]:
        phase = config.copy_and_resolve_references()
        phase.data.crop_size, phase.batch_size = crop_size, batch_size
        try:
            _check_numbers(phase)
            _at_least("batch_size", batch_size, 1)
            _at_least("data.crop_size", crop_size, _SMALLEST_CROP)
            if MODES[config.mode].masks:
                _check_mask(phase)
        except ConfigError as error:
            raise ConfigError(f"config.progressive, from step {first_step}: {error}") from error


def _check_two_classes(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError if a classifier would have a single class, and so always be correct."""
    if MODES[config.mode].classifies and len(tasks_of(config)) < 2:
        raise ConfigError(
            f"config.tasks is {config.tasks!r}, a single class; a classifier needs at least two, "
            "e.g. --config.tasks=5d or --config.tasks=haze,rain"
        )
    labels = labels_of(config)
    if not labels.multi_hot:
        return
    rows = labels.rows(tasks_of(config))
    if (rows == rows[0]).all():
        raise ConfigError(
            f"config.tasks is {config.tasks!r}: all classes have the same multi-hot label, "
            f"{', '.join(labels.names)}; choose different ones, e.g. "
            "--config.tasks=low_light,haze,low_light+haze or --config.tasks=clean,haze, or set "
            "--config.label=flat"
        )


def _check_class_sections(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError if a key that must be a class name is not, or repeats are negative."""
    for section, entries in _class_sections(config):
        for name, value in entries.items():
            if task_sets.class_named(name) != name:
                raise ConfigError(
                    f"config.{section}.{name}: {name!r} is not a class; classes: "
                    f"{', '.join(task_sets.class_names())}, and mixtures of them such as "
                    "low_light+haze"
                )
            if CLASS_SECTIONS[section] is int:
                _at_least(f"{section}.{name}", value, 0)
    classes = {task.name for task in tasks_of(config)} if repeats_of(config) else set()
    for name, count in repeats_of(config).items():
        if name not in classes:
            raise ConfigError(
                f"config.repeats.{name} is {count}, but the run has no such class; its classes: "
                f"{', '.join(sorted(classes))}"
            )


def _check_sources(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError for invalid sources of data."""
    for section, entries in _class_sections(config):
        for name, text in entries.items() if CLASS_SECTIONS[section] is str else ():
            if text:
                try:
                    spec.parse(text)
                except ValueError as error:
                    raise ConfigError(f"config.{section}.{name}: {error}") from error


def _class_sections(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, content) of the `CLASS_SECTIONS` in a config."""
    for section in CLASS_SECTIONS:
        entries = config
        for part in section.split("."):
            entries = entries.get(part) if entries else None
        if entries is not None:
            yield section, entries


def _validate_optimizer(name: str, config: ml_collections.ConfigDict) -> None:
    if not config.learning_rate > 0:
        raise ConfigError(f"config.{name}.learning_rate is {config.learning_rate}; it must be > 0")
    _known(f"{name}.schedule", config.schedule, ("cosine", "constant"))
    if config.schedule == "cosine" and not 0 <= config.min_learning_rate <= config.learning_rate:
        raise ConfigError(
            f"config.{name}.min_learning_rate is {config.min_learning_rate}; "
            f"it must be in [0, learning_rate = {config.learning_rate}]"
        )
    for key in ("b1", "b2"):
        if not 0 <= config[key] < 1:
            raise ConfigError(f"config.{name}.{key} is {config[key]}; it must be in [0, 1)")
    for key in ("warmup_steps", "decay_steps", "weight_decay", "clip_norm"):
        _at_least(f"{name}.{key}", config[key], 0)
