"""Tables and a picture sheet from a work directory or weights folder, on held-out photos.

    python -m dcpt_jax.main --config=configs/evaluate.py --workdir=W3 --config.init_from=W2

Photos: those bundled ones that training never sees, or `--config.data.root=FOLDER`. Writes
`evaluation.md`, `evaluation.json` and `sheet.png` to the work directory.
"""

from dcpt_jax import config as configs


def get_config(arg: str = ""):
    """Returns the config; `arg` is "" or a task set or class ("" = those of the weights)."""
    return configs.evaluate(arg)
