"""All commands: `dcpt-jax COMMAND ...`, or `python -m dcpt_jax COMMAND ...`."""

import runpy
import sys

from dcpt_jax import extras
from dcpt_jax.command_line import guarded
from dcpt_jax.suggestions import did_you_mean

# Name, module, and description. `dcpt-jax NAME ...` is `python -m MODULE ...`.
COMMANDS = (
    ("train", "dcpt_jax.main", "pre-train or fine-tune: --config=configs/pretrain.py --workdir=W"),
    ("evaluate", "dcpt_jax.main", "evaluate weights: --config=configs/evaluate.py --workdir=W"),
    ("restore", "dcpt_jax.restore", "restore photos: PHOTO... --output DIR"),
    ("inspect", "dcpt_jax.inspect", "predict the degradations of photos: PHOTO..."),
    ("probe", "dcpt_jax.probe", "measure features by kNN and t-SNE: --weights W --output DIR"),
    ("tables", "dcpt_jax.tables", "compare measured with published results: RUN..."),
    ("convert", "dcpt_jax.convert", "convert PyTorch weights to and from Orbax: IN OUT"),
    ("check", "dcpt_jax.data.check", "check the data of a run: --config=configs/restore.py"),
    (
        "pack",
        "dcpt_jax.data.pack",
        "pack photos into files for fast reading: SOURCE... --output DIR",
    ),
    (
        "tfds-build",
        "dcpt_jax.data.tfds_build",
        "build a TFDS dataset of pairs: NAME --data_dir DIR",
    ),
    ("degradations", "dcpt_jax.degradations.sheet", "show the degradations: --output FILE.png"),
)


def main() -> int:
    """Runs the command named by the first argument, with the other arguments.

    Returns:
        The exit status: 0 for the list of commands, 1 if an extra is missing, 2 for an unknown
        command. Otherwise the command exits with its own status.
    """
    modules = {name: module for name, module, _ in COMMANDS}
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        return guarded(lambda interruption: _list())
    if name not in modules:
        known = ", ".join(modules) + did_you_mean(name, modules)
        print(f"error: unknown command {name!r}; known: {known}", file=sys.stderr)
        return 2
    sys.argv = [sys.argv[0], *arguments]
    try:
        runpy.run_module(modules[name], run_name="__main__", alter_sys=True)
    except extras.MissingExtraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _list() -> int:
    print("usage: dcpt-jax COMMAND ...    (COMMAND --help explains one)\n")
    for name, module, purpose in COMMANDS:
        print(f"  {name:<13} {purpose}\n  {'':<13} python -m {module}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
