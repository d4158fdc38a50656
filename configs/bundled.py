"""The network that ships with the package: a NAFNet of 3.1 million parameters for ten classes.

    python -m dcpt_jax.main --config=configs/bundled.py:pretrain --workdir=W/pretrain \
        --config.data.root=PHOTOS
    python -m dcpt_jax.main --config=configs/bundled.py:restore --workdir=W/restore \
        --config.init_from=W/pretrain --config.data.root=PHOTOS
    python -m dcpt_jax.main --config=configs/bundled.py:refine --workdir=W/refine \
        --config.init_from=W/restore --config.data.root=PHOTOS
    python -m dcpt_jax.main --config=configs/bundled.py:classify --workdir=W/classify \
        --config.init_from=W/refine --config.data.root=PHOTOS
    python -m dcpt_jax.convert W/classify dcpt_jax/bundled --dtype float16

DCPT pre-training with multi-hot labels, restoration, more of it with a loss that weighs faint
degradations as strong ones, and a classifier on the features of the network that restores: the last
folder's `weights` holds both. PHOTOS is any folder of clean photos, about 1024 pixels wide.
Hardware: the pre-training ran on two CPU cores, all else on one H200 with 16 cores. Time: 18
minutes (for 200 steps), 145 s, 9 minutes (53 steps a second between checkpoints) and 33 s. Which
photos, how many of these steps the shipped weights have seen, and their scores: docs/model_card.md.
"""

from dcpt_jax.config import ConfigError, base


def get_config(arg: str = ""):
    """Returns the config of a stage; `arg` is "pretrain", "restore", "refine" or "classify"."""
    stages = {"pretrain": _pretrain, "restore": _restore, "refine": _refine, "classify": _classify}
    if arg not in stages:
        raise ConfigError(
            f"configs/bundled.py:{arg}: name one of its stages, {', '.join(stages)}, "
            "after the colon: --config=configs/bundled.py:pretrain"
        )
    return stages[arg]()


def _base(mode: str):
    """What the stages share."""
    config = base(mode)
    config.tasks = "noise,jpeg,rain,snow,haze,low_light,motion_blur,defocus_blur,real,clean"
    config.model.name = "nafnet"
    config.model.width = 32
    config.model.encoder_blocks = (2, 2, 4)
    config.model.middle_blocks = 4
    config.model.decoder_blocks = (2, 2, 2)
    config.data.cache_megabytes = 1024
    config.log.every_steps = 50
    config.log.image_every_steps = 0
    config.validation.every_steps = 0
    config.checkpoint.every_steps = 500
    return config


def _pretrain():
    config = _base("pretrain")
    config.label = "multi_hot"
    config.num_steps = 500
    config.batch_size = 16
    config.data.crop_size = 64
    config.classifier.num_blocks = 1
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 20
    config.classifier_optimizer.learning_rate = 1e-3
    config.classifier_optimizer.warmup_steps = 20
    config.classifier_optimizer.weight_decay = 1e-4
    return config


def _restore():
    config = _base("restore")
    config.num_steps = 4400
    config.checkpoint.every_steps = 5000  # on a GPU: each save holds it up for about 3 s
    config.batch_size = 16
    config.dtype = "bfloat16"
    config.ema_decay = 0.999
    config.data.crop_size = 192
    config.data.num_workers = 14
    # Blurred crops differ least from clean ones, so their share of the loss is the smallest.
    config.synthetic_repeats.motion_blur = 2
    config.synthetic_repeats.defocus_blur = 2
    config.synthetic_repeats.noise = 2
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 200
    config.optimizer.clip_norm = 1.0
    return config


def _refine():
    config = _restore()
    config.num_steps = 19_000
    # By L1 alone, JPEG artefacts and blur were hardly learned.
    config.loss_terms = "psnr:0.01"
    config.synthetic_repeats.jpeg = 2
    config.synthetic_repeats.real = 2
    config.synthetic_repeats.haze = 2
    return config


def _classify():
    config = _base("classify")
    config.label = "multi_hot"
    config.num_steps = 1500
    config.batch_size = 64
    config.ema_decay = 0.99
    config.data.crop_size = 128
    config.data.num_workers = 14
    config.classifier.num_blocks = 1
    config.classifier_optimizer.learning_rate = 1e-3
    config.classifier_optimizer.warmup_steps = 20
    config.classifier_optimizer.weight_decay = 1e-4
    return config
