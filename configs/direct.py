"""DCPT pre-training that restores ("direct"): classify the damage and restore the image.

    python -m dcpt_jax.main --config=configs/direct.py --workdir=W

Demo and presets of `configs/pretrain.py`, except for the first pass: the network restores degraded
images instead of reproducing clean ones. Data and hardware: see that file. Hours: not measured.
Expected score: none published.
"""

from dcpt_jax.config import load


def get_config(arg: str = ""):
    """Returns the config; `arg` is "", or a backbone and / or a task set."""
    config = load("pretrain", arg)
    config.first_pass = "degraded"
    return config
