"""Image sheets: rows of images with a heading per column and a caption per image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_GAP = 6  # pixels between images
_TEXT_HEIGHT = 22
_LARGEST_FONT, _SMALLEST_FONT = 14, 10  # of captions


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Downscales by averaging: [h, w, 3] -> [h // factor, w // factor, 3]."""
    h, w = (side // factor for side in image.shape[:2])
    divisible = image[: h * factor, : w * factor]
    return divisible.reshape(h, factor, w, factor, 3).mean((1, 3))


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    headings: Sequence[str],
    captions: Sequence[Sequence[str]],
) -> np.ndarray:
    """An image sheet with headings above the columns and a caption above each image.

    Args:
        rows: equally large float images [h, w, 3], clipped to [0, 1] here.
        headings: one text per column.
        captions: one text per image, in the shape of `rows`; "" for none. Text wider than its image
            is set in a smaller font, and truncated if that is not enough.

    Returns:
        uint8 [h, w, 3].
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = rows[0][0].shape[:2]
    pitch_y, pitch_x = height + _TEXT_HEIGHT + _GAP, width + _GAP
    top = _TEXT_HEIGHT + 2 * _GAP
    size = (len(headings) * pitch_x + _GAP, top + len(rows) * pitch_y)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    heading_font = ImageFont.load_default(18)
    for j, heading in enumerate(headings):
        draw.text((_GAP + j * pitch_x, _GAP), heading, fill="black", font=heading_font)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            x, y = _GAP + j * pitch_x, top + i * pitch_y
            text, font = _fitting(captions[i][j], width)
            draw.text((x, y + 2), text, fill=(70, 70, 70), font=font)
            pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
            canvas.paste(Image.fromarray(pixels), (x, y + _TEXT_HEIGHT))
    return np.asarray(canvas)


def _fitting(text: str, width: int) -> tuple[str, Any]:
    """The text, truncated if necessary, and the largest font that fits `width` pixels."""
    from PIL import ImageFont

    for size in range(_LARGEST_FONT, _SMALLEST_FONT - 1, -1):
        font = ImageFont.load_default(size)
        if font.getlength(text) <= width:
            return text, font
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}...", font
