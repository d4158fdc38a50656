"""Classifier alone, on the features of a trained network.

    python -m dcpt_jax.main --config=configs/classify.py --workdir=W3 --config.init_from=W

The network of `init_from` is frozen; the classifier learns by focal loss, with a moving average. If
`init_from` holds a classifier, it is trained further (`--config.classifier_from=scratch` starts a
new one, a folder names another). The first lines of the run say which parts were loaded, resized to
its classes, or ignored. `weights` then holds network and classifier.

`--config.label=multi_hot` learns the single degradations in mixtures instead of classes. A class
becomes the degradation of that name, and the reverse.

Demo (no preset): on the bundled photos. Hardware: two CPU cores. Hours and score: not measured.

Preset (`:nafnet`, `:restormer`, `:promptir` or `:swinir`, with `5d`, `10d`, `cdd11` or a class):
the classifier's values in the pre-training of that backbone (configs/pretrain.py, also for the
data), and the moving average of the fine-tuning; no others are published. Hardware: accelerators.
Hours and score: not measured.
"""

from dcpt_jax.config import backbone_keys, base, parse_preset


def get_config(arg: str = ""):
    """Returns the config; `arg` is "", or a backbone and / or a task set."""
    return _paper(*parse_preset(arg, backbone="nafnet", tasks="5d")) if arg else _demo()


def _demo():
    config = base("classify")
    config.tasks = "5d"
    config.num_steps = 300
    config.batch_size = 16
    config.ema_decay = 0.99
    config.data.crop_size = 64
    config.classifier_optimizer.learning_rate = 1e-3
    config.classifier_optimizer.weight_decay = 1e-4
    return config


def _paper(backbone: str, tasks: str):
    config = base("classify")
    config.recipe = backbone
    config.model = backbone_keys(backbone)
    config.classifier.num_blocks = 2
    config.tasks = tasks

    config.num_steps = 100_000  # of a cosine over 1,000,000
    config.batch_size = 32 if backbone == "nafnet" else 16
    config.ema_decay = 0.999
    config.data.crop_size = 128
    config.classifier_optimizer.learning_rate = 1e-4 if backbone == "nafnet" else 5e-5
    config.classifier_optimizer.decay_steps = 1_000_000
    config.classifier_optimizer.weight_decay = 1e-4

    config.data.num_workers = 8
    config.data.cache_megabytes = 2048
    config.log.every_steps = 100
    config.log.image_every_steps = 5000
    config.validation.every_steps = 5000
    config.checkpoint.every_steps = 5000
    config.checkpoint.keep = 3
    return config
