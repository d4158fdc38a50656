"""DCPT pre-training: learn to tell how an image was damaged.

    python -m dcpt_jax.main --config=configs/pretrain.py --workdir=W

Without a preset: a small NAFNet on the photos bundled with scikit-image and scikit-learn, minutes
on two CPU cores. With `--config.data.root=FOLDER`: on any folder of clean photos.

`configs/pretrain.py:nafnet,5d` is the recipe of the paper: NAFNet width 64, crops of 128, global
batch 32, 100,000 steps, for accelerators. Its data here are your clean photos with synthetic
degradations.
"""

from dcpt_jax import config as configs


def get_config(arg: str = ""):
    """Returns the config; `arg` is "", or a backbone and / or a task set or class."""
    return configs.pretrain(arg)
