"""`python -m dcpt_jax.restore`: restores photo files and folders of them.

The target of each result is decided before any computation, see `targets`. JAX is imported only if
there is something to restore.
"""

import argparse
import dataclasses
import errno
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcpt_jax import files, images
from dcpt_jax.command_line import Display, UsageError, expanded_path, positive_int, run_command
from dcpt_jax.images import listing, photo_files
from dcpt_jax.images.metadata import Metadata
from dcpt_jax.modes import MODES
from dcpt_jax.restore.targets import FORMATS, Job, output_folder, plan

ALPHA = ("keep", "drop", "white")
METADATA = ("keep", "none")

_DETAILS = """
output files
  For a single photo, --output may be a file with an image suffix (new.png). Otherwise it is a
  folder: results have the names of their photos, and photos of a folder the same sub-folders. An
  input is never overwritten: a result in the folder of its photo is named NAME_restored. Equal
  names are distinguished by suffix (x_jpg.png, x_png.png), folder (x_holiday.png) or a number.
  Names of over 255 bytes are shortened. Finished files are skipped unless --overwrite is given, and
  each file is written atomically. If DIR is inside an INPUT, it is not searched for photos.
  --format auto keeps lossless formats (.png, .tif, .webp, .bmp; WebP is written lossless) and
  writes all others, such as JPEG, as PNG. --format same also keeps JPEG, with quality 95, and uses
  PNG only for formats that cannot be written. 16 bits and alpha are kept if the format supports
  them (PNG, TIFF; alpha also in WebP). Grey becomes RGB, and only the first frame of an animation
  is restored. AVIF can be read, HEIC with pillow-heif and JPEG XL with pillow-jxl-plugin. Files of
  other formats in a folder (dng, exr, jp2, ...) are skipped, and counted at the start.

colours and metadata
  Photos with an RGB colour profile (Display P3, Adobe RGB, ...) are restored in their own colour
  space, and the result has the same profile; if the file states the space in another way, a profile
  is added. Linear RGB, grey, CMYK and Lab are converted to sRGB, and the result has an sRGB
  profile. HDR (PQ, HLG) is treated as sRGB. EXIF, XMP, IPTC and print resolution are kept, with
  upright orientation and without thumbnails; file times are not kept. Metadata may contain the
  location of the photo (GPS): --metadata none removes all of it. The output line of each photo
  lists conversions and losses.

large photos
  A photo is restored as a whole if the estimated working memory of the network is below 2 GiB
  (about 1 megapixel for the paper's NAFNet, 0.25 for Restormer and PromptIR, 0.14 for SwinIR),
  otherwise in the largest tiles that satisfy this limit. Neighbouring tiles overlap and are
  blended. As all networks depend on the whole photo in some way, the result of tiles is slightly
  different. For tiles of NAFNet the averages over the photo are estimated first, which takes as
  long as restoring 5 to 20 megapixels, less for photos below 2. If the memory is insufficient, the
  side of the tiles is halved. Compilation takes seconds to half a minute for every new photo size;
  all tiles have one size, so with the other networks --tile 512 is faster for folders with many
  different sizes.

local converter (--tlc)
  NAFNet averages over the whole image, but was trained with averages over crops. The test-time
  local converter averages over windows of 1.5 times the training crop instead. It may improve or
  worsen the result, so it is off by default: measure its effect on similar photos. SIZE is the size
  of the training crops in pixels (128 in DCPT); auto reads it from the weights (crop_size in
  model.json, which converted weights lack). Photos smaller than the window are not affected.

classification
  If the weights contain a classifier, the output line of each photo ends with its verdict, see
  `python -m dcpt_jax.inspect`. The verdict does not affect the result.

exit status
  0: all photos are restored or skipped as finished; 1: some failed, with the reasons on the error
  stream; 2: invalid options or weights; 130: interrupted, finished files are kept.
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
        help="image file, or folder that is searched recursively; put -- before names that start "
        "with a dash",
    )
    add(
        "--output",
        type=expanded_path,
        required=True,
        metavar="DIR",
        help="output folder; for a single photo also a file, such as new.png",
    )
    add(
        "--weights",
        type=expanded_path,
        metavar="W",
        help="weights folder, work directory of a training run, or .pth or .safetensors file of "
        "the PyTorch original, see dcpt_jax.convert (default: the bundled network)",
    )
    add(
        "--tile",
        type=_tile,
        default=None,
        metavar="N",
        help="side of the tiles in pixels; smaller photos are restored as a whole (default: auto, "
        "see below)",
    )
    add(
        "--ensemble",
        action="store_true",
        help="average over the eight flips and quarter turns; takes eight times as long",
    )
    _add_result_options(result)
    add("--overwrite", action="store_true", help="replace finished results")
    add(
        "--tlc",
        type=_tlc,
        default=None,
        metavar="SIZE|auto",
        help="use NAFNet's test-time local converter for training crops of SIZE pixels, see below "
        "(default: off)",
    )
    return result


def _add_result_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for writing results."""
    add = parser.add_argument
    add(
        "--format",
        type=str.lower,
        choices=FORMATS,
        default="auto",
        help="file format (default: %(default)s, the format of the photo if it is lossless, else "
        "png)",
    )
    add(
        "--alpha",
        type=str.lower,
        choices=ALPHA,
        default="keep",
        help="keep the alpha channel if the format supports it, drop it, or blend the photo over "
        "white (default: %(default)s)",
    )
    add(
        "--metadata",
        type=str.lower,
        choices=METADATA,
        default="keep",
        help="keep EXIF, XMP, IPTC and print resolution, or remove them, including location "
        "(GPS), camera and date (default: %(default)s)",
    )
    add(
        "--strength",
        type=_strength,
        default=1.0,
        metavar="S",
        help="blend of the photo (0) and the network's result (1) (default: 1)",
    )
    add(
        "--max-pixels",
        type=positive_int,
        default=images.MAX_PIXELS,
        metavar="N",
        help="reject photos with more pixels, against decompression bombs (default: %(default)s)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, except that argparse itself exits with 2."""
    return run_command(parser(), run, arguments)


def run(options: argparse.Namespace) -> int:
    """Restores the photos named by the options; returns the exit status, see --help."""
    start = time.monotonic()
    if options.weights is not None and not options.weights.exists():
        raise UsageError(
            f"--weights {options.weights}: no such folder or file; give a weights folder, the work "
            "directory of a training run, or a .pth or .safetensors file"
        )
    try:
        folder = output_folder(options.inputs, options.output, options.format)
        files.make_folder(folder)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"--output {options.output} cannot be a folder: {error}") from error
    planned = plan(options.inputs, options.output, options.format)
    if not planned.jobs:
        for path, reason in planned.failures:
            print(f"failed: {path}: {reason}", file=sys.stderr)
        raise UsageError("the inputs contain no image to restore")
    display = Display(len(planned.jobs))
    if planned.earlier_results:
        shown = ", ".join(str(path) for path in planned.earlier_results[:3])
        ellipsis = ", ..." if len(planned.earlier_results) > 3 else ""
        display.line(f"ignored {len(planned.earlier_results)} earlier results: {shown}{ellipsis}")
    for text in listing.left_out_texts(planned.left_out):
        display.line(text)
    if changed := planned.changed_formats() if options.format == "auto" else "":
        display.line(f"{changed}, which is lossless; --format same keeps the format")
    counts = Counter(restored=0, skipped=0, failed=0)
    for path, reason in planned.failures:
        display.failure(f"{path}: {reason}")
        counts["failed"] += 1
    interrupted, written = False, []
    try:
        _restore_all(planned.jobs, options, display, counts, written)
        options.interruption.check()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        display.close()
    for target in (target for target in written if not target.exists()):
        display.failure(f"{target}: was deleted while the command was running")
        counts.update(restored=-1, failed=1)
    numbers = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    print(
        f"{'interrupted: ' if interrupted else ''}{numbers} "
        f"in {time.monotonic() - start:.1f} s; results in {os.path.abspath(options.output)}",
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
    for number, job in enumerate(jobs, 1):
        options.interruption.check()
        if not options.overwrite and _is_finished(job.target):
            counts["skipped"] += 1
            display.done(f"skipped (exists; see --overwrite): {job.target}", notable=True)
            continue
        if predict is None:
            predict, classify = _predictor(options, display)
            options.interruption.check()
        start = time.monotonic()
        try:
            (height, width), verdict, remarks = _restore_file(job, predict, classify, options)
        except Exception as error:  # a failure of a library on one file must not stop the others
            counts["failed"] += 1
            named = isinstance(error, images.ImageError)
            reason = str(error) or type(error).__name__  # such as MemoryError
            display.failure(reason if named else f"{job.source}: {reason}")
            display.done()
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                if number < len(jobs):
                    display.failure(f"the disk is full: {len(jobs) - number} more are not tried")
                return
        else:
            counts["restored"] += 1
            written.append(job.target)
            seconds = time.monotonic() - start
            notes = [
                f", classified as {verdict}" if verdict else "",
                *(f"; {text}" for text in remarks),
            ]
            display.done(
                f"restored: {job.source} -> {job.target} {width}x{height} {seconds:.1f} s"
                + "".join(notes),
                notable=bool(remarks),
            )


def _is_finished(target: Path) -> bool:
    """Whether a result exists; a power failure can leave an empty one."""
    try:
        return target.is_file() and target.stat().st_size > 0
    except OSError:  # writing will report it
        return False


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
        remarks.append("blended over white" if options.alpha == "white" else "alpha dropped")
        carried = dataclasses.replace(carried, alpha=None)
    if carried.metadata and options.metadata == "none":
        remarks.append(f"{', '.join(carried.metadata.names())} dropped")
        carried = dataclasses.replace(carried, metadata=Metadata())
    image = images.to_float(pixels)
    verdict = classify(image)
    restored = predict(image)
    if options.strength < 1:
        restored = image + options.strength * (restored - image)
    remarks += photo_files.write_photo(job.target, restored, carried)
    return pixels.shape[:2], verdict, remarks


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
            params, description, summary = read_weights(path)
            remarks = [summary]
        model = description.network()
    except (OSError, ValueError) as error:
        named = "the bundled network" if path is None else f"--weights {path}"
        raise UsageError(f"cannot use {named}: {error}") from error
    if path is None:
        remarks = ["bundled with dcpt_jax (--weights selects another)"]
    if tlc is not None:
        size = _local_converter(model, description.crop_size, tlc)
        model = description.network(tlc_size=size)
        remarks.append(f"local converter for training crops of {size} pixels")
    mode = MODES.get(description.mode)
    if mode is not None and mode.pretrains:
        remarks.append("these weights are from pre-training and were not trained to restore")
    return model, params, description, remarks


def _local_converter(model: Any, crop: int | None, tlc: str) -> int:
    """The network's `tlc_size` for --tlc, "auto" or a size."""
    from dcpt_jax import weights

    if not hasattr(model, "tlc_size"):
        raise UsageError(f"--tlc {tlc}: {model.architecture} has no local converter; remove --tlc")
    if tlc != "auto":
        crop = int(tlc)
    if crop is None:
        raise UsageError("--tlc auto: model.json of these weights has no crop_size; set --tlc SIZE")
    return weights.local_converter_size(model, crop)


def _tile(text: str) -> int | None:
    """Value of --tile."""
    if text == "auto":
        return None
    try:
        return positive_int(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor auto") from error


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
    return str(_tile(text) or text)
