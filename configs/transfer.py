"""Transfer to another degradation, guided by a frozen classifier.

    python -m dcpt_jax.main --config=configs/transfer.py --workdir=W3 \
        --config.init_from=W2 --config.classifier_from=W

The network of `init_from`, trained for other degradations, learns to restore this one; besides the
L1 loss, the classifier of `classifier_from` (by default that of `init_from`) has to recognise the
new class in its features. The class is rain, or another by `--config.tasks=haze`; a classifier with
multi-hot labels also guides to any mixture of what it knows, `--config.tasks=low_light+rain`.
`--config.guidance=0` leaves the classifier out. `weights` then holds the network; the classifier
stays where it was.

Demo (no preset): on the bundled photos. Hardware: two CPU cores. Hours and score: not measured.

Paper (`:restormer,rain`, or another class): from the original Restormer's weights for another
degradation, to noise, rain or motion blur (arXiv 2501.15510); all commands are in docs/transfer.md.
Weights of another backbone get the same values: `:nafnet,rain`. Data: those of the class in
configs/restore.py. Hardware: accelerators. Hours: not measured. Expected score: not stated here,
see the paper.
"""

from dcpt_jax.config import backbone_keys, base, parse_preset


def get_config(arg: str = ""):
    """Returns the config; `arg` is "", or a backbone and / or a task set or class."""
    return _paper(*parse_preset(arg, backbone="restormer", tasks="rain")) if arg else _demo()


def _demo():
    config = base("transfer")
    config.tasks = "rain"
    config.num_steps = 300
    config.batch_size = 16
    config.ema_decay = 0.99
    config.data.crop_size = 64
    config.guidance = 1.0
    config.focal_gamma = 0.0  # cross-entropy
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "constant"
    config.optimizer.clip_norm = 1.0
    return config


def _paper(backbone: str, tasks: str):
    config = base("transfer")
    config.recipe = backbone
    config.model = backbone_keys(backbone)
    if backbone == "restormer":  # that of its original publication
        config.model.norm = "with_bias"
        config.model.attention = "softmax"
    config.classifier.num_blocks = 2
    config.tasks = tasks

    config.num_steps = 100_000
    config.batch_size = 32
    config.ema_decay = 0.999
    config.data.crop_size = 128
    config.guidance = 1.0
    config.focal_gamma = 0.0  # cross-entropy
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule = "constant"
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 0.01

    config.data.num_workers = 8
    config.data.cache_megabytes = 2048
    config.log.every_steps = 100
    config.log.image_every_steps = 5000
    config.validation.every_steps = 5000
    config.checkpoint.every_steps = 5000
    config.checkpoint.keep = 3
    return config
