"""`python -m dcpt_jax.convert`: converts weights from the PyTorch reference, and back."""

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
from dcpt_jax.command_line import expanded_path, run_command, say
from dcpt_jax.convert import files
from dcpt_jax.convert.messages import printable
from dcpt_jax.convert.naming import LAYOUTS, to_torch
from dcpt_jax.convert.reading import ReadFile, read_file, summary
from dcpt_jax.devices import start_devices
from dcpt_jax.labels import FLAT, KINDS, Labels, numbered_names

_DETAILS = """
input
  A .pth or .safetensors file of NAFNet, Restormer, PromptIR, DCPT's SwinIR or DCPT's classifier, as
  published by DCPT, MaskDCPT or (except SwinIR) the original authors. PyTorch is not required, and
  no code in the file is executed. Architecture and sizes are inferred from names and shapes. The
  prefixes of DataParallel (module.) and Lightning (net.), or any other prefix that all names have,
  are stripped (--prefix selects one of several). Settings, dates and other objects in the file are
  ignored. What cannot be inferred is assumed, with a message; three options set it. Other
  precisions are converted to float32. Or a weights folder or work directory of this package.

output
  If OUT ends in .pth or .safetensors, such a file, with the names of DCPT's PyTorch code, which
  loads it with strict=True; --layout selects the names of another repository. Otherwise a weights
  folder for dcpt_jax.load and Orbax. If names are missing, unexpected or of another shape, they are
  listed and nothing is written. spandrel (NAFNet, Restormer) and deepinv (PromptIR, Restormer) read
  --layout original, see docs/models.md.

examples
  python -m dcpt_jax.convert dcpt_nafnet_5d.pth weights/
  python -m dcpt_jax.convert net_g.pth weights/ --classifier net_dc.pth --classes rain,noise,haze
  python -m dcpt_jax.convert workdir/ net_g.pth --classifier net_dc.pth
  python -m dcpt_jax.convert workdir/ nafnet.safetensors --layout original
  python -m dcpt_jax.convert workdir/ small/ --dtype float16

exit status
  0: written; 1: nothing was written, the message says why; 2: wrong use; 130: interrupted.
"""


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    result = argparse.ArgumentParser(
        prog="python -m dcpt_jax.convert",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Converts weights of DCPT's PyTorch code to a weights folder of this package, "
        "and back.",
        epilog=_DETAILS,
    )
    add = result.add_argument
    add(
        "input",
        type=expanded_path,
        metavar="IN",
        help=".pth or .safetensors file, or weights folder",
    )
    add(
        "output",
        type=expanded_path,
        metavar="OUT",
        help="folder, .pth or .safetensors file to write",
    )
    add(
        "--classifier",
        type=expanded_path,
        metavar="FILE",
        help="file of the degradation classifier of the network: read if IN is a file, written if "
        "IN is a folder",
    )
    add(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="precision in which a folder OUT stores the parameters (default: float32); half "
        "precision halves its size, and dcpt_jax.load converts it to float32 again",
    )
    add(
        "--classes",
        metavar="A,B,...",
        help="class names of the classifier read, in index order (default: class_0, class_1, ...); "
        "of a multi-hot one the names of its components",
    )
    add(
        "--label",
        choices=KINDS,
        help="labels of the classifier read: classes (flat, the default), or components of "
        "mixtures (multi_hot), several of which can be present",
    )
    add(
        "--params",
        metavar="KEY",
        help="entry of the files to read (default: the first of params_ema, params, state_dict "
        "that exists, else the whole file)",
    )
    add(
        "--prefix",
        metavar="P",
        help="read only the names in IN that start with P, such as netG., and strip it (default: "
        "a prefix that all names have is stripped)",
    )
    _add_assumed(result)
    _add_writing(result)
    return result


def _add_assumed(result: argparse.ArgumentParser) -> None:
    assumed = result.add_argument_group("network in IN: what names and shapes do not determine")
    add = assumed.add_argument
    add(
        "--attention",
        choices=("relu", "softmax"),
        help="of a Restormer (default: relu, as in DCPT, if its names have `body`, as in "
        "encoder_level1.body.0; else softmax, as in the original publication)",
    )
    add("--window-size", type=int, metavar="N", help="of a SwinIR (default: 8)")
    add(
        "--num-heads",
        metavar="N[,N,...]",
        help="of a SwinIR, one number or one for each stage (default: 6 if that divides its "
        "channels, else the next smaller number that does)",
    )


def _add_writing(result: argparse.ArgumentParser) -> None:
    writing = result.add_argument_group("writing")
    add = writing.add_argument
    add(
        "--layout",
        choices=LAYOUTS,
        help="names in the written file: DCPT's (default), those of the original repository of the "
        "network, MaskDCPT's (default for weights converted from MaskDCPT, and for a NAFNet whose "
        "norms have its epsilon) or those of its Restormer_origin",
    )
    add(
        "--force",
        action="store_true",
        help="write a --layout even if its network computes something different, such as the "
        "original Restormer (softmax) for a Restormer with ReLU attention",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace existing files (a weights folder is replaced in any case, unless it contains "
        "other files; any other folder must be empty)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, except that argparse itself exits with 2."""
    return run_command(parser(), run, arguments)


def run(options: argparse.Namespace) -> int:
    """Runs the conversion described by `options`; returns the exit status, see --help."""
    try:
        start_devices()
        convert(options)
    except (OSError, ValueError) as error:
        lines = (printable(line, 10_000) for line in str(error).splitlines())
        print("error:", "\n".join(lines), file=sys.stderr)
        return 1
    return 0


@dataclasses.dataclass(frozen=True)
class _Weights:
    """A network, perhaps with a classifier, their parameters, and the content of model.json."""

    network: nn.Module
    classifier: nn.Module | None
    params: dict[str, Any]  # {"network": ...[, "classifier": ...]}
    description: weights.WeightsDescription


def convert(options: argparse.Namespace) -> None:
    """Reads, converts and writes; all checks precede the first write.

    Raises:
        OSError: if an input cannot be read, or an output exists.
        ValueError: if a file is refused, does not fit its architecture, or the options contradict
            each other.
    """
    reads_folder, writes_file = options.input.is_dir(), files.is_file_name(options.output)
    _check(options, reads_folder, writes_file)
    with options.interruption.raising():
        read = _read_folder(options) if reads_folder else _read_files(options, writes_file)
    if not writes_file:
        if reads_folder:
            to_torch(read.params["network"], read.network, force=True)  # checks names and shapes
        params = _stored_as(options.dtype or "float32", read.params)
        options.interruption.check()
        say(f"wrote: {weights.save_weights(options.output, params, read.description)}")
        return
    layout = options.layout or read.description.source.get("layout")
    state = to_torch(read.params["network"], read.network, layout=layout, force=options.force)
    states = {options.output: state}
    if options.classifier:
        if read.classifier is None or read.description.classifier is None:
            raise ValueError(f"--classifier: the weights in {options.input} contain no classifier")
        states[options.classifier] = to_torch(read.params["classifier"], read.classifier)
        labels = read.description.classifier.labels
        kind = "components (a sigmoid each)" if labels.multi_hot else "classes"
        say(f"{kind}, in index order: {', '.join(labels.names)}")
        if labels.multi_hot:
            say(f"to read {options.classifier} again, add --label={labels.kind} --classes=...")
    elif read.classifier is not None:
        say("the classifier is left out; --classifier FILE writes it")
    with options.interruption.raising():
        files.write_checkpoints(states)
    for path in states:
        say(f"wrote: {path.absolute()}")


def _read_folder(options: argparse.Namespace) -> _Weights:
    classifier = None
    params, description = weights.load_weights(options.input)
    network = description.network()
    if description.classifier is not None:
        classifier = description.classifier.module()
    say(f"read: {summary(network, params['network'])}")
    return _Weights(network, classifier, params, description)


def _read_files(options: argparse.Namespace, writes_file: bool) -> _Weights:
    # Between two files, a classifier can be converted by itself.
    expected = ("network", "classifier") if writes_file else ("network",)
    read = _read_file(options.input, options, expected=expected)
    network = read.module
    classifier, tree, classes = None, {"network": read.params}, ()
    if options.classifier:
        resize = network.equal_feature_sizes
        classifier_file = _read_file(
            options.classifier, options, expected=("classifier",), resize=resize
        )
        classifier, tree["classifier"] = classifier_file.module, classifier_file.params
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


def _read_file(path: Path, options: argparse.Namespace, **reading_options: Any) -> ReadFile:
    """Reads a file, and prints what was recognised."""
    if path == options.input:
        reading_options |= {"prefix": options.prefix, "known": _known_arguments(options)}
    read = read_file(path, entry=options.params, **reading_options)
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


def _check(options: argparse.Namespace, reads_folder: bool, writes_file: bool) -> None:
    """Raises if options contradict each other, or other files would be overwritten."""
    output, classifier = options.output, options.classifier
    if not options.input.exists():
        raise FileNotFoundError(f"{options.input}: there is no such file or folder")
    if reads_folder and (options.classes is not None or options.params is not None):
        raise ValueError("--classes and --params apply to a file IN, not to a weights folder")
    for name in ("label", "prefix", "attention", "window_size", "num_heads"):
        if reads_folder and getattr(options, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} applies to a file IN, not to a weights folder")
    if classifier is None and (options.classes is not None or options.label is not None):
        raise ValueError("--classes and --label need --classifier FILE, whose logits they describe")
    if classifier is not None and reads_folder != writes_file:
        raise ValueError(
            "--classifier: a classifier is read from a file into a folder OUT, or written from a "
            "folder IN beside a file OUT; between two files convert it separately, between two "
            "folders it is included"
        )
    if options.dtype is not None and writes_file:
        raise ValueError("--dtype is for a folder OUT; files hold float32")
    if (options.layout or options.force) and not writes_file:
        raise ValueError("--layout and --force are for a file OUT; a folder has names of its own")
    if not writes_file:
        if output.exists() and reads_folder and output.samefile(options.input):
            raise ValueError(f"{output} is both IN and OUT")
        for path in (options.input, *([classifier] if classifier else [])):
            if path.resolve().is_relative_to(output.resolve()):
                raise ValueError(f"{path} is inside OUT, {output}, which would be replaced")
        if output.exists() and not weights.is_replaceable(output):
            raise FileExistsError(
                f"{output} exists and is not a weights folder, or contains other files; choose "
                "another"
            )
        return
    written = [output, *([classifier] if classifier else [])]
    if len({path.resolve() for path in written}) < len(written):
        raise ValueError(f"--classifier {classifier} would be the same file as OUT")
    for path in written:
        if not files.is_file_name(path):
            raise ValueError(f"{path} must end in one of {', '.join(files.SUFFIXES)}")
        if path.is_dir():
            raise FileExistsError(f"{path} is a folder; choose another name")
        if path.exists() and not options.overwrite:
            raise FileExistsError(f"{path} exists; give --overwrite to replace it")


def _known_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `recognise` from the options."""
    heads = None
    if options.num_heads is not None:
        if not all(part.strip().isdigit() for part in options.num_heads.split(",")):
            raise ValueError(f"--num-heads is {options.num_heads!r}, but must be like 6 or 6,6,3")
        heads = tuple(map(int, options.num_heads.split(",")))
    return {
        "attention": options.attention,
        "window_size": options.window_size,
        "num_heads": heads,
    }
