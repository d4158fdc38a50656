"""DCPT pre-training that restores ("direct"): tell how an image was damaged, and mend it.

    python -m dcpt_jax.main --config=configs/direct.py --workdir=W

`configs/pretrain.py` but for the first pass: the network restores degraded images there, in place
of reproducing clean ones. Without a preset a small NAFNet on the bundled photos;
`configs/direct.py:nafnet,5d` and the other presets have the figures of `configs/pretrain.py`.
"""

from dcpt_jax import config as configs


def get_config(arg: str = ""):
    """Returns the config; `arg` is "", or a backbone and / or a task set."""
    return configs.direct(arg)
