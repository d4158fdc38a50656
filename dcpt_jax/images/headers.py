"""Headers of image files: kind, size and orientation, and checks that files are complete.

Pillow's reader classes read the headers, so that decompression bombs are refused before memory is
allocated. PNG headers are read here, since Pillow refuses files with damage in ancillary chunks and
does not find an orientation that follows the pixels. The rules for pixels are in `codec`.
"""

import contextlib
import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

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

from dcpt_jax.images import jpeg_xl, tag_directories
from dcpt_jax.images.colour_tags import add_stated_profile

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
_PNG_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})
_MAX_PIXEL_BYTES = 8  # largest stored pixel: four channels of 16 bits
_MAX_EXIF_TEXT = 2**20  # bytes of a text in a PNG that may be EXIF
_MAX_EXTRA_BYTES = 16_000_000  # most bytes of a file besides pixels
_LARGER = "to allow it: --max-pixels N, --config.data.max_pixels=N for data"
# Uses the plugin classes directly, as Image.open applies Pillow's own global size limit.
_PILLOW_READERS = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
UPRIGHT_KINDS = frozenset({"HEIC", "JPEG XL"})  # decoded upright regardless of EXIF
_RAW_TAGS = frozenset({50706})  # DNGVersion
_recording = threading.Lock()


class ImageError(ValueError):
    """A file that cannot be used as an image; the message names the file and the reason."""


@dataclass(frozen=True)
class ImageHeader:
    """Properties of an image file, known before its pixels are decoded.

    Attributes:
        kind: "PNG", "JPEG", "GIF", "BMP", "WebP", "TIFF", "AVIF", "HEIC" or "JPEG XL", by the
            content.
        width: stored width in pixels, before the EXIF orientation.
        height: stored height in pixels.
        orientation: EXIF orientation 1 to 8; 1 (upright) if missing or invalid.
        data_start: JPEG only, offset of the first scan; 0 otherwise.
        is_sequential: JPEG only, whether each block is stored once and complete (not progressive).
    """

    kind: str
    width: int
    height: int
    orientation: int = 1
    data_start: int = 0
    is_sequential: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright picture; for formats other than PNG and JPEG as stored."""
        stored = (self.height, self.width)
        return stored[::-1] if self.orientation >= 5 else stored


def image_error(path: Path, reason: str) -> ImageError:
    """An `ImageError` that names the file."""
    return ImageError(f"{path}: {reason}")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Opens a regular file for reading; ImageError if that or reading it is not possible."""
    try:
        if path.is_dir():
            raise image_error(path, "is a folder, not an image file")
        if path.exists() and not path.is_file():  # opening a pipe would block forever
            raise image_error(path, "is not a regular file")
        file = path.open("rb")
    except OSError as error:
        raise image_error(path, f"cannot be opened ({error.strerror})") from error
    with file:
        try:
            yield file
        except OSError as error:  # of a failing disk or network
            raise image_error(path, f"cannot be read ({error.strerror})") from error


@contextlib.contextmanager
def _recorded_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Records warnings instead of showing them, in one thread at a time.

    `catch_warnings` replaces filters of the whole process, so threads must not overlap in it.
    """
    with _recording, warnings.catch_warnings(action="always", record=True) as complaints:
        yield complaints


def read_header(path: Path, file: BinaryIO, max_pixels: int) -> ImageHeader:
    """Reads the header of an open file; ImageError if it is not an image or too large.

    Also refuses, before reading them, files with more bytes than an image within the limit can
    have: a header may be followed by gigabytes of a sparse file.
    """
    size, most = file.seek(0, os.SEEK_END), _MAX_PIXEL_BYTES * max_pixels + _MAX_EXTRA_BYTES
    if size > most:
        raise image_error(
            path,
            f"{size:,} bytes are more than an image of max_pixels = {max_pixels:,} can have, "
            f"{most:,}; {_LARGER}",
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
    elif start.startswith(jpeg_xl.STARTS):
        size = jpeg_xl.size_of(file)
        if size is None:
            raise image_error(path, "truncated or damaged JPEG XL header")
        header = ImageHeader("JPEG XL", *size)
    else:
        header = _pillow_header(path, file, start)
    if header.width < 1 or header.height < 1:
        raise image_error(
            path, f"damaged: the size in the header is {header.width}x{header.height} pixels"
        )
    if header.width * header.height > max_pixels:
        raise image_error(
            path,
            f"{header.width}x{header.height} = {header.width * header.height:,} pixels exceed the "
            f"limit max_pixels = {max_pixels:,}; {_LARGER}",
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
            raise image_error(path, "truncated: the PNG data end too early")
        kind = start[4:]
        if not kind.isalpha():
            raise image_error(path, "damaged: the PNG structure is broken")
        yield kind, position + 8, length
        position += 12 + length


def png_without_damage(
    path: Path, data: bytes, *, ancillary: bool, without: Collection[bytes] = ()
) -> tuple[bytes, list[str]]:
    """A PNG file without chunks whose checksums are wrong, and the names of those.

    Args:
        path: the file, for messages.
        data: its content.
        ancillary: whether to include chunks that do not affect pixels, except those of animations.
            They are put before the pixels, where Pillow reads them at once.
        without: chunks to leave out.
    """
    before: list[bytes | memoryview] = [data[: len(_PNG_SIGNATURE)]]
    pixels: list[bytes | memoryview] = []
    damaged = []
    for kind, start, length in png_chunks(path, io.BytesIO(data)):
        is_wanted = kind[:1].isupper() or (ancillary and kind not in _PNG_ANIMATION)
        if is_wanted and kind not in without:
            end = start + length
            checksum = zlib.crc32(memoryview(data)[start - 4 : end])
            if checksum == int.from_bytes(data[end : end + 4], "big"):
                part = pixels if kind in (b"IDAT", b"IEND") else before
                part.append(memoryview(data)[start - 8 : end + 4])
            else:
                damaged.append(kind.decode())
    return b"".join([*before, *pixels]), damaged


def _png_header(path: Path, file: BinaryIO) -> ImageHeader:
    start = file.read(33)
    if len(start) < 33:
        raise image_error(path, "truncated PNG header")
    if start[12:16] != b"IHDR":
        is_apple = start[12:16] == b"CgBI"
        problem = "is a PNG for Apple's apps (CgBI); open and save it on a Mac" if is_apple else ""
        raise image_error(path, problem or "damaged: the PNG header is missing")
    width, height = struct.unpack(">II", start[16:24])
    exif = in_text = b""
    for kind, offset, length in png_chunks(path, file):  # eXIf may follow the pixels
        if kind == b"eXIf":
            file.seek(offset)
            exif = file.read(length)
        elif kind in (b"tEXt", b"zTXt") and not in_text:
            file.seek(offset)
            in_text = _exif_in_text(file.read(min(length, _MAX_EXIF_TEXT)))
    return ImageHeader("PNG", width, height, _orientation(exif or in_text))


def _exif_in_text(chunk: bytes) -> bytes:
    """The EXIF block in a text chunk of ImageMagick or ExifTool; b"" if it has none."""
    if not chunk.startswith((b"Raw profile type exif\0", b"Raw profile type APP1\0")):
        return b""
    _, _, text = chunk.partition(b"\0")
    if text[:1] == b"\0":  # the compression of zTXt
        with contextlib.suppress(zlib.error):
            text = zlib.decompressobj().decompress(text[1:], _MAX_EXIF_TEXT)
    return raw_profile(text) or b""


def raw_profile(text: str | bytes | None) -> bytes | None:
    """A block stored by ImageMagick and ExifTool as hexadecimal text in a PNG."""
    if not text:
        return None
    try:
        text = text.decode("latin-1") if isinstance(text, bytes) else text
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return None


def _jpeg_header(path: Path, file: BinaryIO) -> ImageHeader:
    """Header by Pillow, which stops at the end of the first scan's header, where the data start."""
    try:
        with _recorded_warnings():  # of damaged metadata
            image = JpegImagePlugin.JpegImageFile(file)
    except Exception as error:  # Pillow's readers raise various types on broken input
        if "cannot handle" in str(error):  # 12 bits or two channels
            reason = f"unsupported kind of JPEG ({error}); save it as PNG"
            raise image_error(path, reason) from error
        raise image_error(path, f"truncated or damaged JPEG header ({error})") from error
    orientation = _orientation(image.info.get("exif", b""))
    is_sequential = not image.info.get("progressive")
    return ImageHeader("JPEG", *image.size, orientation, file.tell(), is_sequential=is_sequential)


def require_jpeg_end(path: Path, data: bytes, start: int) -> None:
    """Raises ImageError if `data` has no end mark after the start of the first scan.

    Inside a scan the byte FF is always followed by 00 or a restart mark, so the first end mark
    after its start is real. A truncated file has none; that of a thumbnail is before the scan.
    """
    if data.rfind(JPEG_END, start) < 0:  # searches from the end, where it usually is
        raise image_error(path, "truncated: the JPEG data end too early")


def _pillow_header(path: Path, file: BinaryIO, start: bytes) -> ImageHeader:
    if start.startswith((b"GIF87a", b"GIF89a")):
        kind = "GIF"
    elif start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        kind = "TIFF"
    elif start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        kind = "WebP"
    elif start.startswith(b"BM"):
        kind = "BMP"
    elif start[4:8] == b"ftyp" and (brand_kind := _kind_of_brands(file)):
        kind = brand_kind
    else:
        raise image_error(
            path,
            "is not an image of a supported format "
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
            path, "is a camera raw file, or its first image is a preview; save it as TIFF or PNG"
        )
    return ImageHeader(kind, *image.size)


def _kind_of_brands(file: BinaryIO) -> str:
    """ "AVIF" or "HEIC" by the brands at the start of a file; "" for others, such as videos."""
    file.seek(0)
    size = int.from_bytes(file.read(4), "big")
    brands = file.read(min(size, 256))[4:]
    file.seek(0)
    all_brands = {brands[:4]} | {brands[i : i + 4] for i in range(8, len(brands) - 3, 4)}
    if all_brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if all_brands & _HEIC_BRANDS else ""


def odd_tiff(path: Path, file: BinaryIO) -> Image.Image:
    """A substitute, with size, tags and profile, for a TIFF file that Pillow does not support."""
    try:
        tags = _despite_damaged_tags(_tags, file)
        size = int(tags[256]), int(tags[257])
    except Exception as error:  # Pillow raises various types on broken input
        reason = "no width or height in it" if isinstance(error, KeyError) else error
        raise image_error(
            path, f"damaged or unsupported: cannot read the TIFF header ({reason})"
        ) from error
    is_grey = tags.get(TIFF_TAGS["photometric"]) in (0, 1) and tags.get(TIFF_TAGS["samples"], 1) < 3
    image = Image.new("L" if is_grey else "RGB", (1, 1))
    image._size, image.tag_v2 = size, tags
    if profile := tags.get(34675):
        image.info["icc_profile"] = profile
    return image


def _tags(file: BinaryIO) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The first directory of a TIFF file, also of a big-endian BigTIFF."""
    file.seek(0)
    start = file.read(8)
    if start[2] == 43:  # BigTIFF
        start += file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(start)
    if start[3] == 43:  # big-endian BigTIFF, which Pillow takes for a plain TIFF
        tags._bigtiff, tags.next = True, int.from_bytes(file.read(8), "big")
    file.seek(tags.next)
    tags.load(file)
    return tags


def _is_reduced(image: Image.Image) -> bool:
    """Whether a TIFF file's first picture is a preview of another, as in raw files."""
    return bool(_RAW_TAGS & set(image.tag_v2)) or image.tag_v2.get(TIFF_TAGS["subfile"], 0) & 1 == 1


def pillow_image(path: Path, kind: str, file: BinaryIO) -> Image.Image:
    """Pillow's image of that kind, with its header read and pixels not decoded."""
    reader = _PILLOW_READERS.get(kind) or _optional_reader(path, kind)
    try:
        if kind == "TIFF":
            return _despite_damaged_tags(reader, file)
        with _recorded_warnings():  # of damaged metadata
            image = reader(file)
        if kind == "JPEG XL" and not image.jpeg:  # decoded upright regardless of EXIF
            image.info["exif"] = _upright(image.info.get("exif", b""))
        return image
    except Exception as error:  # Pillow's readers raise various types on broken input
        raise image_error(
            path, f"damaged or unsupported: cannot read the {kind} header ({error})"
        ) from error


def _despite_damaged_tags(read: Callable[[BinaryIO], Any], file: BinaryIO) -> Any:
    """Reads a TIFF file, of which Pillow ignores all tags after a damaged one, with a warning."""
    failure = result = None
    with _recorded_warnings() as complaints:
        try:
            result = read(file)
        except Exception as error:  # Pillow's readers raise various types on broken input
            failure = error
        if complaints:
            file.seek(0)
            data = file.read()
            sound = tag_directories.with_empty_damaged_values(data)
            if sound is not data:
                return read(io.BytesIO(sound))
    if failure is not None:
        raise failure
    return result


def _optional_reader(path: Path, kind: str) -> type[Image.Image]:
    """The reader of "HEIC" or "JPEG XL" files, from an optional package."""
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
            f"{kind} files require {package}: pip install {package} (the extra {extra})",
        ) from error
    return reader


def open_for_metadata(path: Path, kind: str, data: bytes) -> Image.Image | None:
    """Opens a complete file with Pillow, for mode, profile and metadata; None if Pillow fails.

    A colour space stated without an ICC profile is converted to one, see `colour_tags`. PNG chunks
    that Pillow refuses are left out, and named in `info["damaged"]`.
    """
    if kind == "PNG":
        return _described_png(path, data)
    try:
        image = pillow_image(path, kind, io.BytesIO(data))
    except ImageError:
        return odd_tiff(path, io.BytesIO(data)) if kind == "TIFF" else None
    add_stated_profile(image, kind, data)
    return image


def _described_png(path: Path, data: bytes) -> Image.Image | None:
    names = dict.fromkeys(name for name, _, _ in png_chunks(path, io.BytesIO(data)))
    optional = [name for name in names if name[:1].islower() and name != b"tRNS"]

    def image_without(refused: Collection[bytes]) -> Image.Image | None:
        sound, damaged = png_without_damage(path, data, ancillary=True, without=refused)
        try:
            image = pillow_image(path, "PNG", io.BytesIO(sound))
        except ImageError:
            return None
        add_stated_profile(image, "PNG", sound)
        image.info["damaged"] = [*damaged, *(name.decode() for name in refused)]
        return image

    image = image_without(())
    if image is not None:
        return image
    others = {name: [other for other in optional if other != name] for name in optional}
    return image_without([name for name in optional if image_without(others[name]) is None])


def _upright(exif: bytes) -> bytes:
    """An EXIF block with its orientation, if any, set to 1."""
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    orientation, offset = find_orientation(exif[start:])
    if orientation == 1:
        return exif
    value_1 = b"\1\0" if exif[start : start + 2] == b"II" else b"\0\1"
    return exif[: start + offset] + value_1 + exif[start + offset + 2 :]


def _orientation(exif: bytes) -> int:
    return find_orientation(exif.removeprefix(b"Exif\x00\x00"))[0]


def find_orientation(block: bytes) -> tuple[int, int]:
    """Orientation in an EXIF block or TIFF file, and the offset of its value.

    (1, 0) if it has none or is broken, which is common and no reason to refuse a picture.
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
    """Applies an EXIF orientation of 1 to 8 to stored pixels [h, w, ...]."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
