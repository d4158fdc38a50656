"""MaskDCPT pre-training: tell how an image was damaged, and paint it clean, from half of it.

    python -m dcpt_jax.main --config=configs/mask_pretrain.py --workdir=W

Random patches of the degraded image are hidden from the network (`--config.mask_ratio=0.5`,
`--config.mask_patch=16` pixels). From its features a classifier tells the degradation and a light
head reconstructs the whole clean image. The part of the network behind the features does not run:
it stays as initialised, and learns in the fine-tuning, `configs/restore.py` with
`--config.init_from=W`. `weights` then holds network and classifier; the head is left behind.
docs/mask_pretraining.md says what is published of this and what is our choice.

Without a preset: a small NAFNet on the bundled photos, minutes on two CPU cores.
`configs/mask_pretrain.py:nafnet,5d` is the recipe of the publication, `:restormer`, `:promptir`
and `:swinir` that of the other backbones, for accelerators: crops of 256, global batch 16, 100,000
steps at constant rates of 3e-4 for the network and 1e-4 for classifier and head.

Where memory is short: `--config.dtype=bfloat16`, `--config.remat=True`,
`--config.accumulate_steps=N`.
"""

from dcpt_jax import config as configs


def get_config(arg: str = ""):
    """Returns the config; `arg` is "", or a backbone and / or a task set."""
    return configs.mask_pretrain(arg)
