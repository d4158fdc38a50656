"""`python -m dcpt_jax.restore`: restores photo files and folders of them.

The target of each result is decided before any computation, see `targets`. JAX is imported only if
there is something to restore.
"""

import argparse
import dataclasses
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcpt_jax import image_folders, images, photo_files
from dcpt_jax.command_line import Display, UsageError, expanded_path, positive_int, run_command
from dcpt_jax.metadata import Metadata
from dcpt_jax.modes import MODES
from dcpt_jax.restore.targets import FORMATS, Job, output_folder, plan

ALPHA = ("keep", "drop", "white")
METADATA = ("keep", "none")

_DETAILS = """
what is written
  A single photo goes to the file that --output names, if it ends like one (new.png); else DIR is
  a folder. Results there have the names of their photos and, for folders, the same sub-folders
  below DIR. An input is never overwritten: a result that would lie beside its photo is named
  NAME_restored. Photos that would get the same name are told apart by suffix (x_jpg.png,
  x_png.png), folder (x_holiday.png) or a number. A finished file is never replaced without
  --overwrite, and a file appears whole or not at all. DIR is not searched for photos when it lies
  inside an INPUT.
  --format auto keeps the format of photos named .png, .tif, .webp or .bmp, which are
  lossless (WebP is written lossless), and writes PNG for JPEGs and all others. --format same
  keeps JPEG too, written with quality 95, and writes PNG only for kinds that cannot be written.
  16 bits and alpha are kept where the format can (PNG, TIFF; alpha in WebP too); grey becomes RGB
  and the first picture of an animation is taken. AVIF is read, HEIC with pillow-heif and JPEG XL
  with pillow-jxl-plugin installed; files of other formats (dng, exr, jp2, ...) in a folder are
  counted at the start.

colours and metadata
  Photos with an RGB colour profile (Display P3, Adobe RGB, ...) are restored in their own space,
  and the result has the same profile, so that viewers show the same colours; where a file states
  them without a profile, the result gets one. Linear RGB, grey, CMYK and Lab are converted to
  sRGB, and the result says sRGB; HDR (PQ, HLG) is taken for sRGB. EXIF, XMP, IPTC and the print
  resolution are kept, with the orientation reset to upright and without thumbnails; file times
  are not. Metadata may contain the place where a photo was taken (GPS): --metadata none drops
  them all. The line of each photo says what was converted or dropped.

large photos
  By default a photo runs whole as long as the network is estimated to need less than 2 GiB of
  working memory for it (about 1 megapixel for the paper's NAFNet, 0.25 for its Restormer and
  PromptIR, 0.14 for its SwinIR), and in the largest tiles that do otherwise. Neighbouring tiles
  overlap and are blended. All networks look at the whole photo in some way, so tiles give a
  slightly different result. NAFNet's share the averages of the photo, which takes about 2.5
  times as long. If memory runs out, tiles of half the side are used. Every new size of
  a whole photo is compiled once, which takes seconds to half a minute; tiles have one size, so
  --tile 512 is faster for folders of many different sizes.

local converter (--tlc)
  NAFNet averages over the whole image, and averages over a large photo differ from those over the
  crops it was trained on. The test-time local converter averages over windows of 1.5 times the
  training crop instead. It is off by default, because it may help or harm: measure it on photos
  like yours. SIZE is the training crop in pixels (128 in DCPT), auto takes it from the weights
  (crop_size in model.json; converted weights do not say it). It changes nothing for photos smaller
  than the window.

what the photos look like
  If the weights hold a classifier, each photo's line ends with its verdict, see
  `python -m dcpt_jax.inspect`. The result does not depend on it.

exit status
  0: all photos are restored or were finished before; 1: some failed, each is named with the
  reason; 2: wrong use or unusable weights; 130: interrupted, finished files are kept.
"""


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    result = argparse.ArgumentParser(
        prog="python -m dcpt_jax.restore",
        usage="%(prog)s INPUT... --output DIR [options]",
        description="Restores photos of any size with a trained network.",
        epilog=_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add(
        "inputs",
        nargs="+",
        type=expanded_path,
        metavar="INPUT",
        help="image file, or folder that is searched with its sub-folders; "
        "put -- before names that begin with a dash",
    )
    add(
        "--output",
        type=expanded_path,
        required=True,
        metavar="DIR",
        help="folder for the results; for a single photo also the file, such as new.png",
    )
    add(
        "--weights",
        type=expanded_path,
        metavar="W",
        help="weights folder, work directory of a training run, or a .pth or .safetensors file "
        "of the PyTorch original, see dcpt_jax.convert (default: the network that comes with this "
        "package)",
    )
    add(
        "--tile",
        type=_tile,
        default=None,
        metavar="N",
        help="side of the tiles in pixels; photos that are not larger run whole (default: auto, "
        "see below)",
    )
    add(
        "--ensemble",
        action="store_true",
        help="mean over the eight flips and quarter turns; takes eight times as long",
    )
    _add_result_options(result)
    add("--overwrite", action="store_true", help="restore again what is already in DIR")
    add(
        "--tlc",
        type=_tlc,
        default=None,
        metavar="SIZE|auto",
        help="use NAFNet's test-time local converter, for training crops of SIZE pixels; it may "
        "help or harm, see below (default: not used)",
    )
    return result


def _add_result_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for writing results."""
    add = parser.add_argument
    add(
        "--format",
        choices=FORMATS,
        default="auto",
        help="file format (default: %(default)s, that of the photo where nothing is lost by it, "
        "else png)",
    )
    add(
        "--alpha",
        type=str.lower,
        choices=ALPHA,
        default="keep",
        help="keep the alpha channel where the format can, drop it, or lay the photo on white "
        "(default: %(default)s)",
    )
    add(
        "--metadata",
        choices=METADATA,
        default="keep",
        help="keep EXIF, XMP, IPTC and print resolution, or drop them with place (GPS), camera "
        "and date (default: %(default)s)",
    )
    add(
        "--strength",
        type=_strength,
        default=1.0,
        metavar="S",
        help="between 0, the photo as it is, and 1, the network's result (default: 1)",
    )
    add(
        "--max-pixels",
        type=positive_int,
        default=images.MAX_PIXELS,
        metavar="N",
        help="refuse photos of more pixels, a guard against decompression bombs "
        "(default: %(default)s)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, except that argparse itself exits with 2."""
    return run_command(parser(), run, arguments)


def run(options: argparse.Namespace) -> int:
    """Restores the photos named by the options; returns the exit status, see --help."""
    began = time.monotonic()
    if options.weights is not None and not options.weights.exists():
        raise UsageError(
            f"--weights {options.weights}: no such folder or file; give a weights folder, the work "
            "directory of a training run, or a .pth or .safetensors file"
        )
    try:
        folder = output_folder(options.inputs, options.output, options.format)
        folder.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"--output {options.output} cannot be a folder: {error}") from error
    todo = plan(options.inputs, options.output, options.format)
    if not todo.jobs:
        for path, reason in todo.failures:
            print(f"failed: {path}: {reason}", file=sys.stderr)
        raise UsageError("the inputs contain no image to restore")
    display = Display(len(todo.jobs))
    if todo.earlier_results:
        shown = ", ".join(str(path) for path in todo.earlier_results[:3])
        more = ", ..." if len(todo.earlier_results) > 3 else ""
        display.line(f"ignored {len(todo.earlier_results)} earlier results: {shown}{more}")
    for text in image_folders.left_out_texts(todo.left_out):
        display.line(text)
    if changed := todo.changed_formats() if options.format == "auto" else "":
        display.line(f"{changed}, which loses nothing; --format same keeps the format")
    counts = Counter(restored=0, skipped=0, failed=0)
    for path, reason in todo.failures:
        display.failure(f"{path}: {reason}")
        counts["failed"] += 1
    interrupted, written = False, []
    try:
        _restore_all(todo.jobs, options, display, counts, written)
        options.interruption.check()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        display.close()
    for target in (target for target in written if not target.exists()):
        display.failure(f"{target}: was removed while the command ran")
        counts.update(restored=-1, failed=1)
    numbers = ", ".join(f"{count} {what}" for what, count in counts.items())
    print(
        f"{'interrupted: ' if interrupted else ''}{numbers} "
        f"in {time.monotonic() - began:.1f} s; results in {os.path.abspath(options.output)}",
        flush=True,
    )
    return options.interruption.status if interrupted else int(counts["failed"] > 0)


def _restore_all(
    jobs: Sequence[Job],
    options: argparse.Namespace,
    display: Display,
    counts: Counter,
    written: list[Path],
) -> None:
    """Runs the jobs; counts results and failures, and records the written files."""
    predict = None
    for job in jobs:
        options.interruption.check()
        if job.target.is_file() and not options.overwrite:
            counts["skipped"] += 1
            display.done(f"skipped (exists; see --overwrite): {job.target}", notable=True)
            continue
        if predict is None:
            predict, classify = _predictor(options, display)
            options.interruption.check()
        began = time.monotonic()
        try:
            (height, width), seen, remarks = _restore_file(job, predict, classify, options)
        except Exception as error:  # a failure of a library on one file must not stop the others
            counts["failed"] += 1
            named = isinstance(error, images.ImageError)
            display.failure(str(error) if named else f"{job.source}: {error or type(error)}")
            display.done()
        else:
            counts["restored"] += 1
            written.append(job.target)
            seconds = time.monotonic() - began
            notes = [f", classified as {seen}" if seen else "", *(f"; {text}" for text in remarks)]
            display.done(
                f"restored: {job.source} -> {job.target} {width}x{height} {seconds:.1f} s"
                + "".join(notes),
                notable=bool(remarks),
            )


def _restore_file(
    job: Job,
    predict: Callable[[np.ndarray], np.ndarray],
    classify: Callable[[np.ndarray], str],
    options: argparse.Namespace,
) -> tuple[tuple[int, int], str, list[str]]:
    """Reads, restores and writes one photo; returns its size, the classification and remarks."""
    pixels, carried = photo_files.read_photo(job.source, max_pixels=options.max_pixels)
    remarks = list(carried.remarks)
    if carried.alpha is not None and options.alpha != "keep":
        if options.alpha == "white":
            pixels = photo_files.on_white(pixels, carried.alpha)
        remarks.append("laid on white" if options.alpha == "white" else "alpha dropped")
        carried = dataclasses.replace(carried, alpha=None)
    if carried.metadata and options.metadata == "none":
        remarks.append(f"{', '.join(carried.metadata.names())} dropped")
        carried = dataclasses.replace(carried, metadata=Metadata())
    image = images.to_float(pixels)
    seen = classify(image)
    restored = predict(image)
    if options.strength < 1:
        restored = image + options.strength * (restored - image)
    remarks += photo_files.write_photo(job.target, restored, carried)
    return pixels.shape[:2], seen, remarks


def _predictor(
    options: argparse.Namespace, display: Display
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], str]]:
    """Loads the weights; returns functions that restore an image and classify it (or give "")."""
    import jax

    from dcpt_jax.inspect.inspector import Inspector
    from dcpt_jax.restore.predictor import Predictor

    def tile_done(done: int, total: int) -> None:
        display.tile(done, total)
        options.interruption.check()

    model, params, description, remarks = load_network(options.weights, options.tlc)
    device = jax.devices()[0]
    count = sum(leaf.size for leaf in jax.tree.leaves(params["network"]))
    display.line(
        f"network: {model.architecture}, {count / 1e6:.2f} million parameters, on "
        f"{device.platform} ({device.device_kind}); tiles {options.tile or 'auto'}"
        f"{'; self-ensemble' if options.ensemble else ''}"
        f"{''.join(f'; {remark}' for remark in remarks)}"
    )
    params = jax.device_put(params)  # shared by both functions
    predict = Predictor(
        model,
        params["network"],
        tile=options.tile,
        ensemble=options.ensemble,
        report=display.line,
        tile_done=tile_done,
    )
    if description.classifier is None:
        return predict, lambda image: ""
    inspector = Inspector(params, description)
    return predict, lambda image: inspector.labels.verdict(inspector(image))


def load_network(path: Path | None, tlc: str | None) -> tuple[Any, dict[str, Any], Any, list[str]]:
    """Loads a network, with the test-time local converter if requested.

    Returns:
        (model, its parameters and perhaps those of a classifier, `WeightsDescription`, remarks for
        the user).
    """
    from dcpt_jax import weights
    from dcpt_jax.convert.reading import read_weights

    remarks = []
    try:
        if path is None or path.is_dir():
            params, description = weights.load_weights(path)
        else:
            params, description, said = read_weights(path)
            remarks = [said]
        model = description.network()
    except (OSError, ValueError) as error:
        named = "the bundled network" if path is None else f"--weights {path}"
        raise UsageError(f"{named} cannot be used: {error}") from error
    if path is None:
        remarks = ["bundled with dcpt_jax (--weights names another)"]
    if tlc is not None:
        size = _local_converter(model, description.crop_size, tlc)
        model = description.network(tlc_size=size)
        remarks.append(f"local converter for training crops of {size} pixels")
    mode = MODES.get(description.mode)
    if mode is not None and mode.pretrains:
        remarks.append("these weights come from pre-training and have not learned to restore")
    return model, params, description, remarks


def _local_converter(model: Any, crop: int | None, tlc: str) -> int:
    """The network's `tlc_size` for --tlc, "auto" or a size."""
    from dcpt_jax import weights

    if not hasattr(model, "tlc_size"):
        raise UsageError(f"--tlc {tlc}: {model.architecture} has no local converter; leave it out")
    if tlc != "auto":
        crop = int(tlc)
    if crop is None:
        raise UsageError(
            "--tlc auto: model.json of these weights does not say crop_size; give it, --tlc SIZE"
        )
    return weights.local_converter_size(model, crop)


def _tile(text: str) -> int | None:
    """Value of --tile."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a number of pixels >= 1")
    return int(text)


def _strength(text: str) -> float:
    """Value of --strength."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def _tlc(text: str) -> str:
    """Value of --tlc."""
    is_size = text.isascii() and text.isdigit() and int(text) > 0
    if text != "auto" and not is_size:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a size in pixels")
    return text
