"""What image files say of themselves before their pixels are decoded, and whether they are whole.

Pillow's reader classes read the headers, so that a decompression bomb is refused before any memory
is claimed. PNG headers are read here, since Pillow refuses files with damage in chunks that guard
no pixels, and does not look for the orientation behind the pixels. `images` has the rules for
pixels.
"""

import io
import os
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from dcpt_jax.colour_tags import state_profile

JPEG_END = b"\xff\xd9"
TIFF_TAGS = {
    "subfile": 254,
    "bits": 258,
    "photometric": 262,
    "orientation": 274,
    "samples": 277,
    "planar": 284,
    "format": 339,
}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_PIXEL_BYTES = 8  # of a file: four channels of 16 bits
_MAX_EXTRA_BYTES = 16_000_000  # of a file, besides pixels
_LARGER = "to read it: --max-pixels N, --config.data.max_pixels=N for data"
# The plugin classes are used directly: Image.open would apply Pillow's own, global size limit.
_PILLOW_READERS = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
_JXL_START, _JXL_BOX = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_RAW_TAGS = frozenset({50706})  # DNGVersion


class ImageError(ValueError):
    """A file cannot be used as an image; the message names the file and the reason."""


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of itself before its pixels are decoded.

    Attributes:
        kind: "PNG", "JPEG", "GIF", "BMP", "WebP", "TIFF", "AVIF", "HEIC" or "JPEG XL", by the
            content.
        width: stored width in pixels, before the EXIF orientation.
        height: stored height in pixels.
        orientation: EXIF orientation 1 to 8; 1 (upright) where there is none or it is broken.
        data_start: JPEG only, offset of the first scan; 0 otherwise.
        is_sequential: JPEG only, whether each block is stored once and whole.
    """

    kind: str
    width: int
    height: int
    orientation: int = 1
    data_start: int = 0
    is_sequential: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright picture; the orientation of PNG and JPEG is known here."""
        stored = (self.height, self.width)
        return stored[::-1] if self.orientation >= 5 else stored


def image_error(path: Path, reason: str) -> ImageError:
    """An `ImageError` that names the file."""
    return ImageError(f"{path}: {reason}")


def opened(path: Path) -> BinaryIO:
    """Opens a regular file for reading; ImageError with the reason for anything else."""
    try:
        if path.is_dir():
            raise image_error(path, "is a folder, not an image file")
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise image_error(path, "is not a regular file")
        return path.open("rb")
    except OSError as error:
        raise image_error(path, f"cannot be opened ({error.strerror})") from error


def read_header(path: Path, file: BinaryIO, max_pixels: int) -> ImageHeader:
    """Reads the header of an open file; ImageError if it is no image or larger than allowed.

    A file with more bytes than an image within the limit can need is refused here as well, before
    any of them is read: its header may be followed by gigabytes, which take no space on a disk.
    """
    size, most = file.seek(0, os.SEEK_END), _MAX_PIXEL_BYTES * max_pixels + _MAX_EXTRA_BYTES
    if size > most:
        raise image_error(
            path,
            f"{size:,} bytes are more than the {most:,} that an image of up to max_pixels = "
            f"{max_pixels:,} can need; {_LARGER}",
        )
    file.seek(0)
    start = file.read(16)
    file.seek(0)
    if not start:
        raise image_error(path, "the file is empty")
    if start.startswith(_PNG_SIGNATURE):
        header = _png_header(path, file)
    elif start.startswith(b"\xff\xd8\xff"):
        header = _jpeg_header(path, file)
    elif start.startswith((_JXL_START, _JXL_BOX)):
        header = ImageHeader("JPEG XL", *_jxl_size(path, file))
    else:
        header = _pillow_header(path, file, start)
    if header.width < 1 or header.height < 1:
        raise image_error(path, f"damaged: the header says {header.width}x{header.height} pixels")
    if header.width * header.height > max_pixels:
        raise image_error(
            path,
            f"{header.width}x{header.height} = {header.width * header.height:,} pixels are more "
            f"than the limit max_pixels = {max_pixels:,}; {_LARGER}",
        )
    return header


def png_chunks(path: Path, file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yields (type, offset of the data, length) of every chunk up to the end mark."""
    size = file.seek(0, os.SEEK_END)
    position = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        file.seek(position)
        start = file.read(8)
        length = int.from_bytes(start[:4], "big")
        if len(start) < 8 or position + 12 + length > size:
            raise image_error(path, "cut off: the PNG data end too early")
        kind = start[4:]
        if not kind.isalpha():
            raise image_error(path, "damaged: the PNG structure is broken")
        yield kind, position + 8, length
        position += 12 + length


def _png_header(path: Path, file: BinaryIO) -> ImageHeader:
    start = file.read(33)
    if len(start) < 33:
        raise image_error(path, "cut off inside the PNG header")
    if start[12:16] != b"IHDR":
        raise image_error(path, "damaged: the PNG header is missing")
    width, height = struct.unpack(">II", start[16:24])
    orientation = 1
    for kind, offset, length in png_chunks(path, file):  # eXIf may come behind the pixels
        if kind == b"eXIf":
            file.seek(offset)
            orientation = _orientation(file.read(length))
    return ImageHeader("PNG", width, height, orientation)


def _jpeg_header(path: Path, file: BinaryIO) -> ImageHeader:
    """Pillow stops behind the header of the first scan, where the data start."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of damaged metadata
            image = JpegImagePlugin.JpegImageFile(file)
    except Exception as error:  # Pillow's readers raise many kinds on broken input
        raise image_error(path, f"cut off or damaged inside the JPEG header ({error})") from error
    orientation = _orientation(image.info.get("exif", b""))
    is_sequential = not image.info.get("progressive")
    return ImageHeader("JPEG", *image.size, orientation, file.tell(), is_sequential=is_sequential)


def require_jpeg_end(path: Path, data: bytes, start: int) -> None:
    """Raises ImageError if `data` has no end mark behind the start of the first scan.

    Inside a scan the byte FF is always followed by 00 or a restart mark, so the first end mark
    after its start is real. A cut off file has none; that of a thumbnail comes before the scan.
    """
    if data.rfind(JPEG_END, start) < 0:  # from the end, where it mostly is
        raise image_error(path, "cut off: the JPEG data end too early")


def _pillow_header(path: Path, file: BinaryIO, start: bytes) -> ImageHeader:
    if start.startswith((b"GIF87a", b"GIF89a")):
        kind = "GIF"
    elif start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        kind = "TIFF"
    elif start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        kind = "WebP"
    elif start.startswith(b"BM"):
        kind = "BMP"
    elif start[4:8] == b"ftyp" and (found := _kind_of_brands(file)):
        kind = found
    else:
        raise image_error(
            path,
            "is not an image of a known kind "
            "(PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF, HEIC, JPEG XL)",
        )
    try:
        image = pillow_image(path, kind, file)
    except ImageError:
        if kind != "TIFF":
            raise
        image = odd_tiff(path, file)
    if kind == "TIFF" and (_is_reduced(image) or start[8:10] == b"CR"):
        raise image_error(
            path, "is a camera's raw file or begins with a reduced picture; save it as TIFF or PNG"
        )
    return ImageHeader(kind, *image.size)


def _jxl_size(path: Path, file: BinaryIO) -> tuple[int, int]:
    """Width and height of a JPEG XL file, whose reader decodes it before it tells them."""
    start = file.read(2)
    if start != _JXL_START:  # in boxes, of which one or several hold the picture
        box, end = 12, file.seek(0, os.SEEK_END)
        while True:
            file.seek(box)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big") or end - box
            data = 8
            if length == 1:
                length, data = int.from_bytes(head[8:16], "big"), 16
            if head[4:8] in (b"jxlc", b"jxlp"):
                file.seek(box + data + (4 if head[4:8] == b"jxlp" else 0))
                start = file.read(2)
                break
            if len(head) < 8 or length < 8:
                break
            box += length
    bits = int.from_bytes(file.read(12).ljust(12, b"\0"), "little")
    if start != _JXL_START or not bits:
        raise image_error(path, "cut off or damaged inside the JPEG XL header")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height, ratio = side(), take(3)
    over = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
    if ratio == 0:
        return side(), height
    return height * over[ratio][0] // over[ratio][1], height


def _kind_of_brands(file: BinaryIO) -> str:
    """ "AVIF" or "HEIC" by the brands at the start of a file, or "" for other ones (a video)."""
    file.seek(0)
    size = int.from_bytes(file.read(4), "big")
    brands = file.read(min(size, 256))[4:]
    file.seek(0)
    found = {brands[:4]} | {brands[i : i + 4] for i in range(8, len(brands) - 3, 4)}
    if found & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if found & _HEIC_BRANDS else ""


def odd_tiff(path: Path, file: BinaryIO) -> Image.Image:
    """Stands for a TIFF file of a kind that Pillow has no mode for: size, tags and profile."""
    try:
        file.seek(0)
        start = file.read(8)
        if start[2] == 43 or start[3] == 43:  # BigTIFF
            start += file.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(start)
        file.seek(tags.next)
        tags.load(file)
        size = int(tags[256]), int(tags[257])
    except Exception as error:  # Pillow raises many kinds on broken input
        raise image_error(
            path, f"damaged or of an unknown sort: the TIFF header cannot be read ({error})"
        ) from error
    image = Image.new("RGB", (1, 1))
    image._size, image.tag_v2 = size, tags
    if profile := tags.get(34675):
        image.info["icc_profile"] = profile
    return image


def _is_reduced(image: Image.Image) -> bool:
    """Whether a TIFF file's first picture is a preview of another one, as in raw files."""
    return bool(_RAW_TAGS & set(image.tag_v2)) or image.tag_v2.get(TIFF_TAGS["subfile"], 0) & 1 == 1


def pillow_image(path: Path, kind: str, file: BinaryIO) -> Image.Image:
    """Pillow's image of that kind, header read, pixels not yet decoded."""
    reader = _PILLOW_READERS.get(kind) or _optional_reader(path, kind)
    try:
        image = reader(file)
        if kind == "JPEG XL" and not image.jpeg:  # decoded upright, whatever EXIF says
            image.info["exif"] = _upright(image.info.get("exif", b""))
        return image
    except Exception as error:  # Pillow's readers raise many kinds on broken input
        raise image_error(
            path, f"damaged or of an unknown sort: the {kind} header cannot be read ({error})"
        ) from error


def _optional_reader(path: Path, kind: str) -> type[Image.Image]:
    """The reader of "HEIC" or "JPEG XL" files, of a package that need not be installed."""
    package, extra = {
        "HEIC": ("pillow-heif", "heif"),
        "JPEG XL": ("pillow-jxl-plugin", "jxl"),
    }[kind]
    try:
        if kind == "HEIC":
            from pillow_heif import HeifImageFile as reader
        else:
            from pillow_jxl.JpegXLImagePlugin import JXLImageFile as reader
    except ImportError as error:
        raise image_error(
            path,
            f"{kind} files are read with {package}: pip install {package} (the extra {extra})",
        ) from error
    return reader


def described(path: Path, kind: str, data: bytes) -> Image.Image | None:
    """Pillow's view of a whole file: its mode, profile and metadata; None if Pillow fails on it.

    Colours that the file states in another way stand there as a profile, see `colour_tags`.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of damaged metadata
            image = pillow_image(path, kind, io.BytesIO(data))
            state_profile(image, kind, data)
            return image
    except ImageError:
        return odd_tiff(path, io.BytesIO(data)) if kind == "TIFF" else None


def _upright(exif: bytes) -> bytes:
    """An EXIF block with orientation 1, if it has one."""
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    orientation, offset = find_orientation(exif[start:])
    if orientation == 1:
        return exif
    one = b"\1\0" if exif[start : start + 2] == b"II" else b"\0\1"
    return exif[: start + offset] + one + exif[start + offset + 2 :]


def _orientation(exif: bytes) -> int:
    return find_orientation(exif.removeprefix(b"Exif\x00\x00"))[0]


def find_orientation(block: bytes) -> tuple[int, int]:
    """Orientation in an EXIF block or TIFF file, and the offset of its value.

    (1, 0) if there is none, or for a broken block: common, and no reason to refuse a picture.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(block[:4]))
    try:
        (first,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", block, entry)
            if tag == TIFF_TAGS["orientation"] and kind == 3 and 1 <= value <= 8:
                return value, entry + 8
    except (TypeError, struct.error):  # unknown byte order; an offset past the end
        pass
    return 1, 0


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns and mirrors stored pixels [h, w, ...] by an EXIF orientation of 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
