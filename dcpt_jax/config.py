"""Configurations: the demo, the published recipes, and the checks before a run starts.

A file in `configs/` states what differs from `base`; every key has a default here. The name after
the colon of `--config=configs/pretrain.py:nafnet,5d` selects presets: a backbone, and a task set or
a single class.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from dcpt_jax.data import tasks as task_sets

MODES = ("pretrain", "restore", "evaluate")

# The paper's networks (DCPT, appendix; MaskDCPT, table of architectures).
BACKBONES: dict[str, dict[str, Any]] = {
    "nafnet": {
        "width": 64,
        "encoder_blocks": (1, 1, 1, 28),
        "middle_blocks": 1,
        "decoder_blocks": (1, 1, 1, 1),
    },
}

# Small enough to learn something in minutes on two CPU cores.
DEMO_BACKBONE = {
    "width": 16,
    "encoder_blocks": (1, 1, 2),
    "middle_blocks": 1,
    "decoder_blocks": (1, 1, 1),
}


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the key and what is allowed."""


def base(mode: str) -> ml_collections.ConfigDict:
    """Every key that the modes share, with its default; the values are those of the small demo.

    Args:
        mode: what the run does, one of `MODES`.

    Returns:
        The config that `pretrain`, `restore` and `evaluate` complete.
    """
    config = ml_collections.ConfigDict()
    config.mode = mode
    config.seed = 0
    # Folder to start from: a work directory of an earlier run or a weights folder. "" = scratch.
    config.init_from = ""
    config.tasks = "5d"  # a task set, one class, or a tuple of classes and mixtures
    # How often a class is drawn in relation to the others; 0 = as the task set says.
    config.repeats = ml_collections.ConfigDict(dict.fromkeys(task_sets.class_names(), 0))
    config.num_steps = 300
    config.batch_size = 16  # over all devices together
    config.dtype = "float32"  # compute type: float32 or bfloat16; parameters stay float32
    config.require_accelerator = False  # stop rather than train on the CPU by mistake
    config.ema_decay = 0.0  # 0 = no moving average of the network
    # Start the output layer at zero, so that an untrained network puts out its input unchanged.
    config.identity_start = True

    config.model = ml_collections.ConfigDict({"name": "nafnet", **DEMO_BACKBONE})
    config.classifier = ml_collections.ConfigDict({"num_blocks": 1})
    config.optimizer = _optimizer()

    config.data = ml_collections.ConfigDict()
    config.data.root = ""  # folder of clean photos, searched recursively; "" = bundled photos
    config.data.crop_size = 64  # pixels
    config.data.num_workers = 1  # processes beside the training process; 0 = threads only
    config.data.on_bad_file = "skip"  # skip: name, count, go on; refuse: stop at the first
    config.data.cache_megabytes = 512  # decoded photos kept in memory, per process

    config.log = ml_collections.ConfigDict()
    config.log.every_steps = 20
    config.log.image_every_steps = 200  # 0 = none

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 200
    config.checkpoint.keep = 2
    config.checkpoint.allow_config_change = False  # continue a work directory of another config
    return config


def pretrain(arg: str = "") -> ml_collections.ConfigDict:
    """DCPT pre-training: the demo, or with `arg` the recipe of the paper.

    The recipes draw all classes equally often: the paper's repeats balance data sets of different
    sizes, and here all classes are synthesised from the same photos. `config.repeats` sets others.

    Args:
        arg: "" or "backbone", "set", "backbone,set".

    Raises:
        ConfigError: if `arg` holds an unknown name; the message lists the known ones.
    """
    config = base("pretrain")
    config.focal_gamma = 2.0
    config.optimizer.learning_rate = 1e-3
    config.classifier_optimizer = _optimizer(learning_rate=1e-3, weight_decay=1e-4)
    if arg:
        _apply_preset(config, arg)
        config.num_steps = 100_000
        config.batch_size = 32
        config.optimizer.update(learning_rate=3e-4, decay_steps=1_000_000)
        config.classifier_optimizer.update(learning_rate=1e-4, decay_steps=1_000_000)
    return config


def restore(arg: str = "") -> ml_collections.ConfigDict:
    """Restoration fine-tuning: the demo, or with `arg` the recipe of the paper.

    Args:
        arg: as for `pretrain`.

    Raises:
        ConfigError: as for `pretrain`.
    """
    config = base("restore")
    config.num_steps = 700
    config.ema_decay = 0.99
    # Blurred crops differ least from clean ones, so their share of the loss is the smallest: drawn
    # equally often, blurred photos that the network takes for hazy or dark ones get worse.
    config.repeats.motion_blur = 3
    config.optimizer.learning_rate = 2e-3
    config.optimizer.clip_norm = 1.0
    if arg:
        _apply_preset(config, arg)
        config.num_steps = 750_000
        config.batch_size = 24
        config.ema_decay = 0.999
        config.optimizer.update(learning_rate=3e-4, decay_steps=1_000_000, clip_norm=0.01)
    return config


def evaluate(arg: str = "") -> ml_collections.ConfigDict:
    """Tables and picture sheet of the weights in `init_from`, on photos held out from training.

    Args:
        arg: "" or a task set or class to evaluate on; "" takes the set the weights were trained on.

    Raises:
        ConfigError: if `arg` is unknown.
    """
    config = base("evaluate")
    backbone, tasks = parse_preset(arg)
    if backbone:
        raise ConfigError(
            f"configs/evaluate.py:{arg}: the network comes from --config.init_from; "
            "only a task set or a class can be named here"
        )
    for key in (
        "model",
        "classifier",
        "optimizer",
        "num_steps",
        "ema_decay",
        "identity_start",
        "checkpoint",
        "log",
    ):
        del config[key]
    config.tasks = tasks or ""  # "" = those of the weights
    config.batch_size = 4
    config.data.crop_size = 192
    config.data.crops_per_photo = 6
    # Folder whose classifier is measured. "" = that of init_from, or of what init_from grew from.
    config.classifier_from = ""
    config.local_pooling = True  # test-time local converter at the size of the training crops
    return config


def parse_preset(arg: str) -> tuple[str, str]:
    """Splits the text after the config's colon into (backbone, tasks), "" where not named.

    Raises:
        ConfigError: for a name that is neither, or two of one kind; lists the known ones.
    """
    backbone = tasks = ""
    for name in filter(None, (part.strip() for part in (arg or "").split(","))):
        if name in BACKBONES and not backbone:
            backbone = name
        elif not tasks and _is_task(name):
            tasks = name
        else:
            raise ConfigError(
                f"unknown preset {name!r} in {arg!r}; "
                f"backbones: {', '.join(BACKBONES)}; task sets: {', '.join(task_sets.TASK_SETS)}; "
                f"classes: {', '.join(task_sets.class_names())}"
            )
    return backbone, tasks


def tasks_of(config: ml_collections.ConfigDict) -> tuple[task_sets.Task, ...]:
    """The classes of a config, with its repeats.

    Raises:
        ConfigError: for unknown classes.
    """
    try:
        tasks = task_sets.resolve_tasks(config.tasks)
    except ValueError as error:
        raise ConfigError(f"config.tasks: {error}") from error
    repeats = config.get("repeats") or {}
    return tuple(
        dataclasses.replace(task, repeats=repeats.get(task.name) or task.repeats) for task in tasks
    )


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks a config before any device work.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    _known("mode", config.mode, MODES)
    _known("dtype", config.dtype, ("float32", "bfloat16"))
    _known("data.on_bad_file", config.data.on_bad_file, ("skip", "refuse"))
    for name, count in (config.get("repeats") or {}).items():
        _at_least(f"repeats.{name}", count, 0)
    _at_least("batch_size", config.batch_size, 1)
    _at_least("data.crop_size", config.data.crop_size, 16)
    _at_least("data.num_workers", config.data.num_workers, 0)
    _at_least("data.cache_megabytes", config.data.cache_megabytes, 0)
    if config.tasks or config.mode != "evaluate":
        tasks_of(config)
    if config.mode == "evaluate":
        _at_least("data.crops_per_photo", config.data.crops_per_photo, 1)
        if not config.init_from:
            raise ConfigError("nothing to evaluate: set --config.init_from to a work directory")
        return
    _known("model.name", config.model.name, tuple(BACKBONES))
    _at_least("num_steps", config.num_steps, 1)
    _at_least("log.every_steps", config.log.every_steps, 1)
    _at_least("log.image_every_steps", config.log.image_every_steps, 0)
    _at_least("checkpoint.every_steps", config.checkpoint.every_steps, 1)
    _at_least("checkpoint.keep", config.checkpoint.keep, 1)
    _at_least("classifier.num_blocks", config.classifier.num_blocks, 1)
    if not 0 <= config.ema_decay < 1:
        raise ConfigError(f"config.ema_decay is {config.ema_decay}; it has to be in [0, 1)")
    for name in ("optimizer", "classifier_optimizer"):
        if name in config:
            _validate_optimizer(name, config[name])
    if config.mode == "pretrain" and config.focal_gamma < 0:
        raise ConfigError(f"config.focal_gamma is {config.focal_gamma}; it has to be 0 or larger")


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as plain JSON values; tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(config)


# Keys that change how a run is watched or fed, never what it computes.
_OPERATIONAL = ("log.", "checkpoint.", "data.num_workers", "data.cache_megabytes",
                "require_accelerator", "num_steps")  # fmt: skip


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Lines "key: saved -> current" for keys whose difference makes another training run.

    The number of steps may grow where the learning rate does not depend on it, so it counts
    through `optimizer.decay_steps`, which is 0 where the schedule follows the number of steps.
    """
    a, b = _flatten(saved), _flatten(current)
    keys = [key for key in sorted({*a, *b}) if not key.startswith(_OPERATIONAL)]
    if any(not config.get("optimizer", {}).get("decay_steps") for config in (saved, current)):
        keys.append("num_steps")
    missing = "(not set)"
    return [
        f"config.{key}: {a.get(key, missing)!r} -> {b.get(key, missing)!r}"
        for key in keys
        if a.get(key, missing) != b.get(key, missing)
    ]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _optimizer(**changes: Any) -> ml_collections.ConfigDict:
    """AdamW with a cosine schedule; the values are those of the paper but for the rate."""
    config = ml_collections.ConfigDict()
    config.learning_rate = 3e-4
    config.min_learning_rate = 1e-6
    config.warmup_steps = 0
    config.decay_steps = 0  # length of the cosine; 0 = config.num_steps
    config.b1 = 0.9
    config.b2 = 0.999
    config.weight_decay = 0.0
    config.clip_norm = 0.0  # global gradient norm; 0 = no clipping
    config.update(changes)
    return config


def _apply_preset(config: ml_collections.ConfigDict, arg: str) -> None:
    backbone, tasks = parse_preset(arg)
    name = backbone or "nafnet"
    config.model = ml_collections.ConfigDict({"name": name, **BACKBONES[name]})
    config.classifier.num_blocks = 2
    config.identity_start = False
    config.repeats.motion_blur = 0
    config.tasks = tasks or "5d"
    config.data.crop_size = 128
    config.data.num_workers = 8
    config.data.cache_megabytes = 2048
    config.log.update(every_steps=100, image_every_steps=5000)
    config.checkpoint.update(every_steps=5000, keep=3)


def _is_task(name: str) -> bool:
    try:
        task_sets.resolve_tasks(name)
    except ValueError:
        return False
    return True


def _known(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"config.{key} is {value!r}; known: {', '.join(known)}")


def _at_least(key: str, value: float, low: float) -> None:
    if value < low:
        raise ConfigError(f"config.{key} is {value}; it has to be {low} or larger")


def _validate_optimizer(name: str, config: ml_collections.ConfigDict) -> None:
    if not config.learning_rate > 0:
        raise ConfigError(
            f"config.{name}.learning_rate is {config.learning_rate}; it has to be > 0"
        )
    if not 0 <= config.min_learning_rate <= config.learning_rate:
        raise ConfigError(
            f"config.{name}.min_learning_rate is {config.min_learning_rate}; "
            f"it has to be in [0, learning_rate = {config.learning_rate}]"
        )
    for key in ("b1", "b2"):
        if not 0 <= config[key] < 1:
            raise ConfigError(f"config.{name}.{key} is {config[key]}; it has to be in [0, 1)")
    for key in ("warmup_steps", "decay_steps", "weight_decay", "clip_norm"):
        _at_least(f"{name}.{key}", config[key], 0)
