"""`python -m dcpt_jax.convert`: weights of the PyTorch original to ours, and back."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dcpt_jax import weights
from dcpt_jax.convert import files
from dcpt_jax.convert.messages import pipe_may_end, printable, say
from dcpt_jax.convert.naming import to_torch
from dcpt_jax.convert.options import check, parser, told
from dcpt_jax.convert.other_files import weights_files_in
from dcpt_jax.convert.reading import ReadFile, read_file, summary
from dcpt_jax.labels import FLAT, Labels, numbered_names


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, except that argparse itself exits with 2."""
    status = 0
    with pipe_may_end():
        status = _run(parser().parse_args(arguments))
    return status


def _run(options: argparse.Namespace) -> int:
    try:
        convert(options)
    except (OSError, ValueError) as error:
        lines = (printable(line, 10_000) for line in str(error).splitlines())
        print("error:", "\n".join(lines), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


@dataclasses.dataclass(frozen=True)
class _Weights:
    """A network with its parameters, perhaps a classifier, and what model.json says of them."""

    network: nn.Module
    classifier: nn.Module | None
    params: dict[str, Any]  # {"network": ...[, "classifier": ...]}
    description: weights.WeightsDescription


def convert(options: argparse.Namespace) -> None:
    """Reads, recognises and writes; whatever is wrong is found before anything is written.

    Raises:
        OSError: if a file cannot be read, or one that would be written exists.
        ValueError: if a file is refused, its names and shapes do not fit its architecture, or the
            options do not fit each other.
    """
    reads_folder, writes_file = options.input.is_dir(), files.is_file_name(options.output)
    check(options, reads_folder, writes_file)
    read = _read_folder(options) if reads_folder else _read_files(options, writes_file)
    if not writes_file:
        if reads_folder:
            to_torch(read.params["network"], read.network)  # only to find what does not fit
        params = _stored_as(options.dtype or "float32", read.params)
        say(f"wrote: {weights.save_weights(options.output, params, read.description)}")
        return
    layout = {"body": options.body, "blocks": options.blocks}
    if options.blocks is None and not options.body:  # as they were, where they came from a file
        layout["blocks"] = read.description.source.get("blocks")
    states = {options.output: to_torch(read.params["network"], read.network, **layout)}
    if options.classifier:
        if read.classifier is None or read.description.classifier is None:
            raise ValueError(f"--classifier: the weights in {options.input} hold no classifier")
        states[options.classifier] = to_torch(read.params["classifier"], read.classifier)
        labels = read.description.classifier.labels
        kind = "components (a sigmoid each)" if labels.multi_hot else "classes"
        say(f"{kind}, in index order: {', '.join(labels.names)}")
        if labels.multi_hot:
            say(f"to read {options.classifier} again, add --label={labels.kind} --classes=...")
    elif read.classifier is not None:
        say("the classifier is left out; --classifier FILE writes it")
    files.write_checkpoints(states)
    for path in states:
        say(f"wrote: {path.absolute()}")


def _read_folder(options: argparse.Namespace) -> _Weights:
    classifier = None
    try:
        params, description = weights.load_weights(options.input)
        network, network_params = description.network(), params["network"]
        if description.classifier is not None:
            classifier = description.classifier.module()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}{weights_files_in(options.input)}") from error
    say(f"read: {summary(network, network_params)}")
    return _Weights(network, classifier, params, description)


def _read_files(options: argparse.Namespace, writes_file: bool) -> _Weights:
    # From file to file, a classifier goes by itself in the place of a network.
    expected = ("network", "classifier") if writes_file else ("network",)
    read = _read_file(options.input, options, expected=expected)
    network = read.module
    classifier, tree, classes = None, {"network": read.params}, ()
    if options.classifier:
        resize = network.equal_feature_sizes
        beside = _read_file(options.classifier, options, expected=("classifier",), resize=resize)
        classifier, tree["classifier"] = beside.module, beside.params
        if classifier.feature_dims != network.feature_dims:
            raise ValueError(
                f"{options.classifier} takes features of {classifier.feature_dims} channels, but "
                f"the network in {options.input} has {network.feature_dims}"
            )
        classes = numbered_names(classifier.num_classes)
    if options.classes is not None:
        named = tuple(name.strip() for name in options.classes.split(","))
        if "" in named or len(set(named)) < len(named):
            raise ValueError(f"--classes {options.classes!r} has an empty name or one twice")
        if len(named) != len(classes):
            raise ValueError(
                f"--classes names {len(named)} classes, the classifier has {len(classes)}"
            )
        classes = named
    description = weights.describe(
        network,
        classifier,
        labels=Labels(classes, options.label or FLAT),
        task_set=",".join(classes),
        classes=classes,
        source=read.source,
    )
    return _Weights(network, classifier, tree, description)


def _read_file(path: Path, options: argparse.Namespace, **how: Any) -> ReadFile:
    """Reads a file as the options say, and says what it is."""
    if path == options.input:
        how |= {"prefix": options.prefix, "told": told(options)}
    read = read_file(path, entry=options.params, **how)
    say(f"recognised in {path}: {summary(read.module, read.params)}")
    for remark in read.remarks:
        say(f"  {remark}")
    return read


def _stored_as(dtype: str, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters in another precision; ValueError if one is too large for it."""

    def stored(path: Any, leaf: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            array = leaf.astype(jnp.dtype(dtype))
        if not np.isfinite(array[np.isfinite(leaf)]).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"--dtype {dtype}: {name} has numbers too large for it")
        return array

    return jax.tree.map_with_path(stored, params)
