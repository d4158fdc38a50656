"""Tables and a picture sheet from a work directory or weights folder, on held-out photos.

    python -m dcpt_jax.main --config=configs/evaluate.py --workdir=W3 --config.init_from=W2

Photos: the bundled ones that training never sees, or `--config.data.root=FOLDER`; with
`--config.data.datasets=FOLDER` the test pairs of public data sets (docs/data.md).
`--config.data.crop_size=0` takes whole images in place of crops. Writes `evaluation.md`,
`evaluation.json` and `sheet.png` to the work directory. The classes are those of the weights, or
others: `configs/evaluate.py:cdd11`, `--config.tasks=low_light+rain,haze`.

`--config.baselines=True` adds tables of what classical methods make of the same samples (non-local
means, wavelets, Richardson-Lucy, gamma, CLAHE; `dcpt_jax/evaluate/baselines.py`). It takes about
0.3 s of CPU time for each crop of 192x192 pixels.

PSNR and SSIM are of RGB rounded to 8 bits; `--config.channel=y` and `--config.rounding=none` are
the other conventions. `--config.save_images=FOLDER` writes the images, for other programs to
measure. `python -m dcpt_jax.tables W3` shows the result beside published figures that are
comparable.

Hardware: anything; on two CPU cores the demo takes minutes. Expected scores: configs/restore.py.
"""

from dcpt_jax.config import ConfigError, base, parse_preset


def get_config(arg: str = ""):
    """Returns the config; `arg` is "" or a task set or class ("" = those of the weights)."""
    backbone, tasks = parse_preset(arg)
    if backbone:
        raise ConfigError(
            f"configs/evaluate.py:{arg}: the network comes from --config.init_from; "
            "only a task set or a class can be named here"
        )
    config = base("evaluate")
    config.tasks = tasks  # "" = those of the weights
    config.batch_size = 4
    config.data.crop_size = 192  # pixels; 0 = whole images, as in published tables
    config.data.crops_per_photo = 6
    config.channel = "rgb"
    config.rounding = "uint8"
    return config
