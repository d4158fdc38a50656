"""Reads TIFF files that Pillow reduces to 8 bits or does not support: float, deep or unusual ones.

OpenCV (libtiff) reads interleaved pixels with common compressions; tifffile reads separate planes,
half floats and other numbers of samples. NumPy, OpenCV and tifffile only.
"""

import contextlib
import io
import struct
from collections.abc import Collection, Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dcpt_jax.images import tag_directories
from dcpt_jax.images.headers import TIFF_TAGS, image_error, open_for_metadata, upright

_ADVICE = "save it as RGB or grey with 8 or 16 bits"
# Compressions that OpenCV decodes. Others, such as JPEG 2000 inside TIFF, it decodes to noise.
_COMMON_COMPRESSIONS = frozenset({1, 5, 8, 32773, 32946})
_WEBP = 50001
_KINDS = {0: "grey", 1: "grey", 2: "RGB", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab"} | {
    32803: "raw sensor values",
    34892: "raw sensor values",
}
_ROUNDING = 1e-3  # tolerance for floats in [0, 1] that other programs have converted
_FLOAT = 3  # value of the sample format tag
_ASSOCIATED, _UNASSOCIATED = 1, 2  # kinds of alpha, values of the extra samples tag


def tags_beyond_pillow(path: Path, data: bytes) -> Mapping | None:
    """Tags of a TIFF file's first picture if it has to be read by `read_samples`, else None.

    Raises:
        ImageError: if its header is damaged or its pixels are signed.
    """
    image = open_for_metadata(path, "TIFF", data)
    tags = image.tag_v2
    if 2 in tags.get(TIFF_TAGS["format"], (1,)):
        raise image_error(
            path, "signed integer pixels are not supported; save it with unsigned 8 or 16 bits"
        )
    has_mode = type(image) is not Image.Image  # `open_for_metadata` has opened it with Pillow
    has_mode &= tags.get(259) != _WEBP  # which Pillow's libtiff lacks
    return None if has_mode and max(tags.get(TIFF_TAGS["bits"], (1,))) <= 8 else tags


def extra_channels(tags: Mapping) -> int:
    """Number of channels besides colours and the first alpha channel, such as near infrared."""
    extra = tags.get(338, ())
    kinds = extra if isinstance(extra, tuple) else (extra,)
    return len(kinds) - any(kind in (_ASSOCIATED, _UNASSOCIATED) for kind in kinds)


def read_samples(path: Path, tags: Mapping, data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Decodes the first picture of a TIFF file.

    Args:
        path: the file, for messages.
        tags: of the first picture.
        data: content of the file.

    Returns:
        RGB pixels [h, w, 3], upright, uint8 or, for more bits and floats, uint16; and alpha [h, w]
        of the same dtype, or None. Premultiplied colours are divided by alpha.

    Raises:
        ImageError: if the pixels are damaged or of an unsupported kind.
    """
    samples, photometric = tags.get(TIFF_TAGS["samples"], 1), tags.get(TIFF_TAGS["photometric"])
    colours = 3 if photometric == 2 or (photometric in (0, 1) and samples in (3, 4)) else 1
    if photometric not in (0, 1, 2) or samples < colours or (colours == 1 and samples > 2):
        kind = _KINDS.get(photometric, f"photometric {photometric}")
        raise image_error(
            path, f"TIFF with {samples} samples per pixel ({kind}) is not supported; {_ADVICE}"
        )
    values = _stored(path, tags, tag_directories.with_empty_damaged_values(data))
    size = tags.get(257), tags.get(256)
    if values.shape != (*size, samples):
        raise image_error(
            path, f"TIFF with decoded shape {values.shape} is not supported; {_ADVICE}"
        )
    extra = tags.get(338, _UNASSOCIATED if samples > colours else ())
    kinds = extra if isinstance(extra, tuple) else (extra,)
    alpha_index = next((i for i, kind in enumerate(kinds) if kind in (1, 2)), None)
    channels = list(range(colours)) + ([] if alpha_index is None else [colours + alpha_index])
    if alpha_index is not None and colours + alpha_index >= samples:
        raise image_error(
            path, f"damaged: the TIFF has {samples} samples, without the stated alpha"
        )
    values = values[..., channels]
    if values.dtype.kind == "f":
        values = floats_to_uint16(path, values)
    if values.dtype not in (np.uint8, np.uint16):
        raise image_error(path, f"TIFF with {values.dtype} pixels is not supported; {_ADVICE}")
    pixels, alpha = values[..., :colours], None if alpha_index is None else values[..., colours]
    if photometric == 0:
        pixels = np.iinfo(pixels.dtype).max - pixels
    if alpha is not None and kinds[alpha_index] == _ASSOCIATED:
        pixels = _divided(pixels, alpha)
    orientation = tags.get(TIFF_TAGS["orientation"], 1)
    rgb = np.repeat(pixels, 3, axis=2) if colours == 1 else pixels
    return upright(rgb, orientation), None if alpha is None else upright(alpha, orientation)


def floats_to_uint16(path: Path, values: np.ndarray) -> np.ndarray:
    """Converts floats in [0, 1], except for rounding errors, to uint16; ImageError for others."""
    low, high = float(values.min()), float(values.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        value_range = "NaN" if np.isnan(low) or np.isnan(high) else f"[{low:.6g}, {high:.6g}]"
        raise image_error(
            path, f"float pixels must be in [0, 1], not {value_range}; rescale or clip it"
        )
    return np.rint(np.clip(values, 0, 1).astype(np.float64) * 65535).astype(np.uint16)


def _divided(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    largest = np.iinfo(pixels.dtype).max
    scaled = pixels.astype(np.float64) * (largest / np.maximum(alpha, 1)[..., None])
    return np.rint(np.minimum(scaled, largest)).astype(pixels.dtype)


def _stored(path: Path, tags: Mapping, data: bytes) -> np.ndarray:
    """The stored values of a file, [h, w, samples], not upright."""
    samples = tags.get(TIFF_TAGS["samples"], 1)
    bits = max(tags.get(TIFF_TAGS["bits"], (1,)))
    is_float = _FLOAT in tags.get(TIFF_TAGS["format"], (1,))
    if (
        tags.get(259, 1) in _COMMON_COMPRESSIONS
        and tags.get(TIFF_TAGS["planar"], 1) == 1
        and samples in (1, 3, 4)
        and bits in ((32, 64) if is_float else (8, 10, 12, 14, 16))
    ):
        return _by_opencv(path, tags, bits, data)
    values = _by_tifffile(path, tags.get(259, 1), data)
    if values.dtype.kind == "u" and bits < 8 * values.itemsize:  # in the lower bits
        values = np.rint(values * (np.iinfo(values.dtype).max / (2**bits - 1))).astype(values.dtype)
    return values


def _by_opencv(path: Path, tags: Mapping, bits: int, data: bytes) -> np.ndarray:
    samples = tags.get(TIFF_TAGS["samples"], 1)
    # OpenCV applies some orientations but not others, inverts some greys, and reads one of three
    # grey samples, so these tags are changed first.
    values = {TIFF_TAGS["orientation"]: 1, TIFF_TAGS["photometric"]: 2 if samples > 2 else 1}
    data = _with_tags(
        data, values, without=() if tags.get(TIFF_TAGS["photometric"]) == 2 else (338,)
    )
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = None
    with contextlib.suppress(cv2.error):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise image_error(path, "cannot be decoded: the pixel data are damaged or unsupported")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][:samples]]
    if pixels.dtype == np.uint16 and bits < 16:  # in the upper bits
        pixels = pixels | pixels >> bits
    return pixels


def _by_tifffile(path: Path, compression: int, data: bytes) -> np.ndarray:
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            values, axes = file.pages[0].asarray(), file.pages[0].axes
    except Exception as error:  # tifffile raises various types on broken input
        if compression in _COMMON_COMPRESSIONS:
            reason = "damaged or unsupported"
        else:
            known = {
                compression_kind.value: compression_kind.name
                for compression_kind in tifffile.COMPRESSION
            }
            reason = f"TIFF compression {known.get(compression, compression)} is not supported"
        raise image_error(
            path, f"{reason} ({error}); {_ADVICE}, uncompressed or with LZW or deflate"
        ) from error
    if axes == "YX":
        return values[..., None]
    return np.moveaxis(values, 0, -1) if axes == "SYX" else values


def _with_tags(data: bytes, values: Mapping[int, int], without: Collection[int]) -> bytes:
    """The file reduced to its first picture, with some of its tags changed or removed."""
    order = "<" if data[:2] == b"II" else ">"
    # BigTIFF: wider offsets, counts and entries.
    is_big = 43 in data[2:4]
    count, size, value_offset = ("Q", 20, 12) if is_big else ("H", 12, 8)
    (start,) = struct.unpack_from(order + "Q" if is_big else order + "I", data, 8 if is_big else 4)
    (number,) = struct.unpack_from(order + count, data, start)
    first = start + struct.calcsize(count)
    entries = []
    for at in range(first, min(first + number * size, len(data) - size + 1), size):
        entry = bytearray(data[at : at + size])
        (tag,) = struct.unpack_from(order + "H", entry)
        if tag in values:
            struct.pack_into(order + "H", entry, 2, 3)  # two bytes
            struct.pack_into(order + "H", entry, value_offset, values[tag])
        if tag not in without:
            entries.append(bytes(entry))
    end = bytes(8 if is_big else 4)  # no next picture
    block = struct.pack(order + count, len(entries)) + b"".join(entries) + end
    return data[:start] + block + data[start + len(block) :]
