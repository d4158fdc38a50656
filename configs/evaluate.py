"""Tables and a picture sheet from a work directory or weights folder, on held-out photos.

    python -m dcpt_jax.main --config=configs/evaluate.py --workdir=W3 --config.init_from=W2

Photos: those bundled ones that training never sees, or `--config.data.root=FOLDER`; with
`--config.data.datasets=FOLDER` the test pairs of public data sets (docs/data.md).
`--config.data.crop_size=0` takes whole images in place of crops. Writes `evaluation.md`,
`evaluation.json` and `sheet.png` to the work directory. The classes are those of the weights, or
others: `configs/evaluate.py:cdd11`, `--config.tasks=low_light+rain,haze`.

`--config.baselines=True` adds tables of what classical methods make of the same samples (non-local
means, wavelets, Richardson-Lucy, gamma, CLAHE; `dcpt_jax/evaluate/baselines.py`). It takes about
0.3 s of CPU time for each crop of 192x192 pixels.

PSNR and SSIM are of RGB rounded to 8 bits; `--config.channel=y` and `--config.rounding=none` are
the other conventions. `--config.save_images=FOLDER` writes the images, for other programs to
measure. `python -m dcpt_jax.tables W3` puts the result beside published figures, where the two
compare.
"""

from dcpt_jax import config as configs


def get_config(arg: str = ""):
    """Returns the config; `arg` is "" or a task set or class ("" = those of the weights)."""
    return configs.evaluate(arg)
