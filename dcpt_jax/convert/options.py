"""The command line of `python -m dcpt_jax.convert`: its options, and which go together."""

import argparse
from pathlib import Path
from typing import Any

from dcpt_jax import weights
from dcpt_jax.convert import files
from dcpt_jax.labels import KINDS

_DETAILS = """
what is read
  A .pth or .safetensors file of NAFNet, Restormer, PromptIR, DCPT's SwinIR or DCPT's classifier,
  as DCPT, MaskDCPT or (but for SwinIR) their authors publish them;
  PyTorch is not needed, and nothing in the file is run. Architecture and sizes are recognised from
  the names and shapes in it, also behind the prefixes of DataParallel (module.) and Lightning
  (net.), or any other prefix that all names have (--prefix chooses among several). Settings,
  dates and other objects beside the weights are ignored. What names and shapes do not tell is
  assumed, with a message: see the three options for it. Parameters are float32 here; other
  precisions are converted. Or a weights folder or work directory of this package.

what is written
  If OUT ends in .pth or .safetensors: such a file, with the names of the PyTorch original, which
  loads it with strict=True. Otherwise a weights folder, which dcpt_jax.load and Orbax read. Names
  that are missing, unexpected or of another shape are listed, and then nothing is written.
  A NAFNet's names are DCPT's (decoder0.), also where those read were its authors' (decoders.0.).

examples
  python -m dcpt_jax.convert dcpt_nafnet_5d.pth weights/
  python -m dcpt_jax.convert net_g.pth weights/ --classifier net_dc.pth --classes rain,noise,haze
  python -m dcpt_jax.convert workdir/ net_g.pth --classifier net_dc.pth
  python -m dcpt_jax.convert workdir/ small/ --dtype float16

exit status
  0: written; 1: nothing was written, the message says why; 2: wrong use; 130: interrupted.
"""


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    result = argparse.ArgumentParser(
        prog="python -m dcpt_jax.convert",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Turns weights of DCPT's PyTorch code into a weights folder of this package, "
        "and back.",
        epilog=_DETAILS,
    )
    add = result.add_argument
    add("input", type=Path, metavar="IN", help=".pth or .safetensors file, or weights folder")
    add("output", type=Path, metavar="OUT", help="folder, .pth or .safetensors file to write")
    add(
        "--classifier",
        type=Path,
        metavar="FILE",
        help="file of the degradation classifier that belongs to the network: read if IN is a "
        "file, written if IN is a folder",
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
        help="names of the classes of the classifier that is read, in index order (default: "
        "class_0, class_1, ...); of a multi-hot one those of its components",
    )
    add(
        "--label",
        choices=KINDS,
        help="what the classifier that is read tells: classes, or components of mixtures, of which "
        "several can be there (default: flat)",
    )
    add(
        "--params",
        metavar="KEY",
        help="entry of the files to take (default: the first of params_ema, params, state_dict "
        "that is there, else the whole file)",
    )
    add(
        "--prefix",
        metavar="P",
        help="take only the names in IN that start with P, such as netG., and strip it (default: "
        "a prefix that all names have is stripped)",
    )
    _add_assumed(result)
    _add_writing(result)
    return result


def _add_assumed(result: argparse.ArgumentParser) -> None:
    assumed = result.add_argument_group("what names and shapes do not tell of the network in IN")
    add = assumed.add_argument
    add(
        "--attention",
        choices=("relu", "softmax"),
        help="of a Restormer (default: relu, as DCPT's, if its names have `body`, as "
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
        "--body",
        action=argparse.BooleanOptionalAction,
        help="whether the names of a written Restormer have `body`, as in DCPT's, or not, as in "
        "the original and DCPT's Restormer_origin (default: for relu attention)",
    )
    add(
        "--blocks",
        action=argparse.BooleanOptionalAction,
        help="whether the names of a written NAFNet, Restormer or PromptIR are MaskDCPT's, as "
        "encoder_level1.blocks.0 (default: if those once read were, and for a NAFNet whose norms "
        "have MaskDCPT's epsilon)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace files that exist (a weights folder is replaced without it, if nothing else "
        "is in it; any other folder never)",
    )


def check(options: argparse.Namespace, reads_folder: bool, writes_file: bool) -> None:
    """Raises unless the options fit each other and nothing of the user's would be replaced."""
    output, classifier = options.output, options.classifier
    if not options.input.exists():
        raise FileNotFoundError(f"{options.input}: there is no such file or folder")
    if reads_folder and (options.classes is not None or options.params is not None):
        raise ValueError("--classes and --params are for a file IN; a weights folder says itself")
    for name in ("label", "prefix", "attention", "window_size", "num_heads"):
        if reads_folder and getattr(options, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} is for a file IN; a weights folder says itself")
    if classifier is not None and reads_folder != writes_file:
        raise ValueError(
            "--classifier: a classifier is read from a file into a folder OUT, or written from a "
            "folder IN beside a file OUT; between two files convert it by itself, between two "
            "folders it comes along"
        )
    if options.dtype is not None and writes_file:
        raise ValueError("--dtype is for a folder OUT; files hold float32")
    for name in ("body", "blocks"):
        if getattr(options, name) is not None and not writes_file:
            raise ValueError(
                f"--{name} and --no-{name} are for a file OUT; a folder has names of its own"
            )
    if options.body and options.blocks:
        raise ValueError("--body and --blocks are two layouts of names; choose one")
    if not writes_file:
        if output.exists() and reads_folder and output.samefile(options.input):
            raise ValueError(f"{output} is both IN and OUT")
        for path in (options.input, *([classifier] if classifier else [])):
            if path.resolve().is_relative_to(output.resolve()):
                raise ValueError(f"{path} is inside OUT, {output}, which would be replaced")
        if output.exists() and not weights.is_weights_folder(output):
            raise FileExistsError(
                f"{output} exists and is no weights folder, or holds other files too; choose "
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


def told(options: argparse.Namespace) -> dict[str, Any]:
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
