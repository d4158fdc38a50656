"""`python -m dcpt_jax.convert`: weights of the PyTorch original to a weights folder."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcpt_jax import models, weights
from dcpt_jax.convert.naming import from_torch
from dcpt_jax.convert.pth import read_pth
from dcpt_jax.convert.recognise import recognise, state_dict_of


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    result = argparse.ArgumentParser(
        prog="python -m dcpt_jax.convert",
        description="Turns a .pth file of DCPT's PyTorch code into a weights folder that "
        "dcpt_jax.load and Orbax read. PyTorch is not needed, and nothing in the file is run. The "
        "architecture is recognised from names and shapes: NAFNet so far.",
    )
    add = result.add_argument
    add("input", type=Path, metavar="IN", help=".pth file of a restoration network")
    add("output", type=Path, metavar="OUT", help="folder to write")
    add(
        "--classifier",
        type=Path,
        metavar="FILE",
        help=".pth file of the degradation classifier that was trained with the network",
    )
    add(
        "--classes",
        default="",
        metavar="A,B,...",
        help="names of the classifier's classes, in index order (default: class_0, class_1, ...)",
    )
    add(
        "--params",
        default=None,
        metavar="KEY",
        help="entry of the files to take (default: params_ema if there, else params)",
    )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or 1 with a message if nothing was written."""
    options = parser().parse_args(arguments)
    try:
        convert(options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def convert(options: argparse.Namespace) -> None:
    """Reads, recognises and writes; whatever is wrong is found before anything is written.

    Raises:
        OSError: if a file cannot be read, or the folder exists and is no weights folder.
        ValueError: if a file is refused or its names and shapes do not fit its architecture.
    """
    if options.output.exists() and not (options.output / weights.DESCRIPTION).is_file():
        raise FileExistsError(f"{options.output} exists and is no weights folder; choose another")
    network, params, entry = _read(options.input, options.params, "network")
    classifier, tree = None, {"network": params}
    if options.classifier:
        classifier, tree["classifier"], _ = _read(options.classifier, options.params, "classifier")
        if classifier.feature_dims != network.feature_dims:
            raise ValueError(
                f"{options.classifier} takes features of {classifier.feature_dims} channels, but "
                f"the network in {options.input} has {network.feature_dims}"
            )
    count = classifier.num_classes if classifier is not None else 0
    names = tuple(filter(None, options.classes.split(",")))
    names = names or tuple(f"class_{i}" for i in range(count))
    if len(names) != count:
        raise ValueError(f"--classes names {len(names)} classes, the classifier has {count}")
    description = weights.describe(
        network,
        classifier,
        task_set=",".join(names),
        classes=names,
        mode="converted",
        source={"file": options.input.name, "entry": entry},
    )
    folder = weights.save_weights(options.output, tree, description)
    size = sum(leaf.size for leaf in _leaves(params))
    print(f"{network.architecture} {network.arguments()}: {size:,} parameters; wrote {folder}")


def _read(path: Path, key: str | None, what: str) -> tuple[Any, dict[str, Any], str]:
    """Module, float32 parameters and the file's entry."""
    try:
        state, entry = state_dict_of(read_pth(path), key)
        architecture, arguments = recognise(state)
        if (architecture == "classifier") != (what == "classifier"):
            raise ValueError(f"it holds a {architecture}, but a {what} was expected here")
        if what == "classifier":
            module = models.create_classifier(**arguments)
        else:
            module = models.create_model(architecture, **arguments)
        # Half and bfloat16 storage only ever saved space: parameters are float32 here.
        state = {name: np.asarray(value, np.float32) for name, value in state.items()}
        return module, from_torch(state, module), entry
    except ValueError as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from error


def _leaves(tree: dict[str, Any]) -> list[np.ndarray]:
    found = []
    for value in tree.values():
        found += _leaves(value) if isinstance(value, dict) else [value]
    return found
