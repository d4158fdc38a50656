"""The keys of a config, each with its default and what it means."""

from typing import Any

import ml_collections

from dcpt_jax.data import tasks as task_sets
from dcpt_jax.modes import MODES, Mode


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the key and what is allowed."""


# The default network: small enough to learn something in minutes on two CPU cores.
DEMO_BACKBONE = {
    "width": 16,
    "encoder_blocks": (1, 1, 2),
    "middle_blocks": 1,
    "decoder_blocks": (1, 1, 1),
}


def base(mode: str) -> ml_collections.ConfigDict:
    """Every key of a mode, a name in `modes.MODES`, with its default; config files complete it."""
    config = ml_collections.ConfigDict()
    config.mode = mode
    config.seed = 0
    # Your own modules to import first, joined by commas: they register degradations, networks,
    # terms of the loss and data sources (docs/extending.md).
    config.plugins = ""
    # Folder to start from: a work directory of an earlier run or a weights folder. "" = scratch.
    config.init_from = ""
    # A task set, one class or mixture, or several joined by commas: --config.tasks=haze,noise+rain.
    config.tasks = "5d"
    config.batch_size = 16  # over all devices together
    config.dtype = "float32"  # compute type: float32 or bfloat16; parameters stay float32
    # Products of float32 numbers on accelerators: default (TF32 on GPUs, bfloat16 on TPUs), high
    # or highest (float32), the slowest. CPUs always multiply in float32.
    config.matmul_precision = "default"
    config.require_accelerator = False  # stop rather than train on the CPU by mistake

    config.data = ml_collections.ConfigDict()
    config.data.root = ""  # folder of clean photos, searched recursively; "" = bundled photos
    # Folder with public datasets, laid out as in docs/data.md; "" = none.
    config.data.datasets = ""
    # If a class's dataset is missing: True = synthesise the class from the clean photos; False =
    # stop, naming what is missing.
    config.data.stand_ins = True
    # Data of a class; "" = decided by the keys above. Several are joined by ";":
    # photos:DIR  pairs:DEGRADED_DIR,CLEAN_DIR[,RULE]  list:FILE  tfds:NAME[/CONFIG][:SPLIT]
    # packed:DIR  DATASET:DIR, e.g. --config.data.sources.rain=rain100l:/data/Rain100L
    config.data.sources = _by_class("")
    config.data.crop_size = 64  # pixels
    config.data.num_workers = 1  # processes beside the training process; 0 = threads only
    config.data.on_bad_file = "skip"  # skip: name, count, go on; refuse: stop at the first
    config.data.max_pixels = 100_000_000  # width times height; larger images count as bad
    # Pixels with another colour profile than sRGB: srgb = convert to sRGB; as_is = leave them.
    config.data.colour = "srgb"
    config.data.cache_megabytes = 512  # decoded photos kept in memory, per process

    if MODES[mode].trains:
        _add_training(config, MODES[mode])
    else:
        _add_evaluation(config)
    return config


def _add_training(config: ml_collections.ConfigDict, mode: Mode) -> None:
    """The keys of every training run, then those that only some modes have."""
    # Backbone whose published values these are; init_from must hold such a network. "" = none.
    config.recipe = ""
    # Work directory, or one of its checkpoints (W/checkpoints/5000), whose run is continued here,
    # with step, optimiser and position in the data. Ignored once this directory has a checkpoint.
    config.resume_from = ""
    # How often each photo or pair of a class is used in a pass over all classes; 0 = by the rules
    # of docs/data.md. Mixtures can be named too: --config.repeats.low_light+haze=3.
    config.repeats = _by_class(0)
    # The same if all classes are synthesised from the same photos; 1 for classes not given.
    config.synthetic_repeats = ml_collections.ConfigDict()
    config.num_steps = 300
    # Progressive training: STEP:CROPxBATCH for each later phase, joined by commas, such as
    # 92000:160x40,156000:192x32. Until then data.crop_size and batch_size apply. "" = one phase.
    config.progressive = ""
    # Parts into which a batch is split to save memory; the result is that of the whole batch
    # within rounding. They must divide the batch of each device.
    config.accumulate_steps = 1
    # Devices that share one copy of parameters, optimiser and moving average, each holding a part;
    # it must divide their number. 1 = a copy on every device; -1 = one copy on all of them.
    config.fsdp_devices = 1
    # Recompute the inside of each block in the backward pass instead of keeping it: less memory,
    # the same result within rounding.
    config.remat = False
    config.ema_decay = 0.0  # of the moving average of what is trained; 0 = none

    config.model = ml_collections.ConfigDict({"name": "nafnet", **DEMO_BACKBONE})
    config.classifier = ml_collections.ConfigDict({"num_blocks": 1})
    if not mode.needs_network:
        # Initialise the output layer with zeros, so that an untrained network returns its input.
        config.identity_start = True
    for key in mode.loss_keys:
        config[key] = LOSS[key]
    if mode.classifies:
        # What the classifier learns: "flat", which of the classes it is, where a mixture is a
        # class of its own (softmax); "multi_hot", which single degradations there are, whatever
        # the mixture (a sigmoid for each).
        config.label = "flat"
        # Folder whose classifier is trained further. "" = that of init_from, if any; or "scratch".
        config.classifier_from = ""
    if mode.is_guided:
        config.classifier_from = ""  # folder of the classifier that guides; "" = init_from
    if mode.masks:
        config.reconstruction = ml_collections.ConfigDict({"width": 32})  # channels of the head
    for part in mode.learns:
        config[OPTIMIZERS[part]] = _optimizer()

    # During training, measure the weights (their moving average if there is one) on crops of
    # photos that are not trained on: PSNR and SSIM, or classification accuracy.
    config.validation = ml_collections.ConfigDict()
    config.validation.every_steps = 100  # 0 = never; a checkpoint is written each time
    config.validation.photos_per_class = 32  # evenly spread over all; 0 = all
    config.validation.crops_per_photo = 1  # of the size of data.crop_size, from a regular grid
    # Metric that selects the best checkpoint: psnr, ssim or accuracy. "" = psnr if the stage
    # restores, else accuracy.
    config.validation.metric = ""
    # Folder of clean photos to degrade; "" = bundled ones that are never trained on. Public
    # datasets have test data of their own.
    config.validation.root = ""
    # Validation data of a class, in the form of data.sources; "" = decided by the keys above.
    config.validation.sources = _by_class("")

    config.log = ml_collections.ConfigDict()
    config.log.every_steps = 20
    config.log.image_every_steps = 200  # 0 = none

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 200
    config.checkpoint.keep = 2  # the newest ones
    config.checkpoint.keep_best = 1  # in addition, the best by validation.metric
    config.checkpoint.allow_config_change = False  # continue a work directory of another config


# Keys of the loss; `modes.MODES` says which mode has which.
LOSS: dict[str, Any] = {
    # Weights of the pixels' L1 and of the classification; 0 leaves a term out.
    "pixel_weight": 1.0,
    "class_weight": 1.0,
    "focal_gamma": 2.0,  # exponent of the focal loss; 0 = cross-entropy
    # Input of the network for the pixel loss: clean images, or degraded ones ("direct").
    "first_pass": "clean",
    "mask_ratio": 0.5,  # share of the patches that are hidden from the network
    # Height and width of the patches, in pixels: a multiple of what the network pads sizes to.
    "mask_patch": 16,
    # Weight of the L1 of the Fourier transforms beside that of the pixels, 0 as published; others
    # add it with 0.1 (MIMO-UNet, 2021).
    "fft_weight": 0.0,
    # Further terms of the loss on restored images, with their weights: NAME:WEIGHT, joined by
    # commas: psnr:0.01, or what a plugin registers.
    "loss_terms": "",
    "guidance": 1.0,  # weight of the classification; 0 = none, plain restoration training
}

# The key of each part's optimizer.
OPTIMIZERS = {
    "network": "optimizer",
    "classifier": "classifier_optimizer",
    "reconstruction": "reconstruction_optimizer",
}


def _optimizer() -> ml_collections.ConfigDict:
    """AdamW."""
    config = ml_collections.ConfigDict()
    config.learning_rate = 3e-4
    # "cosine", or "constant", which ignores min_learning_rate and decay_steps.
    config.schedule = "cosine"
    config.min_learning_rate = 1e-6
    config.warmup_steps = 0
    config.decay_steps = 0  # length of the cosine; 0 = config.num_steps
    config.b1 = 0.9
    config.b2 = 0.999
    config.weight_decay = 0.0
    config.clip_norm = 0.0  # global gradient norm; 0 = no clipping
    return config


def _add_evaluation(config: ml_collections.ConfigDict) -> None:
    """The keys of an evaluation. `data.crop_size = 0` stands for whole images, one at a time."""
    config.data.crops_per_photo = 6
    # For PSNR and SSIM: "uint8" as published for 5d and 10d, "none" as published for mixtures.
    config.rounding = "uint8"
    # For PSNR and SSIM: "rgb" as in DCPT, or "y", the luma, as in many tables for rain.
    config.channel = "rgb"
    # Folder whose classifier is measured. "" = that of init_from or of its ancestors.
    config.classifier_from = ""
    # Measure classical methods (non-local means, CLAHE, ...) on the same samples, too. Takes
    # about 0.3 s of CPU time for a crop of 192x192 pixels.
    config.baselines = False
    # New or empty folder for the degraded, restored and clean images of all samples, PNG files by
    # class, on which other programs can compute their metrics. "" = none.
    config.save_images = ""
    # NAFNet's test-time local converter at the size of the training crops. It may help or harm;
    # the published 5d and 10d results do not use it.
    config.local_pooling = False


def _by_class(default: Any) -> ml_collections.ConfigDict:
    """A value for each single class; others, "noise:12.5" too, can be added."""
    classes = dict.fromkeys(task_sets.class_names(), default)
    return ml_collections.ConfigDict(classes, allow_dotted_keys=True)
