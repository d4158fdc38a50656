"""MaskDCPT pre-training: classify the damage and reconstruct the clean image from half of it.

    python -m dcpt_jax.main --config=configs/mask_pretrain.py --workdir=W
    python -m dcpt_jax.main --config=configs/mask_pretrain.py:nafnet,5d --workdir=W \
        --config.data.datasets=DATASETS

Random patches of the degraded image are hidden from the network. From its features a classifier
tells the degradation and a light head reconstructs the whole clean image. The part of the network
behind the features does not run: it stays as initialised, and learns in the fine-tuning
(configs/restore.py with `--config.init_from=W`). `weights` then holds network and classifier; the
head is not saved. docs/mask_pretraining.md says what is published of this and what is our choice.

Hidden patches are treated as in sparse convolutions (`masking` "sparse"). For the treatment in
MaskDCPT's code, write a config file that sets `config.model.masking = "maskdcpt"` in the config of
`dcpt_jax.config.load("mask_pretrain", arg)`; there is no flag for it.

Demo (no preset): a small NAFNet on the bundled photos. Hardware: two CPU cores. Hours and score:
docs/mask_pretraining.md.

Paper (`:nafnet`, `:restormer`, `:promptir` or `:swinir`, with `5d`, `10d`, `cdd11` or a class): the
values that MaskDCPT (arXiv 2510.13282) publishes for 5d and all backbones; other sets get the same.
Data for 5d: those of the fine-tuning, with repeats of haze 1, rain 300, noise 15, motion blur 5,
low light 60. Hardware: accelerators. Hours: not measured. Expected score: after 100,000 steps the
classifier reaches 94 (SwinIR), 98 (NAFNet, PromptIR) and 99 % (Restormer).

Where memory is short: `--config.dtype=bfloat16`, `--config.remat=True`,
`--config.accumulate_steps=N`.
"""

from dcpt_jax.config import backbone_keys, base, parse_preset


def get_config(arg: str = ""):
    """Returns the config; `arg` is "", or a backbone and / or a task set."""
    return _paper(*parse_preset(arg, backbone="nafnet", tasks="5d")) if arg else _demo()


def _demo():
    config = base("mask_pretrain")
    config.tasks = "5d"
    config.num_steps = 300
    config.batch_size = 16
    config.data.crop_size = 64
    config.mask_ratio = 0.5
    config.mask_patch = 16
    config.reconstruction.width = 32
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "constant"
    config.classifier_optimizer.learning_rate = 1e-3
    config.classifier_optimizer.schedule = "constant"
    config.reconstruction_optimizer.learning_rate = 1e-3
    config.reconstruction_optimizer.schedule = "constant"
    return config


def _paper(backbone: str, tasks: str):
    config = base("mask_pretrain")
    config.recipe = backbone
    config.model = backbone_keys(backbone)
    config.identity_start = False
    config.classifier.num_blocks = 2
    config.tasks = tasks

    config.num_steps = 100_000
    config.batch_size = 16
    config.data.crop_size = 256
    config.mask_ratio = 0.5
    config.mask_patch = 16
    config.reconstruction.width = 64
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule = "constant"
    config.classifier_optimizer.learning_rate = 1e-4
    config.classifier_optimizer.schedule = "constant"
    config.reconstruction_optimizer.learning_rate = 1e-4
    config.reconstruction_optimizer.schedule = "constant"

    config.data.num_workers = 8
    config.data.cache_megabytes = 2048
    config.log.every_steps = 100
    config.log.image_every_steps = 5000
    config.validation.every_steps = 5000
    config.checkpoint.every_steps = 5000
    config.checkpoint.keep = 3
    return config
