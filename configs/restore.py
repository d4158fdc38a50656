"""Restoration fine-tuning, from a pre-trained network or from scratch.

    python -m dcpt_jax.main --config=configs/restore.py --workdir=W2 --config.init_from=W
    python -m dcpt_jax.main --config=configs/restore.py:nafnet,5d --workdir=W2 \
        --config.init_from=W --config.data.datasets=DATASETS

The architecture is that of the weights in `init_from`.

Demo (no preset): a small NAFNet on the photos bundled with scikit-image and scikit-learn.
Hardware: two CPU cores. Hours: 0.15 together with configs/pretrain.py. Expected score: 20.0 dB
PSNR, 2.2 dB above the degraded crops (docs/demo.md).

Paper (`:nafnet`, `:restormer`, `:promptir` or `:swinir`, with `5d`, `10d`, `cdd11` or a class).
Data for 5d: RainTrainHL (200 pairs) x300, DFWB with noise of sigma 15, 25 or 50 x8, RESIDE OTS x1,
LOL v1 x160, GoPro crops x5; others in docs/data.md. Hardware: accelerators. Hours: not measured;
a step of the paper's NAFNet takes 48 ms on one H200 (docs/accelerators.md). Expected score, average
PSNR in dB with pre-training (arXiv 2501.15510):
  5d     NAFNet 29.84, Restormer 30.04, PromptIR 30.31, SwinIR 28.47
  10d    NAFNet 29.72
  cdd11  NAFNet 30.66

Where memory is short: `--config.dtype=bfloat16`, `--config.remat=True`,
`--config.accumulate_steps=N`.
"""

from dcpt_jax.config import backbone_keys, base, parse_preset


def get_config(arg: str = ""):
    """Returns the config; `arg` is "", or a backbone and / or a task set or class."""
    return _paper(*parse_preset(arg, backbone="nafnet", tasks="5d")) if arg else _demo()


def _demo():
    config = base("restore")
    config.tasks = "5d"
    config.num_steps = 700
    config.batch_size = 16
    config.ema_decay = 0.99
    config.data.crop_size = 64
    # Blurred crops differ least from clean ones, so their share of the loss is the smallest: drawn
    # equally often, blurred photos that the network takes for hazy or dark ones get worse.
    config.synthetic_repeats.motion_blur = 4
    config.optimizer.learning_rate = 2e-3
    config.optimizer.clip_norm = 1.0
    return config


def _paper(backbone: str, tasks: str):
    config = base("restore")
    config.recipe = backbone
    config.model = backbone_keys(backbone)
    config.identity_start = False
    config.classifier.num_blocks = 2
    config.tasks = tasks

    # 5d; also single classes and the 10d of other backbones than NAFNet, where none are published.
    config.num_steps = 750_000  # of a cosine over 1,000,000
    config.batch_size = 24
    config.ema_decay = 0.999
    config.data.crop_size = 128
    config.optimizer.learning_rate = 3e-4
    config.optimizer.min_learning_rate = 1e-6
    config.optimizer.decay_steps = 1_000_000
    config.optimizer.clip_norm = 0.01
    if backbone == "swinir":
        config.batch_size = 16
        config.optimizer.learning_rate = 1.5e-4
        config.optimizer.clip_norm = 0.0
    if tasks == "cdd11":  # of MaskDCPT (arXiv 2510.13282), for all backbones
        config.num_steps = 750_000
        config.batch_size = 32
        config.optimizer.learning_rate = 3e-4
        config.optimizer.decay_steps = 750_000
    if (backbone, tasks) == ("nafnet", "10d"):
        config.num_steps = 500_000
        config.batch_size = 128
        config.optimizer.learning_rate = 2.5e-4
        config.optimizer.min_learning_rate = 1e-5
        config.optimizer.decay_steps = 500_000

    config.data.num_workers = 8
    config.data.cache_megabytes = 2048
    config.log.every_steps = 100
    config.log.image_every_steps = 5000
    config.validation.every_steps = 5000
    config.checkpoint.every_steps = 5000
    config.checkpoint.keep = 3
    return config
