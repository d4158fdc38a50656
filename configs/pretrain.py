"""DCPT pre-training: learn to tell how an image was damaged.

    python -m dcpt_jax.main --config=configs/pretrain.py --workdir=W

Without a preset: a small NAFNet on the photos bundled with scikit-image and scikit-learn, minutes
on two CPU cores. With `--config.data.root=FOLDER`: on any folder of clean photos.
`configs/direct.py` restores in the first pass in place of reproducing clean images.

`configs/pretrain.py:nafnet,5d` is the recipe of the paper, `:restormer`, `:promptir` and `:swinir`
those of the other backbones, for accelerators: crops of 128, 100,000 steps, global batch 32 for
NAFNet and 16 for the others. `config.data` names the data: clean photos with synthetic
degradations, or pairs.

`:nafnet,10d` learns ten degradations and `:nafnet,cdd11` the eleven mixtures of low light, haze,
rain and snow, with the same figures (no others are published). A mixture is a class of its own, as
in the paper; with `--config.label=multi_hot` the classifier tells the degradations in it one by
one. Other mixtures: `--config.tasks=low_light,haze,low_light+haze`; a classifier needs two classes
or more.

Where memory is short: `--config.dtype=bfloat16`, `--config.remat=True`,
`--config.accumulate_steps=N`.
"""

from dcpt_jax import config as configs


def get_config(arg: str = ""):
    """Returns the config; `arg` is "", or a backbone and / or a task set."""
    return configs.pretrain(arg)
