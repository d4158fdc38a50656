"""The config of each mode: its demo, and with a preset the published recipe."""

import ml_collections

from dcpt_jax.config.checks import ConfigError
from dcpt_jax.config.keys import base, optimizer_keys
from dcpt_jax.config.recipes import (
    BACKBONES,
    ORIGINAL_RESTORMER,
    PRETRAINING,
    restoration,
)
from dcpt_jax.data import tasks as task_sets


def pretrain(arg: str = "") -> ml_collections.ConfigDict:
    """DCPT pre-training: the demo, or with `arg` the recipe of the paper.

    The figures are those published for 5d; no others are for 10d and cdd11, which get the same.
    Classes that are all synthesised from the same photos are drawn equally often; published data
    get their published shares. `config.repeats` sets others.

    Args:
        arg: "" or "backbone", "set", "backbone,set".

    Raises:
        ConfigError: if `arg` holds an unknown name; the message lists the known ones.
    """
    config = base("pretrain")
    # What the network is shown for its own loss: clean images, or degraded ones ("direct").
    config.first_pass = "clean"
    # What the classifier learns: "flat", which of the classes it is, where a mixture is a class of
    # its own (softmax); "multi_hot", which single degradations there are, whatever the mixture
    # (a sigmoid for each).
    config.label = "flat"
    # Folder whose classifier is trained on. "" = that of init_from if it holds one; "scratch".
    config.classifier_from = ""
    # Weights of the two terms of the loss, the pixels' L1 and the classification; 0 leaves one out.
    config.pixel_weight = 1.0
    config.class_weight = 1.0
    config.focal_gamma = 2.0
    config.optimizer.learning_rate = 1e-3
    config.classifier_optimizer = optimizer_keys(learning_rate=1e-3, weight_decay=1e-4)
    if arg:
        recipe = PRETRAINING[_apply_preset(config, arg)]
        config.num_steps = 100_000
        config.batch_size = recipe["batch_size"]
        config.optimizer.update(learning_rate=recipe["learning_rate"], decay_steps=1_000_000)
        config.classifier_optimizer.update(
            learning_rate=recipe["classifier_learning_rate"], decay_steps=1_000_000
        )
    return config


def direct(arg: str = "") -> ml_collections.ConfigDict:
    """DCPT pre-training that restores in its first pass ("direct"); all else is `pretrain`.

    Args:
        arg: as for `pretrain`.

    Raises:
        ConfigError: as for `pretrain`.
    """
    config = pretrain(arg)
    config.first_pass = "degraded"
    return config


def mask_pretrain(arg: str = "") -> ml_collections.ConfigDict:
    """MaskDCPT pre-training, from partly hidden images: the demo, or with `arg` the recipe.

    The figures are those that MaskDCPT (2025) publishes for 5d and all backbones; other sets get
    the same. Published data are those of the fine-tuning, with repeats of its own for 5d: haze 1,
    rain 300, noise 15, motion blur 5, low light 60.

    Args:
        arg: as for `pretrain`.

    Raises:
        ConfigError: as for `pretrain`.
    """
    config = base("mask_pretrain")
    config.mask_ratio = 0.5  # share of the patches that are hidden from the network
    # Height and width of the patches, in pixels: a multiple of what the network pads sizes to.
    config.mask_patch = 16
    config.reconstruction = ml_collections.ConfigDict({"width": 32})  # channels of the head
    config.label = "flat"  # what the classifier learns, see `pretrain`
    # Folder whose classifier is trained on. "" = that of init_from if it holds one; "scratch".
    config.classifier_from = ""
    config.pixel_weight = 1.0  # of the two terms of the loss, see `pretrain`
    config.class_weight = 1.0
    config.focal_gamma = 2.0
    config.optimizer.update(learning_rate=1e-3, schedule="constant")
    config.classifier_optimizer = optimizer_keys(learning_rate=1e-3, schedule="constant")
    config.reconstruction_optimizer = optimizer_keys(learning_rate=1e-3, schedule="constant")
    if arg:
        _apply_preset(config, arg)
        config.data.crop_size = 256
        config.num_steps = 100_000
        config.batch_size = 16
        config.reconstruction.width = 64
        config.optimizer.learning_rate = 3e-4
        config.classifier_optimizer.learning_rate = 1e-4
        config.reconstruction_optimizer.learning_rate = 1e-4
    return config


def restore(arg: str = "") -> ml_collections.ConfigDict:
    """Restoration fine-tuning: the demo, or with `arg` the recipe of the paper.

    Published are the figures of all four backbones for 5d, of NAFNet for 10d (global batch 128, a
    rate of 2.5e-4 falling to 1e-5 over 500,000 steps), and without naming a backbone for mixtures
    (CDD-11: batch 32, 3e-4 falling to 1e-6 over 750,000 steps, from MaskDCPT), which all backbones
    get here. Where nothing is published, for 10d with other backbones and for single classes, the
    backbone's figures for 5d are taken. Clipping and moving average are everywhere those of 5d.

    Args:
        arg: as for `pretrain`.

    Raises:
        ConfigError: as for `pretrain`.
    """
    config = base("restore")
    # Weight of the L1 of the Fourier transforms beside that of the pixels, 0 as published; others
    # add it with 0.1 (MIMO-UNet, 2021).
    config.fft_weight = 0.0
    config.num_steps = 700
    config.ema_decay = 0.99
    # Blurred crops differ least from clean ones, so their share of the loss is the smallest: drawn
    # equally often, blurred photos that the network takes for hazy or dark ones get worse.
    config.synthetic_repeats.motion_blur = 4
    config.optimizer.learning_rate = 2e-3
    config.optimizer.clip_norm = 1.0
    if arg:
        recipe = restoration(_apply_preset(config, arg), config.tasks)
        config.num_steps = recipe.pop("num_steps")
        config.batch_size = recipe.pop("batch_size")
        config.ema_decay = 0.999
        config.optimizer.update(recipe)
    return config


def transfer(arg: str = "") -> ml_collections.ConfigDict:
    """Classifier-guided transfer to another degradation: the demo, or with `arg` the recipe.

    The network is that of `init_from`; the frozen classifier, which has to know the run's classes
    by name, is that of `classifier_from`. The published recipe is of the original Restormer; other
    backbones get the same figures.

    Args:
        arg: as for `pretrain`; without a set or class, the demo and the recipe transfer to rain.

    Raises:
        ConfigError: as for `pretrain`.
    """
    config = base("transfer")
    del config.identity_start
    config.tasks = "rain"
    # Folder of the classifier that guides. "" = that of init_from.
    config.classifier_from = ""
    config.guidance = 1.0  # weight of the classification; 0 = none, plain restoration training
    config.focal_gamma = 0.0  # of the classification; 0 = cross-entropy
    config.fft_weight = 0.0  # of another term of the restoration's loss, see `restore`
    config.ema_decay = 0.99
    config.optimizer.update(learning_rate=1e-3, schedule="constant", clip_norm=1.0)
    if arg:
        backbone = _apply_preset(config, arg, default_backbone="restormer", default_tasks="rain")
        if backbone == "restormer":
            config.model.update(ORIGINAL_RESTORMER)
        config.num_steps = 100_000
        config.batch_size = 32
        config.ema_decay = 0.999
        config.optimizer.update(learning_rate=3e-4, weight_decay=1e-4, clip_norm=0.01)
    return config


def classify(arg: str = "") -> ml_collections.ConfigDict:
    """Classifier alone, on the features of the frozen network of `init_from`.

    With `arg` the classifier's figures are those of the pre-training of that backbone, and its
    moving average has the decay of the fine-tuning; no others are published.

    Args:
        arg: as for `pretrain`.

    Raises:
        ConfigError: as for `pretrain`.
    """
    config = base("classify")
    del config.identity_start, config.optimizer
    # Folder whose classifier is trained on. "" = that of init_from if it holds one; "scratch".
    config.classifier_from = ""
    config.label = "flat"  # what the classifier learns, see `pretrain`
    config.focal_gamma = 2.0
    config.ema_decay = 0.99
    config.classifier_optimizer = optimizer_keys(learning_rate=1e-3, weight_decay=1e-4)
    if arg:
        recipe = PRETRAINING[_apply_preset(config, arg)]
        config.num_steps = 100_000
        config.batch_size = recipe["batch_size"]
        config.ema_decay = 0.999
        config.classifier_optimizer.update(
            learning_rate=recipe["classifier_learning_rate"], decay_steps=1_000_000
        )
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
        "recipe",
        "repeats",
        "synthetic_repeats",
        "model",
        "classifier",
        "optimizer",
        "num_steps",
        "accumulate_steps",
        "fsdp_devices",
        "remat",
        "ema_decay",
        "identity_start",
        "checkpoint",
        "log",
        "validation",
        "resume_from",
    ):
        del config[key]
    config.tasks = tasks or ""  # "" = those of the weights
    config.batch_size = 4
    # Pixels; 0 = whole images, one at a time, as in published tables.
    config.data.crop_size = 192
    config.data.crops_per_photo = 6
    # Of PSNR and SSIM: "uint8" as published for 5d and 10d, "none" as published for mixtures.
    config.rounding = "uint8"
    # Of PSNR and SSIM: "rgb" as published here, or "y", the luma, as many tables of rain have it.
    config.channel = "rgb"
    # Folder whose classifier is measured. "" = that of init_from, or of what init_from grew from.
    config.classifier_from = ""
    # Measure classical methods (non-local means, CLAHE, ...) on the same samples, too. Takes
    # about 0.3 s of CPU time for a crop of 192x192 pixels.
    config.baselines = False
    # New or empty folder for the degraded, restored and clean images of all samples, PNG files by
    # class, on which other programs can compute their metrics. "" = none.
    config.save_images = ""
    # NAFNet's test-time local converter at the size of the training crops. It may help or harm, and
    # the published 5d and 10d results do not use it.
    config.local_pooling = False
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


def _apply_preset(
    config: ml_collections.ConfigDict,
    arg: str,
    *,
    default_backbone: str = "nafnet",
    default_tasks: str = "5d",
) -> str:
    """Sets what the recipes of all modes share; returns the backbone's name."""
    backbone, tasks = parse_preset(arg)
    name = backbone or default_backbone
    config.recipe = name
    config.model = ml_collections.ConfigDict({"name": name, **BACKBONES[name]})
    config.classifier.num_blocks = 2
    if "identity_start" in config:
        config.identity_start = False
    config.synthetic_repeats = ml_collections.ConfigDict()
    config.tasks = tasks or default_tasks
    config.data.crop_size = 128
    config.data.num_workers = 8
    config.data.cache_megabytes = 2048
    config.log.update(every_steps=100, image_every_steps=5000)
    config.validation.every_steps = 5000
    config.checkpoint.update(every_steps=5000, keep=3)
    return name


def _is_task(name: str) -> bool:
    try:
        task_sets.resolve_tasks(name)
    except ValueError:
        return False
    return True
