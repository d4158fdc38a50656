"""Damage in JPEG files that decoders pass over: they fill what is missing with grey, or noise.

JPEG has no checksums, so damage in the middle of its data cannot be told from picture content in
general. What is found here is what interrupted downloads and failing disks leave behind.
"""

import io
import re

import numpy as np
from PIL import JpegImagePlugin

from dcpt_jax.image_headers import JPEG_END

_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_HOLE = 256  # zero bytes; real data have as many only in flat parts of a picture


def find_damage(data: bytes, start: int, *, is_sequential: bool, ends_grey: bool) -> str:
    """What is wrong with the data of a JPEG file that can be decoded; "" if nothing is found.

    Args:
        data: content of the file.
        start: offset of the data of its first scan.
        is_sequential: whether each block is stored once and whole, that is, not progressive.
        ends_grey: whether the last row of its pixels is mid grey, or one colour if it is CMYK.
    """
    if not is_sequential:
        return "" if _is_complete(data, start) else "the picture's finer scans are missing"
    end = data.find(JPEG_END, start)
    if data.find(_SCAN, start, end) >= 0:  # a scan for each channel
        return ""
    if ends_grey and _is_filled_with_grey(data, start, end):
        return "the JPEG data end before the picture does, the rest would be grey"
    return "there are zeros in place of JPEG data" if _has_hole(data, start, end) else ""


def is_cmyk(data: bytes, start: int) -> bool:
    """Whether a file has four channels."""
    return data[data.rfind(_SCAN, 0, start) + 4] == 4


def _is_complete(data: bytes, start: int) -> bool:
    """Whether the scans of a progressive file store all bits of every coefficient of each channel.

    Files that were cut lack the last scans.
    """
    stored: dict[int, set[int]] = {}
    at = data.rfind(_SCAN, 0, start)
    while at >= 0 and data[at + 1] != JPEG_END[1]:
        if data[at + 1] == _SCAN[1]:
            count = data[at + 4]
            spectrum = data[at + 5 + 2 * count :][:3]
            if len(spectrum) < 3:
                return False
            for i in range(count):
                coefficients = stored.setdefault(data[at + 5 + 2 * i], set())
                if spectrum[2] & 15 == 0:  # down to the last bit
                    coefficients.update(range(spectrum[0], spectrum[1] + 1))
        behind = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found = _MARKER.search(data, behind)
        at = found.start() if found else -1
    return all(len(coefficients) == 64 for coefficients in stored.values())


def _is_filled_with_grey(data: bytes, start: int, end: int) -> bool:
    """Whether there are no data for the lower part, which decoders fill with mid grey.

    They do so where the data end early in an end mark that somebody put back. If eight bytes less
    change nothing in the last rows, then those rows are made of no data: in eight bytes there are
    at most 40 blocks of 64 pixels, of two bits each.
    """
    stop = len(data[:end].rstrip(b"\xff"))
    pixels, other = _decode(data, end), _decode(data, max(stop - 8, start))
    changed = np.flatnonzero((other != pixels).any(axis=(1, 2)))
    if not len(changed):  # the whole picture is grey
        return False
    # Enlarging the colours carries changes one row too far.
    below = len(pixels) - (max(changed[-1] - 1, 0) // 16 + 1) * 16
    return below * pixels.shape[1] > 40 * 64


def _has_hole(data: bytes, start: int, end: int) -> bool:
    """Whether a long run of zeros stands for a part of the picture that is not flat.

    In flat parts zeros can be real data: with tables made for a picture, each block of one colour
    may be some zero bits. Damage decodes to texture, or to fewer blocks than the zeros could be.
    """
    first = data.find(bytes(_HOLE), start, end)
    if first < 0:
        return False
    last = first + len(data[first:end]) - len(data[first:end].lstrip(b"\0"))
    without, filled = _decode(data, first), _decode(data, last)
    made = (without != filled).any(axis=2)
    if not made.any():
        return False
    steps = np.abs(np.diff(filled.astype(np.int16), axis=1)).max(axis=2) > 2
    return bool(steps[made[:, 1:]].mean() > 0.1)


def _decode(data: bytes, stop: int) -> np.ndarray:
    """Decodes the file as if its data stopped there; [h, w, c], by Pillow, which says nothing."""
    with JpegImagePlugin.JpegImageFile(io.BytesIO(data[:stop].rstrip(b"\xff") + JPEG_END)) as image:
        return np.atleast_3d(np.asarray(image))
