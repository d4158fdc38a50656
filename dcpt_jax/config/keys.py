"""The keys that all modes share, each with its default and what it means."""

from typing import Any

import ml_collections

from dcpt_jax.config.recipes import DEMO_BACKBONE
from dcpt_jax.data import tasks as task_sets


def base(mode: str) -> ml_collections.ConfigDict:
    """Every key that the modes share, with its default; the values are those of the small demo.

    Args:
        mode: what the run does, one of `MODES`.

    Returns:
        The config that the functions of `modes` complete.
    """
    config = ml_collections.ConfigDict()
    config.mode = mode
    # Backbone whose published figures these are; init_from has to hold such a network. "" = none.
    config.recipe = ""
    config.seed = 0
    # Folder to start from: a work directory of an earlier run or a weights folder. "" = scratch.
    config.init_from = ""
    # Work directory, or one of its checkpoints (W/checkpoints/5000), whose run goes on in this one:
    # step, optimiser and place in the data too. Once this directory has a checkpoint, that counts.
    config.resume_from = ""
    # A task set, one class or mixture, or several joined by commas: --config.tasks=haze,noise+rain.
    config.tasks = "5d"
    # How often each photo or pair of a class is used in a pass over all classes; 0 = by the rules
    # of docs/data.md. Mixtures can be named too: --config.repeats.low_light+haze=3.
    config.repeats = by_class(0)
    # The same, of classes that are all synthesised from the same photos; once where none is given.
    config.synthetic_repeats = ml_collections.ConfigDict()
    config.num_steps = 300
    config.batch_size = 16  # over all devices together
    # Parts that a batch is worked through in, to save memory; the result is that of the whole
    # batch within rounding. They have to divide the batch of each device.
    config.accumulate_steps = 1
    # Devices that share one copy of parameters, optimiser and moving average, each holding a part;
    # it has to divide their number. 1 = a copy on every device; -1 = one copy on all of them.
    config.fsdp_devices = 1
    # Compute the inside of each block again in the backward pass instead of keeping it: less
    # memory, the same result within rounding.
    config.remat = False
    config.dtype = "float32"  # compute type: float32 or bfloat16; parameters stay float32
    # Products of float32 numbers on accelerators: default (TF32 on GPUs, bfloat16 on TPUs), high
    # or highest (float32), the slowest. CPUs always multiply in float32.
    config.matmul_precision = "default"
    config.require_accelerator = False  # stop rather than train on the CPU by mistake
    config.ema_decay = 0.0  # of the moving average of what is trained; 0 = none
    # Start the output layer at zero, so that an untrained network puts out its input unchanged.
    config.identity_start = True

    config.model = ml_collections.ConfigDict({"name": "nafnet", **DEMO_BACKBONE})
    config.classifier = ml_collections.ConfigDict({"num_blocks": 1})
    config.optimizer = optimizer_keys()

    config.data = ml_collections.ConfigDict()
    config.data.root = ""  # folder of clean photos, searched recursively; "" = bundled photos
    # Folder that holds public data sets in the trees of docs/data.md; "" = none.
    config.data.datasets = ""
    # A class whose data set is not there: True = its synthetic degradation of the clean photos
    # stands in; False = stop, naming what is missing.
    config.data.stand_ins = True
    # What a class is made of; "" = decided by the keys above. Several are joined by ";":
    # photos:DIR  pairs:DEGRADED_DIR,CLEAN_DIR[,RULE]  list:FILE  tfds:NAME[/CONFIG][:SPLIT]
    # packed:DIR  DATASET:DIR, e.g. --config.data.sources.rain=rain100l:/data/Rain100L
    config.data.sources = by_class("")
    config.data.crop_size = 64  # pixels
    config.data.num_workers = 1  # processes beside the training process; 0 = threads only
    config.data.on_bad_file = "skip"  # skip: name, count, go on; refuse: stop at the first
    config.data.max_pixels = 100_000_000  # width times height; larger images count as bad
    # Pixels with a profile of another space: srgb = converted to sRGB; as_is = left as stored.
    config.data.colour = "srgb"
    config.data.cache_megabytes = 512  # decoded photos kept in memory, per process

    # While training, measure the weights (their moving average where there is one) on crops of
    # photos that are not trained on: PSNR and SSIM, or how many are classified right.
    config.validation = ml_collections.ConfigDict()
    config.validation.every_steps = 100  # 0 = never; a checkpoint is written each time
    config.validation.photos_per_class = 32  # evenly spread over those that there are; 0 = all
    config.validation.crops_per_photo = 1  # of the size of data.crop_size, from a regular grid
    # Whose best value tells the best checkpoint: psnr, ssim or accuracy. "" = psnr where the stage
    # restores, else accuracy.
    config.validation.metric = ""
    # Folder of clean photos to degrade; "" = bundled ones that are never trained on. Public data
    # sets have test data of their own.
    config.validation.root = ""
    # What to measure a class on, in the form of data.sources; "" = decided by the above.
    config.validation.sources = by_class("")

    config.log = ml_collections.ConfigDict()
    config.log.every_steps = 20
    config.log.image_every_steps = 200  # 0 = none

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 200
    config.checkpoint.keep = 2  # the newest ones
    config.checkpoint.keep_best = 1  # and besides, the best by validation.metric
    config.checkpoint.allow_config_change = False  # continue a work directory of another config
    return config


def by_class(default: Any) -> ml_collections.ConfigDict:
    """A value for each single class; others, "noise:12.5" too, can be added."""
    classes = dict.fromkeys(task_sets.class_names(), default)
    return ml_collections.ConfigDict(classes, allow_dotted_keys=True)


def optimizer_keys(**changes: Any) -> ml_collections.ConfigDict:
    """AdamW with a cosine schedule; the values are those of the paper but for the rate."""
    config = ml_collections.ConfigDict()
    config.learning_rate = 3e-4
    # "cosine", or "constant": the rate alone, without regard to its minimum and decay.
    config.schedule = "cosine"
    config.min_learning_rate = 1e-6
    config.warmup_steps = 0
    config.decay_steps = 0  # length of the cosine; 0 = config.num_steps
    config.b1 = 0.9
    config.b2 = 0.999
    config.weight_decay = 0.0
    config.clip_norm = 0.0  # global gradient norm; 0 = no clipping
    config.update(changes)
    return config
