"""The keys of a config, with defaults and descriptions."""

from typing import Any

import ml_collections

from dcpt_jax.data import tasks as task_sets
from dcpt_jax.modes import MODES, Mode


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the key and what is allowed."""


# The default network: small enough for a visible effect within minutes on two CPU cores.
DEMO_BACKBONE = {
    "width": 16,
    "encoder_blocks": (1, 1, 2),
    "middle_blocks": 1,
    "decoder_blocks": (1, 1, 1),
}


def base(mode: str) -> ml_collections.ConfigDict:
    """Every key of a mode (a name in `modes.MODES`) with its default; config files complete it."""
    config = ml_collections.ConfigDict()
    config.mode = mode
    config.seed = 0
    # Python modules to import first, joined by commas: they can register degradations, networks,
    # loss terms and data sources (docs/extending.md).
    config.plugins = ""
    # Folder to start from: a work directory of an earlier run or a weights folder. "" = scratch.
    config.init_from = ""
    # A task set, one class or mixture, or several joined by commas: --config.tasks=haze,noise+rain.
    config.tasks = "5d"
    config.batch_size = 16  # over all devices
    config.dtype = "float32"  # compute type: float32 or bfloat16; parameters stay float32
    # Precision of float32 products on accelerators: default (TF32 on GPUs, bfloat16 on TPUs), high
    # or highest (float32), the slowest. CPUs always multiply in float32.
    config.matmul_precision = "default"
    config.require_accelerator = False  # stop instead of training on the CPU by mistake

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
    config.data.num_workers = 1  # worker processes; 0 = threads only
    config.data.on_bad_file = "skip"  # skip: with a warning; refuse: stop at the first bad file
    config.data.max_pixels = 100_000_000  # width times height; larger images count as bad
    # Pixels with a colour profile other than sRGB: srgb = convert to sRGB; as_is = do not convert.
    config.data.colour = "srgb"
    config.data.clip_noise = False  # clip synthetic noise to [0, 1], as MaskDCPT's code; DCPT's: no
    config.data.cache_megabytes = 512  # decoded photos kept in memory, per process

    if MODES[mode].trains:
        _add_training(config, MODES[mode])
    else:
        _add_evaluation(config)
    return config


def _add_training(config: ml_collections.ConfigDict, mode: Mode) -> None:
    """The keys of all training runs, then those of some modes."""
    # Backbone whose published values this config has; init_from must hold such a network. "" =
    # none, and the numbers of samples are those for NAFNet.
    config.recipe = ""
    # Work directory, or one of its checkpoints (W/checkpoints/5000), whose run is continued here,
    # including step, optimiser and data position. Ignored once this directory has a checkpoint.
    config.resume_from = ""
    # Number of times that each photo or pair of a class is used in a pass over all classes; 0 = by
    # the rules in docs/data.md. Also for mixtures: --config.repeats.low_light+haze=3.
    config.repeats = _by_class(0)
    # Repeats if all classes are synthesised from the same photos (0 = the default, 1); otherwise
    # unused.
    config.synthetic_repeats = _by_class(0)
    config.num_steps = 300
    # Progressive training: STEP:CROPxBATCH for each later phase, joined by commas, such as
    # 92000:160x40,156000:192x32. Before the first, data.crop_size and batch_size apply. "" = one
    # phase.
    config.progressive = ""
    # Gradient accumulation: number of parts into which a batch is split to save memory, with the
    # same result within rounding. Must divide the batch per device.
    config.accumulate_steps = 1
    # Number of devices that share one copy of parameters, optimiser and moving average, each
    # holding a part; must divide the number of devices. 1 = a copy on every device; -1 = one copy
    # over all.
    config.fsdp_devices = 1
    # Recompute activations inside each block in the backward pass instead of keeping them: less
    # memory, the same result within rounding.
    config.remat = False
    config.ema_decay = 0.0  # decay of the moving average of the trained parameters; 0 = none

    config.model = ml_collections.ConfigDict({"name": "nafnet", **DEMO_BACKBONE})
    config.classifier = ml_collections.ConfigDict({"num_blocks": 1})
    if not mode.needs_network:
        # Initialise the output layer with zeros, so that an untrained network returns its input.
        config.identity_start = True
    for key in mode.loss_keys:
        config[key] = LOSS[key]
    if mode.classifies:
        # Labels of the classifier: "flat", one class each, mixtures included (softmax);
        # "multi_hot", the single degradations that an image has, in any mixture (a sigmoid for
        # each).
        config.label = "flat"
        # Folder of the classifier to train further. "" = that of init_from, if any; or "scratch".
        config.classifier_from = ""
    if mode.is_guided:
        config.classifier_from = ""  # folder of the guiding classifier; "" = init_from
    if mode.masks:
        config.reconstruction = ml_collections.ConfigDict({"width": 32})  # channels of the decoder
    for part in mode.learns:
        config[OPTIMIZERS[part]] = _optimizer()

    # During training, measure the weights (their moving average if any) on crops of held-out
    # photos: PSNR and SSIM, or classification accuracy.
    config.validation = ml_collections.ConfigDict()
    config.validation.every_steps = 100  # 0 = never; each validation writes a checkpoint
    config.validation.photos_per_class = 32  # evenly spread over all photos; 0 = all
    config.validation.crops_per_photo = 1  # crops of data.crop_size from a regular grid
    # Metric that selects the best checkpoint: psnr, ssim or accuracy. "" = psnr if the stage
    # restores, else accuracy.
    config.validation.metric = ""
    # Folder of clean photos to degrade; "" = held-out bundled photos. Public datasets have their
    # own test data.
    config.validation.root = ""
    # Validation data of a class, with the syntax of data.sources; "" = decided by the keys above.
    config.validation.sources = _by_class("")

    config.log = ml_collections.ConfigDict()
    config.log.every_steps = 20
    config.log.image_every_steps = 200  # 0 = none

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 200
    config.checkpoint.keep = 2  # the newest ones
    config.checkpoint.keep_best = 1  # in addition, the best by validation.metric
    config.checkpoint.allow_config_change = False  # accept a work directory with a different config


# Keys of the loss; `modes.MODES` lists those of each mode.
LOSS: dict[str, Any] = {
    # Weights of the L1 loss of the pixels and of the classification loss; 0 omits a term.
    "pixel_weight": 1.0,
    "class_weight": 1.0,
    "focal_gamma": 2.0,  # exponent of the focal loss; 0 = cross-entropy
    # Input of the network for the pixel loss: "clean" images, or "degraded" ones ("direct").
    "first_pass": "clean",
    "mask_ratio": 0.5,  # share of hidden patches
    # Height and width of the patches in pixels: a multiple of the network's size multiple.
    "mask_patch": 16,
    # Weight of the L1 loss of the Fourier transforms, 0 as published; others use 0.1 (MIMO-UNet,
    # 2021).
    "fft_weight": 0.0,
    # Further loss terms on restored images, as NAME:WEIGHT joined by commas: psnr:0.01, or terms
    # registered by a plugin.
    "loss_terms": "",
    "guidance": 1.0,  # weight of the classification loss; 0 = plain restoration training
}

# The config section of each part's optimizer.
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
    """The keys of an evaluation; `data.crop_size = 0` means whole images, one at a time."""
    config.data.crops_per_photo = 6
    # For PSNR and SSIM: "uint8" as published for 5d and 10d, "none" as published for mixtures.
    config.rounding = "uint8"
    # For PSNR and SSIM: "rgb" as in DCPT, or "y", the luma, as in many tables for rain.
    config.channel = "rgb"
    # Folder whose classifier is measured. "" = that of init_from or of its ancestors.
    config.classifier_from = ""
    # Also measure classical methods (non-local means, CLAHE, ...) on the same samples. Takes about
    # 0.3 s of CPU time for a crop of 192x192 pixels.
    config.baselines = False
    # New or empty folder for the degraded, restored and clean images of all samples, as PNG files
    # by class, for metrics of other programs. "" = none.
    config.save_images = ""
    # Use NAFNet's test-time local converter with the size of the training crops. It may help or
    # harm; the published 5d and 10d results do not use it.
    config.local_pooling = False


def _by_class(default: Any) -> ml_collections.ConfigDict:
    """A value for each single class; other keys, such as "noise:12.5", can be added."""
    classes = dict.fromkeys(task_sets.class_names(), default)
    return ml_collections.ConfigDict(classes, allow_dotted_keys=True)
