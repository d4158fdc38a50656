"""Draws a contact sheet of every degradation at three strengths.

`python -m dcpt_jax.degradations.sheet --output sheet.png [--photo PHOTO] [--crop 64] [--only snow]`
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from dcpt_jax import degradations, files, images
from dcpt_jax.command_line import UsageError, expanded_path, run_command

_CAPTION_HEIGHT = 20  # pixels
_FRAME = 4  # pixels of white between pictures
_SUFFIXES = (".png", ".jpg", ".jpeg")


def three_strengths(degradation: degradations.Degradation) -> tuple[float, float, float]:
    """The low end, middle and high end of the training range.

    For a class with a single strength, 1/3, 2/3 and all of it.
    """
    low, high = degradation.strength_range
    if low == high:
        return high / 3, 2 * high / 3, high
    return low, (low + high) / 2, high


def draw_sheet(
    photo: np.ndarray,
    *,
    cell: int = 256,
    crop: int = 0,
    seed: int = 0,
    draws: int = 0,
    only: Sequence[str] = (),
) -> np.ndarray:
    """Lays out clean, mild, medium and strong side by side, one row per degradation.

    Args:
        photo: float32 [h, w, 3], RGB, [0, 1].
        cell: side of each picture with its frame, in pixels.
        crop: degrade only the central [crop, crop] pixels of the photo and enlarge them, as a
            network sees them in training; 0 = degrade the central square of the photo, resized to
            the cell.
        seed: random seed; mild, medium and strong of a row use the same one.
        draws: number of additional strong pictures per row, with other seeds.
        only: names of the degradations to draw; () = all but `clean`.

    Returns:
        uint8 [rows, columns, 3], RGB.

    Raises:
        ValueError: for an unknown name; lists the known ones.
    """
    clean = _middle_square(photo, crop or min(photo.shape[:2]))
    if not crop:
        clean = cv2.resize(clean, (cell - _FRAME, cell - _FRAME), interpolation=cv2.INTER_AREA)
    rows = []
    for name in only or [name for name in degradations.names() if name != "clean"]:
        entry = degradations.get(name)
        strengths = three_strengths(entry)
        shown = [*zip(("mild", "medium", "strong"), strengths, [seed] * 3, strict=True)]
        shown += [("strong", strengths[-1], seed + 1 + draw) for draw in range(draws)]
        cells = [_captioned(clean, cell, f"{name}: clean")]
        for word, strength, its_seed in shown:
            spec = f"{name}:{strength}" if entry.largest else name
            degraded = degradations.degrade(clean, spec, seed=its_seed)
            error = np.mean((np.clip(degraded, 0, 1) - clean) ** 2)
            caption = f"{word} {strength:.3g}   {-10 * np.log10(max(error, 1e-10)):.1f} dB"
            cells.append(_captioned(degraded, cell, caption))
        rows.append(np.hstack(cells))
    return np.vstack(rows)


def table() -> str:
    """Markdown table of all degradations, for docs/degradations.md."""
    lines = [
        "| name | what | strength | drawn from | up to | result in [0, 1] | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in degradations.names():
        entry = degradations.get(name)
        low, high = entry.strength_range
        drawn = f"{low:g} to {high:g}" if low < high else f"{high:g}"
        largest = f"{entry.largest:g}"
        if not entry.largest:
            drawn = largest = "none"
        clips = "yes" if entry.clips else "no"
        lines.append(
            f"| `{name}` | {entry.summary} | {entry.unit} | {drawn} | {largest} | {clips} "
            f"| {entry.source} |"
        )
    return "\n".join(lines)


def _middle_square(photo: np.ndarray, side: int) -> np.ndarray:
    """The central [side, side] pixels, or fewer if the photo is smaller; contiguous."""
    top, left = (max(length - side, 0) // 2 for length in photo.shape[:2])
    return np.ascontiguousarray(photo[top : top + side, left : left + side])


def _captioned(image: np.ndarray, cell: int, caption: str) -> np.ndarray:
    """uint8 [caption + cell, cell, 3], with a white frame at the right and bottom."""
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    picture = np.full((_CAPTION_HEIGHT + cell, cell, 3), 255, np.uint8)
    side = cell - _FRAME
    inner = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_NEAREST)
    picture[_CAPTION_HEIGHT:-_FRAME, :-_FRAME] = inner
    cv2.putText(
        picture, caption, (2, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA
    )
    return picture


def _read_photo(path: Path | None) -> np.ndarray:
    """float32 [h, w, 3], RGB, [0, 1]: the file, or a portrait from scikit-image."""
    if path is None:
        try:
            from skimage import data
        except ImportError as error:
            raise ValueError(
                'the default photo comes with scikit-image, of the extra "train": '
                'pip install "dcpt_jax[train]", or name a photo with --photo'
            ) from error
        return data.astronaut().astype(np.float32) / np.float32(255.0)
    return images.read_image(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=expanded_path, help="PNG or JPEG file to write")
    parser.add_argument("--table", action="store_true", help="print the table of all classes")
    parser.add_argument(
        "--photo", type=expanded_path, help="photo to degrade (default: one of scikit-image)"
    )
    parser.add_argument("--cell", type=int, default=256, help="side of each picture (pixels)")
    parser.add_argument("--crop", type=int, default=0, help="crop a central square (pixels)")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--draws", type=int, default=0, help="additional strong pictures per row")
    parser.add_argument("--only", default="", help="names of degradations, separated by commas")
    return run_command(parser, run, arguments)


def run(options: argparse.Namespace) -> int:
    """Draws the sheet, or prints the table, described by `options`."""
    if options.table:
        print(table())
        if options.output is None:
            return 0
    try:
        if options.output is None:
            raise ValueError("--output FILE.png or --table is needed")
        if options.cell < 16 or min(options.crop, options.seed, options.draws) < 0:
            raise ValueError("--cell must be at least 16, --crop, --seed and --draws at least 0")
        suffix = options.output.suffix.lower()
        if suffix not in _SUFFIXES:
            raise ValueError(f"--output {options.output}: must end in {', '.join(_SUFFIXES)}")
        sheet = draw_sheet(
            _read_photo(options.photo),
            cell=options.cell,
            crop=options.crop,
            seed=options.seed,
            draws=options.draws,
            only=[name.strip() for name in options.only.split(",") if name.strip()],
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    options.interruption.check()
    bgr = cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)
    # 4:4:4, since chroma subsampling would hide the artefacts of demosaicing.
    full_colour = [
        *(cv2.IMWRITE_JPEG_QUALITY, 90),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    ]
    encoded = cv2.imencode(suffix, bgr, [] if suffix == ".png" else full_colour)[1]
    files.write_bytes(options.output, encoded.tobytes())
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
