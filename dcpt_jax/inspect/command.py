"""`python -m dcpt_jax.inspect`: predicts the degradations of photo files."""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcpt_jax import images
from dcpt_jax.command_line import Display, UsageError, expanded_path, positive_int, run_command
from dcpt_jax.images import listing

_SHOWN = 0.005  # probabilities below this are left out of the table

_DETAILS = """
output
  For each photo, the verdict and the probabilities in descending order; the table omits those below
  0.5 %. A flat classifier selects exactly one of its classes, so it predicts a degradation for
  clean photos, too, unless "clean" is a class. A multi-hot classifier predicts each degradation
  independently: the verdict joins all above 50 %, such as rain+haze, or is "clean".

large and small photos
  The classifier was trained on crops of one size (crop_size in model.json, default 128). The logits
  of at most 16 crops of that size, spread evenly over the photo, are averaged. Smaller photos are
  padded by reflection.

exit status
  0: all photos are inspected; 1: some failed, with the reasons on the error stream; 2: invalid
  options, or weights that cannot be loaded or contain no classifier; 130: interrupted.
"""


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    result = argparse.ArgumentParser(
        prog="python -m dcpt_jax.inspect",
        usage="%(prog)s PHOTO... [options]",
        description="Predicts the degradations of photos of any size.",
        epilog=_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add(
        "inputs",
        nargs="+",
        type=expanded_path,
        metavar="PHOTO",
        help="image file, or folder that is searched recursively; put -- before names that start "
        "with a dash",
    )
    add(
        "--weights",
        type=expanded_path,
        metavar="W",
        help="weights folder or work directory of a training run, with a classifier (default: the "
        "bundled network)",
    )
    add(
        "--json",
        action="store_true",
        help="print a line of JSON per photo, with file, verdict and probabilities",
    )
    add(
        "--max-pixels",
        type=positive_int,
        default=images.MAX_PIXELS,
        metavar="N",
        help="reject photos with more pixels (default: %(default)s)",
    )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, except that argparse itself exits with 2."""
    return run_command(parser(), run, arguments)


def run(options: argparse.Namespace) -> int:
    """Inspects the photos named by the options; returns the exit status, see --help."""
    photos, failures, left_out = find_photos(options.inputs)
    if not photos:
        for path, reason in failures:
            print(f"failed: {path}: {reason}", file=sys.stderr)
        raise UsageError("the inputs contain no image to inspect")
    inspector = _inspector(options.weights)
    display = Display(len(photos))
    for text in listing.left_out_texts(left_out):
        print(text, file=sys.stderr)
    try:
        for path, reason in failures:
            display.failure(f"{path}: {reason}")
        failed = len(failures) + _inspect_all(photos, inspector, display, options)
    finally:
        display.close()
    return int(failed > 0)


def find_photos(
    inputs: Sequence[Path],
) -> tuple[list[Path], list[tuple[Path, str]], Counter[str]]:
    """The photos named by files and folders, (input, reason) of failures, and files left out."""
    photos, failures, left_out = {}, [], Counter()
    for path in inputs:
        try:
            paths, counts = listing.find_images(path)
        except OSError as error:
            failures.append((path, error.strerror or str(error)))
            continue
        left_out += counts
        for photo in paths:
            photos.setdefault(os.path.abspath(photo), photo)
    return list(photos.values()), failures, left_out


def _inspect_all(
    photos: Sequence[Path], inspector: Any, display: Display, options: argparse.Namespace
) -> int:
    """Prints the result of each photo; returns the number of failures."""
    failed = 0
    widths = [
        max(len(title), *(len(str(text)) for text in texts))
        for title, texts in (("file", photos), ("verdict", inspector.labels.names))
    ]
    if not options.json:
        display.line(_row(("file", "verdict", "probabilities"), widths))
    for photo in photos:
        options.interruption.check()
        try:
            probabilities = inspector(images.read_image(photo, max_pixels=options.max_pixels))
        except Exception as error:  # a failure of a library on one file must not stop the others
            failed += 1
            named = isinstance(error, images.ImageError)
            reason = str(error) or type(error).__name__  # such as MemoryError
            display.failure(reason if named else f"{photo}: {reason}")
        else:
            verdict = inspector.labels.verdict(probabilities)
            if options.json:
                entry = {"file": str(photo), "verdict": verdict, "probabilities": probabilities}
                display.line(json.dumps(entry))
            else:
                shown = (f"{name} {p:.0%}" for name, p in probabilities.items() if p >= _SHOWN)
                display.line(_row((str(photo), verdict, ", ".join(shown)), widths))
        display.done()
    if not options.json and inspector.labels.multi_hot:
        display.line("The probabilities are independent; the verdict lists all above 50%.")
    options.interruption.check()
    return failed


def _row(texts: tuple[str, str, str], widths: Sequence[int]) -> str:
    return f"{texts[0]:{widths[0]}}  {texts[1]:{widths[1]}}  {texts[2]}".rstrip()


def _inspector(weights: Path | None) -> Any:
    """Loads the classifier; UsageError if that fails."""
    from dcpt_jax.inspect.inspector import Inspector

    if weights is not None and not weights.exists():
        raise UsageError(
            f"--weights {weights}: no such folder; give a weights folder or the work directory of "
            "a training run"
        )
    try:
        inspector = Inspector.load(weights)
    except (OSError, ValueError) as error:
        raise UsageError(f"--weights: {error}") from error
    if weights is None:
        print("weights: bundled with dcpt_jax (--weights selects others)", file=sys.stderr)
    return inspector
