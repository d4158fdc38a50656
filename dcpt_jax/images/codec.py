"""Reads and writes image files: any common photo becomes upright RGB pixels, or a named error.

Rules:

* The content decides the format, never the suffix: a JPEG named ``.png`` is read as a JPEG.
* Truncated files and files with wrong checksums raise `ImageError`. They are never read with
  missing parts grey, except for the last rows of a truncated JPEG with a re-added end mark. JPEG
  has no checksums: of damage inside its data, only long runs of zeros are detected.
* 16 bits per channel stay 16 bits. Grey, palette and bilevel images become three channels, CMYK
  becomes RGB, alpha is dropped (the colour below it is kept), and the EXIF orientation is applied.
  A broken EXIF block is ignored. Of animations and multi-page files the first picture is read.
* Float TIFFs (grey or RGB) are read as 16 bits if all values lie in [0, 1], otherwise refused.
* Colours become sRGB: pixels with another colour profile are converted, at their bit depth if the
  profile is made of curves, see `colour`. ``colour="as_is"`` leaves RGB and grey values unchanged.
  A profile that is damaged or whose space is not that of the pixels is ignored.
* The size in the header is checked against ``max_pixels`` before memory for pixels is allocated.

NumPy, OpenCV and Pillow only; worker processes import this module, so it must stay free of jax.
"""

import contextlib
import io
import math
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from dcpt_jax import files
from dcpt_jax.images import colour as colours
from dcpt_jax.images import jpeg_damage, tiff
from dcpt_jax.images.headers import (
    JPEG_END,
    TIFF_TAGS,
    ImageError,
    ImageHeader,
    image_error,
    open_for_metadata,
    opened,
    pillow_image,
    png_without_damage,
    read_header,
    require_jpeg_end,
    upright,
)

MAX_PIXELS = 100_000_000
COLOURS = ("srgb", "as_is")
# Limits for floating-point images: noise may leave [0, 1], but not that far.
_LARGEST_MEAN, _LARGEST_VALUE = 2.0, 30.0

_WRITE_OPTIONS = {
    ".png": [],
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 101],  # above 100 = lossless
    ".bmp": [],
    ".tif": [],
    ".tiff": [],
}
_LARGEST_SIDES = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}
WRITABLE_SUFFIXES = frozenset(_WRITE_OPTIONS)
SUFFIXES_OF_16_BITS = frozenset({".png", ".tif", ".tiff"})


def check_image(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Checks a file without decoding it: kind, size limit, and that PNG and JPEG are complete.

    Reads only a few blocks of a good file, so thousands can be checked per second. Wrong checksums
    and damage in compressed data are found only by `read_pixels`.
    """
    path = Path(path)
    with opened(path) as file:
        header = read_header(path, file, max_pixels)
        if header.kind == "JPEG":  # the chunks of a PNG are complete if its header is read
            file.seek(-2, os.SEEK_END)
            if file.read(2) != JPEG_END:  # some cameras append data after the end mark
                file.seek(header.data_start)
                require_jpeg_end(path, file.read(), 0)
    return header


def read_pixels(
    path: Path | str, *, max_pixels: int = MAX_PIXELS, colour: str = "srgb"
) -> np.ndarray:
    """Reads an image file as upright RGB pixels, by the rules at the top of this module.

    Args:
        path: the file; its suffix does not matter.
        max_pixels: largest width times height that is decoded.
        colour: "srgb" converts pixels with a colour profile to sRGB, "as_is" ignores it.

    Returns:
        uint8 or, for files with 16 bits or floats per channel, uint16; [h, w, 3].

    Raises:
        ImageError: if the file is missing, not an image, damaged, or larger than `max_pixels`.
        ValueError: for another `colour`.
    """
    _, data = read_undecoded(path, max_pixels=max_pixels)
    return decode_pixels(data, path, max_pixels=max_pixels, colour=colour)


def read_undecoded(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> tuple[ImageHeader, bytes]:
    """Header and undecoded content of an image file; ImageError as for `read_pixels`."""
    path = Path(path)
    with opened(path) as file:
        header = read_header(path, file, max_pixels)
        file.seek(0)
        return header, file.read()


def decode_pixels(
    data: bytes, name: Path | str, *, max_pixels: int = MAX_PIXELS, colour: str = "srgb"
) -> np.ndarray:
    """As `read_pixels`, for the content of a file; `name` is its name in messages."""
    if colour not in COLOURS:
        raise ValueError(f"colour is {colour!r}, but must be one of {', '.join(COLOURS)}")
    path = Path(name)
    header = read_header(path, io.BytesIO(data), max_pixels)
    pixels = _decode(path, header, data)
    if colour == "srgb" and _may_hold_profile(header, data):
        image = open_for_metadata(path, header.kind, data)
        with contextlib.suppress(colours.ProfileError):
            if embedded := colours.embedded_profile(image):
                pixels = pixels_to_srgb(pixels, header, image, *embedded)
    return pixels


def _may_hold_profile(header: ImageHeader, data: bytes) -> bool:
    """Whether a file may have a profile, so that opening it once more is worth the time."""
    if header.kind == "JPEG":
        start = data[: header.data_start]
        return b"ICC_PROFILE\0" in start or b"R03\0" in start
    start = data[: max(data.find(b"IDAT"), 0)]
    return header.kind != "PNG" or any(name in start for name in (b"iCCP", b"cICP", b"gAMA"))


def pixels_to_srgb(
    pixels: np.ndarray, header: ImageHeader, image: Image.Image, space: str, profile: bytes
) -> np.ndarray:
    """Converts decoded uint8 or uint16 pixels [h, w, 3] to sRGB by the profile of their file.

    The bit depth is kept unless the profile is table-based. `image` is the file as opened by
    `open_for_metadata`; `space` and `profile` are from `colour.embedded_profile`.

    Raises:
        ProfileError: if the profile cannot be used.
    """
    if space == "CMYK":
        converted = colours.cmyk_to_srgb(image, profile)
        orientation = header.orientation
        if header.kind == "TIFF":
            orientation = image.tag_v2.get(TIFF_TAGS["orientation"], 1)
        return upright(converted, orientation)
    if space == "Lab" or colours.is_srgb(profile):  # decoding has already converted Lab
        return pixels
    largest = np.iinfo(pixels.dtype).max
    converted = colours.to_srgb(to_float(pixels), profile)
    return np.rint(np.multiply(converted, largest, out=converted)).astype(pixels.dtype)


def _decode(path: Path, header: ImageHeader, data: bytes) -> np.ndarray:
    if header.kind == "PNG":
        # Ancillary chunks do not affect pixels, but libpng prints warnings of damaged ones.
        sound, damaged = png_without_damage(path, data, ancillary=False)
        if damaged:
            raise image_error(path, f"damaged: wrong checksum of the PNG chunk {damaged[0]}")
        pixels = _decode_opencv(path, sound, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
    elif header.kind == "JPEG":
        require_jpeg_end(path, data, header.data_start)
        pixels = _decode_opencv(path, data, cv2.IMREAD_COLOR_RGB)
        filling = pixels[-1, 0] if jpeg_damage.is_cmyk(data, header.data_start) else 128
        try:
            damage = jpeg_damage.find_damage(
                data,
                header.data_start,
                is_sequential=header.is_sequential,
                ends_grey=bool((pixels[-1] == filling).all()),
            )
        except Exception as error:  # Pillow's decoders raise various types on broken input
            damage = f"the JPEG data cannot be decoded ({error})"
        if damage:
            raise image_error(path, f"damaged: {damage}")
    else:
        return _decode_pillow(path, header.kind, data)
    if pixels.shape != (header.height, header.width, 3):
        raise image_error(
            path, f"damaged: the decoded shape {pixels.shape} differs from the size in the header"
        )
    return upright(pixels, header.orientation)


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Scales uint8 or uint16 pixels of any shape to float32 in [0, 1]."""
    if pixels.dtype == np.uint8:
        return np.divide(pixels, 255, dtype=np.float32)
    if pixels.dtype == np.uint16:
        return np.divide(pixels, 65535, dtype=np.float32)
    raise TypeError(f"pixels must be uint8 or uint16, not {pixels.dtype}")


def read_image(
    path: Path | str, *, max_pixels: int = MAX_PIXELS, colour: str = "srgb"
) -> np.ndarray:
    """Reads an image file as float32 [h, w, 3], RGB, upright, in [0, 1]; see `read_pixels`."""
    return to_float(read_pixels(path, max_pixels=max_pixels, colour=colour))


def checked_image(image: Any) -> np.ndarray:
    """Checks that an object is one floating-point RGB image.

    Args:
        image: anything.

    Returns:
        The image as a NumPy array [h, w, 3], in its own dtype.

    Raises:
        ValueError: if not, or if a value is not finite or far outside [0, 1].
    """
    expected = "expected one floating-point RGB image [h, w, 3] in [0, 1]"
    if isinstance(image, str | bytes | os.PathLike):
        raise ValueError(f"{expected}, got {image!r:.80}; dcpt_jax.images.read_image reads files")
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"{expected}, got shape {array.shape}{_shape_hint(array.shape)}")
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        hint = ""
        if array.dtype.kind in "iu":
            hint = f"; divide by {np.iinfo(array.dtype).max if array.dtype.kind == 'u' else 255}"
        raise ValueError(f"{expected}, got dtype {array.dtype}{hint}")
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{expected}, got values that are not finite (NaN or infinity)")
    mean = float(array.mean(dtype=np.float64))
    if abs(mean) > _LARGEST_MEAN or max(-low, high) > _LARGEST_VALUE:
        raise ValueError(
            f"{expected}, got values from {low:.4g} to {high:.4g}; divide 8-bit pixels by 255"
        )
    return array


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return "; pass one image at a time"
    if len(shape) == 2 or shape[2:] == (1,):
        return "; repeat the grey channel three times"
    if shape[2:] == (4,):
        return "; drop the alpha channel"
    return "; channels come last" if len(shape) == 3 and shape[0] == 3 else ""


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Clips a float image of any shape to [0, 1] and rounds it to the nearest of 256 levels.

    Raises:
        ValueError: if a value is not a number; infinities are clipped.
        TypeError: for integers, which are levels already.
    """
    if np.issubdtype(np.asarray(image).dtype, np.integer):
        raise TypeError(f"the image must be of floats in [0, 1], not {np.asarray(image).dtype}")
    return _rounded(np.asarray(image, np.float32), np.uint8)


def _rounded(image: np.ndarray, kind: type) -> np.ndarray:
    if np.isnan(image).any():
        raise ValueError(f"{np.isnan(image).sum()} of {image.size} values are not a number (NaN)")
    return np.rint(np.clip(image, 0, 1) * np.iinfo(kind).max).astype(kind)


def write_image(path: Path | str, image: np.ndarray, *, bits: int = 8) -> None:
    """Writes an image atomically.

    JPEG is written with quality 95; every other format is lossless.

    Args:
        path: target; the suffix selects the format; missing folders are created.
        image: float [h, w, 3], RGB, clipped to [0, 1].
        bits: per channel, 8, or 16 for PNG and TIFF.

    Raises:
        ImageError: if the format does not support that many bits or so large an image.
        ValueError: for other `bits`, or if `checked_image` refuses the image.
    """
    if bits not in (8, 16):
        raise ValueError(f"bits is {bits!r}, but must be 8 or 16")
    path = Path(path)
    files.write_bytes(path, encode(path, to_levels(path, checked_image(image), bits)))


def to_levels(path: Path, image: np.ndarray, bits: int) -> np.ndarray:
    """The uint8 or uint16 pixels [h, w, 3] that a file stores for a float image; see `write_image`.

    Raises:
        ImageError: if the format does not support that many bits or so large an image.
        ValueError: if the image contains NaN.
    """
    suffix = path.suffix.lower()
    if bits == 16 and suffix not in SUFFIXES_OF_16_BITS:
        raise image_error(path, f"16 bits require one of {', '.join(sorted(SUFFIXES_OF_16_BITS))}")
    if suffix not in _WRITE_OPTIONS:
        raise image_error(
            path, f"cannot write {suffix!r} files; use one of {', '.join(sorted(_WRITE_OPTIONS))}"
        )
    if max(image.shape) > _LARGEST_SIDES.get(suffix, math.inf):
        raise image_error(
            path, f"{image.shape[1]}x{image.shape[0]} pixels are too large for {suffix}"
        )
    return to_uint8(image) if bits == 8 else _rounded(image.astype(np.float64), np.uint16)


def encode(path: Path, levels: np.ndarray) -> bytes:
    """Encodes uint8 or uint16 pixels [h, w, 3], RGB, or [h, w, 4] with alpha.

    Raises:
        ImageError: if the format does not support so large an image.
    """
    suffix = path.suffix.lower()
    order = [2, 1, 0, 3][: levels.shape[2]]  # OpenCV encodes BGR
    pixels = np.ascontiguousarray(levels[..., order])
    try:
        done, encoded = cv2.imencode(suffix, pixels, _WRITE_OPTIONS[suffix])
    except cv2.error:
        done = False
    if not done:
        raise image_error(
            path, f"{levels.shape[1]}x{levels.shape[0]} pixels are too large for {suffix}"
        )
    return encoded.tobytes()


def _decode_opencv(path: Path, data: bytes, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise image_error(path, f"cannot be decoded ({error.err or error})") from error
    if pixels is None:
        raise image_error(path, "cannot be decoded: the pixel data are damaged or unsupported")
    return pixels


def _decode_pillow(path: Path, kind: str, data: bytes) -> np.ndarray:
    if kind == "TIFF" and (tags := tiff.tags_beyond_pillow(path, data)):
        return tiff.read_samples(path, tags, data)[0]
    image = pillow_image(path, kind, io.BytesIO(data))
    image.info.pop("xmp", None)  # only EXIF and the TIFF tag state the orientation
    try:
        image.load()
        if image.mode == "I;16":  # of JPEG XL
            return np.repeat(np.array(image)[..., None], 3, axis=2)
        if image.mode == "F":
            return np.repeat(tiff.floats_to_uint16(path, np.asarray(image))[..., None], 3, axis=2)
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise various types on broken input
        reason = str(error).strip()
        raise image_error(path, f"damaged: the {kind} data cannot be decoded ({reason})") from error
