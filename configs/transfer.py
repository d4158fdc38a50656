"""Transfer to another degradation, guided by a frozen classifier.

    python -m dcpt_jax.main --config=configs/transfer.py --workdir=W3 \
        --config.init_from=W2 --config.classifier_from=W

The network of `init_from`, trained for other degradations, learns to restore this one; besides the
L1 loss, the classifier of `classifier_from` (by default that of `init_from`) has to recognise the
new class in its features. The class is rain, or another by `--config.tasks=haze`; a classifier with
multi-hot labels also guides to any mixture of what it knows, `--config.tasks=low_light+rain`.
`--config.guidance=0` leaves the classifier out. Without a preset: minutes on two CPU cores.
`weights` then holds the network; the classifier stays where it was.

`configs/transfer.py:restormer,rain` is the recipe of the paper: the original Restormer's weights
for another degradation, global batch 32, crops of 128, 100,000 steps at a constant rate of 3e-4,
EMA 0.999, gradient norm clipped to 0.01. For accelerators. For weights of another backbone name
that: `configs/transfer.py:nafnet,rain`.
"""

from dcpt_jax import config as configs


def get_config(arg: str = ""):
    """Returns the config; `arg` is "", or a backbone and / or a task set or class."""
    return configs.transfer(arg)
