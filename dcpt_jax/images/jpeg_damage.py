"""Detects damage in JPEG files that decoders ignore, filling missing parts with grey or noise.

JPEG has no checksums, so damage inside its data cannot be distinguished from picture content in
general. This module detects the results of interrupted downloads and failing disks.
"""

import io
import re

import numpy as np
from PIL import JpegImagePlugin

from dcpt_jax.images.headers import JPEG_END

_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_HOLE = 256  # zero bytes; valid data have as many only in flat parts of a picture


def find_damage(data: bytes, start: int, *, is_sequential: bool, ends_grey: bool) -> str:
    """Describes the damage in the data of a decodable JPEG file; "" if none is found.

    Args:
        data: content of the file.
        start: offset of the data of its first scan.
        is_sequential: whether each block is stored once and complete, that is, not progressive.
        ends_grey: whether the last row of its pixels is mid grey, or a single colour for CMYK.
    """
    if not is_sequential:
        return (
            ""
            if _is_complete(data, start)
            else "the last scans of the progressive image are missing"
        )
    end = data.find(JPEG_END, start)
    if data.find(_SCAN, start, end) >= 0:  # one scan per channel
        return ""
    if ends_grey and _is_filled_with_grey(data, start, end):
        return "the JPEG data end before the image is complete"
    return "a part of the JPEG data is zeros" if _has_hole(data, start, end) else ""


def is_cmyk(data: bytes, start: int) -> bool:
    """Whether a file has four channels."""
    return data[data.rfind(_SCAN, 0, start) + 4] == 4


def _is_complete(data: bytes, start: int) -> bool:
    """Whether the scans of a progressive file have all bits of every coefficient of each channel.

    Truncated files lack the last scans.
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
        marker = _MARKER.search(data, behind)
        at = marker.start() if marker else -1
    return all(len(coefficients) == 64 for coefficients in stored.values())


def _is_filled_with_grey(data: bytes, start: int, end: int) -> bool:
    """Whether the lower part of the picture has no data, which decoders fill with mid grey.

    They do so if the data end early and an end mark was added again. If removing eight bytes
    changes nothing in the last rows, then these rows have no data: eight bytes hold at most 40
    blocks of 64 pixels, of two bits each.
    """
    stop = len(data[:end].rstrip(b"\xff"))
    pixels, truncated = _decode(data, end), _decode(data, max(stop - 8, start))
    changed = np.flatnonzero((truncated != pixels).any(axis=(1, 2)))
    if not len(changed):  # the picture is completely grey
        return False
    # Chroma upsampling extends changes by one row.
    below = len(pixels) - (max(changed[-1] - 1, 0) // 16 + 1) * 16
    return below * pixels.shape[1] > 40 * 64


def _has_hole(data: bytes, start: int, end: int) -> bool:
    """Whether a long run of zeros replaces a part of the picture that is not flat.

    In flat parts zeros can be valid data: with optimised tables, a block of one colour may be a few
    zero bits. Damage decodes to texture, to fewer blocks than valid zeros would, or fills the
    picture before the zeros end.
    """
    first = data.find(bytes(_HOLE), start, end)
    if first < 0:
        return False
    last = first + len(data[first:end]) - len(data[first:end].lstrip(b"\0"))
    without, filled = _decode(data, first), _decode(data, last)
    changed = (without != filled).any(axis=2)
    if not changed.any():
        return False
    if (filled == _decode(data, last - _HOLE // 4)).all():
        return True
    steps = np.abs(np.diff(filled.astype(np.int16), axis=1)).max(axis=2) > 2
    return bool(steps[changed[:, 1:]].mean() > 0.02)


def _decode(data: bytes, stop: int) -> np.ndarray:
    """Decodes the file as if its data ended at `stop`; [h, w, c], by Pillow, without warnings."""
    with JpegImagePlugin.JpegImageFile(io.BytesIO(data[:stop].rstrip(b"\xff") + JPEG_END)) as image:
        return np.atleast_3d(np.asarray(image))
