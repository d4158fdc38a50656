"""DCPT pre-training that restores ("direct"): tell how an image was damaged, and mend it.

    python -m dcpt_jax.main --config=configs/direct.py --workdir=W

`configs/pretrain.py`, demo and presets, but for the first pass: the network restores degraded
images there, in place of reproducing clean ones. Data and hardware are those of that file. Hours:
not measured. Expected score: none published.
"""

from dcpt_jax.config import load


def get_config(arg: str = ""):
    """Returns the config; `arg` is "", or a backbone and / or a task set."""
    config = load("pretrain", arg)
    config.first_pass = "degraded"
    return config
