"""DCPT pre-training: learn to tell how an image was damaged.

    python -m dcpt_jax.main --config=configs/pretrain.py --workdir=W
    python -m dcpt_jax.main --config=configs/pretrain.py:nafnet,5d --workdir=W \
        --config.data.datasets=DATASETS

Demo (no preset): a small NAFNet on the photos bundled with scikit-image and scikit-learn.
Hardware: two CPU cores. Hours: 0.15 together with the fine-tuning of configs/restore.py. Expected
score: the classifier is right on 87 % of the held-out crops (docs/demo.md).

Paper (`:nafnet`, `:restormer`, `:promptir` or `:swinir`, with `5d`, `10d`, `cdd11` or a class):
the values published for 5d (Hu et al., ICLR 2025, arXiv 2501.15510, and its released options).
None are published for other sets, which get the same. Data for 5d: Rain13K, DFWB with noise of
sigma 15, 25 or 50, RESIDE OTS, LOL synthetic (x10 for NAFNet, x50 for the others), GoPro crops (x1
for NAFNet, x5 for the others); docs/data.md. Hardware: accelerators. Hours: not measured.
Expected score: on 5d the classifier reaches 94 to 99 % (arXiv 2510.13282, of the masked variant).

A mixture is a class of its own, as in the paper; with `--config.label=multi_hot` the classifier
tells the degradations in it one by one. Other classes, two at least:
`--config.tasks=low_light,haze,low_light+haze`. Own photos: `--config.data.root=FOLDER`. Where
memory is short: `--config.dtype=bfloat16`, `--config.remat=True`, `--config.accumulate_steps=N`.
"""

from dcpt_jax.config import backbone_keys, base, parse_preset


def get_config(arg: str = ""):
    """Returns the config; `arg` is "", or a backbone and / or a task set."""
    return _paper(*parse_preset(arg, backbone="nafnet", tasks="5d")) if arg else _demo()


def _demo():
    config = base("pretrain")
    config.tasks = "5d"
    config.num_steps = 300
    config.batch_size = 16
    config.data.crop_size = 64
    config.optimizer.learning_rate = 1e-3
    config.classifier_optimizer.learning_rate = 1e-3
    config.classifier_optimizer.weight_decay = 1e-4
    return config


def _paper(backbone: str, tasks: str):
    config = base("pretrain")
    config.recipe = backbone
    config.model = backbone_keys(backbone)
    config.identity_start = False
    config.classifier.num_blocks = 2
    config.tasks = tasks

    config.num_steps = 100_000  # of a cosine over 1,000,000
    config.batch_size = 16
    config.data.crop_size = 128
    config.optimizer.learning_rate = 2e-4
    config.optimizer.decay_steps = 1_000_000
    config.classifier_optimizer.learning_rate = 5e-5
    config.classifier_optimizer.decay_steps = 1_000_000
    config.classifier_optimizer.weight_decay = 1e-4
    if backbone == "nafnet":
        config.batch_size = 32
        config.optimizer.learning_rate = 3e-4
        config.classifier_optimizer.learning_rate = 1e-4

    config.data.num_workers = 8
    config.data.cache_megabytes = 2048
    config.log.every_steps = 100
    config.log.image_every_steps = 5000
    config.validation.every_steps = 5000
    config.checkpoint.every_steps = 5000
    config.checkpoint.keep = 3
    return config
