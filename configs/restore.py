"""Restoration fine-tuning, from a pre-trained network or from scratch.

    python -m dcpt_jax.main --config=configs/restore.py --workdir=W2 --config.init_from=W

The architecture is that of the weights in `init_from`. `configs/restore.py:nafnet,5d` is the
recipe of the paper, `:restormer`, `:promptir` and `:swinir` those of the other backbones: crops of
128, 750,000 steps, EMA 0.999; global batch 24 and gradient norm clipped to 0.01, but for SwinIR
batch 16 and no clipping.

`:nafnet,10d` is the recipe for ten degradations: batch 128, a rate of 2.5e-4 falling to 1e-5 over
500,000 steps. `:nafnet,cdd11` is that for the mixtures of CDD-11: batch 32, 3e-4 falling to 1e-6
over 750,000 steps. Mixtures need nothing else here; how the classifier of the pre-training named
them does not matter.

Where memory is short: `--config.dtype=bfloat16`, `--config.remat=True`,
`--config.accumulate_steps=N`.
"""

from dcpt_jax import config as configs


def get_config(arg: str = ""):
    """Returns the config; `arg` is "", or a backbone and / or a task set or class."""
    return configs.restore(arg)
