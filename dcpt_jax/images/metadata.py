"""Reads EXIF, XMP, IPTC and print resolution from image files, and writes them to encoded files.

Orientation and thumbnail are changed in place, so that all other bytes of EXIF are kept, including
makers' notes with their offsets. TIFF files store EXIF among their own tags, which Pillow rewrites.
"""

import contextlib
import io
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from dcpt_jax.images.headers import (
    TIFF_TAGS,
    UPRIGHT_KINDS,
    ImageError,
    find_orientation,
    png_chunks,
    raw_profile,
)

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_EXIF_START = b"Exif\0\0"
_XMP_START = b"http://ns.adobe.com/xap/1.0/\0"
# Blocks that ImageMagick and ExifTool store in texts named "Raw profile type ..."
PNG_RAW_PROFILES = ("exif", "APP1", "xmp", "iptc")
_PNG_XMP_START = b"XML:com.adobe.xmp\0"
_IPTC_RESOURCE = 0x0404
_LARGEST_SEGMENT = 65_533  # bytes of a JPEG segment, without its marker and length
# TIFF tags that describe the picture instead of its storage; 18246 and 18249: stars of Windows.
_DESCRIPTIVE_TAGS = frozenset(
    {11, 269, 270, 271, 272, 282, 283, 285, 296, 305, 306, 315, 316, 18246, 18249}
)
_PRIVATE_TAGS = range(33432, 50000)  # of programs and of EXIF, most of which are descriptive
_EXIF_TAG, _GPS_TAG, _INTEROP_TAG = 0x8769, 0x8825, 0xA005
_TIFF_XMP, _TIFF_IPTC, _TIFF_PROFILE = 700, 33723, 34675
# Blocks that are read and written separately, layers of Photoshop, and its resources.
_BLOCKS = frozenset({_EXIF_TAG, _GPS_TAG, _INTEROP_TAG, _TIFF_IPTC, _TIFF_PROFILE, 34377, 37724})
_STRIP_BYTES = 2**20
_METRE = 1 / 0.0254  # in inches


@dataclass(frozen=True)
class Metadata:
    """Metadata of a file; None if missing."""

    exif: bytes | None = None  # block that begins with a TIFF header
    xmp: bytes | None = None  # XML text as bytes
    iptc: bytes | None = None  # records of IPTC-IIM
    # Horizontal and vertical pixels per inch, if stated outside EXIF
    resolution: tuple[float, float] | None = None

    def __bool__(self) -> bool:
        """Whether there is any metadata."""
        return any((self.exif, self.xmp, self.iptc, self.resolution))

    def names(self) -> list[str]:
        """Names of the metadata present."""
        return [
            name
            for name, block in (
                *(("EXIF", self.exif), ("XMP", self.xmp)),
                *(("IPTC", self.iptc), ("resolution", self.resolution)),
            )
            if block
        ]


def read_metadata(path: Path, kind: str, data: bytes, image: Image.Image) -> Metadata:
    """Reads the metadata of a file, upright and without thumbnails; broken blocks are left out."""
    if kind == "TIFF":
        exif, xmp, iptc = _of_tiff(data, image.tag_v2)
    elif kind == "PNG":
        exif, xmp, iptc = _of_png(path, data, image)
    else:
        resources = image.info.get("photoshop")
        iptc = resources.get(_IPTC_RESOURCE) if isinstance(resources, dict) else None
        exif, xmp = image.info.get("exif"), image.info.get("xmp")
    exif = exif.removeprefix(_EXIF_START) if exif else None
    orientation = find_orientation(exif or b"")[0]
    if kind == "TIFF":
        orientation = image.tag_v2.get(TIFF_TAGS["orientation"], 1)
    resolution = _resolution(image)
    return Metadata(
        upright_exif(exif) if exif else None,
        _upright_xmp(xmp, turned=orientation != 1 or kind in UPRIGHT_KINDS) if xmp else None,
        bytes(iptc) if iptc else None,
        resolution[::-1] if resolution and orientation in (5, 6, 7, 8) else resolution,
    )


def _resolution(image: Image.Image) -> tuple[float, float] | None:
    """Pixels per inch as stored in a JFIF, PNG, BMP or TIFF file; Pillow invents missing values."""
    if image.format == "JPEG":
        inches = {1: 1.0, 2: 2.54}.get(image.info.get("jfif_unit"), 0.0)
        densities = [inches * density for density in image.info.get("jfif_density", (0, 0))]
    elif image.format == "TIFF" and not {282, 283} <= set(image.tag_v2):
        return None
    else:
        densities = [float(density) for density in image.info.get("dpi", (0, 0))]
    known = len(densities) == 2 and all(
        0 < density < 1e6 for density in densities
    )  # not NaN, as in some TIFFs
    return (densities[0], densities[1]) if known else None


def _of_png(
    path: Path, data: bytes, image: Image.Image
) -> tuple[bytes | None, bytes | None, bytes | None]:
    exif, xmp = image.info.get("exif"), image.info.get("xmp")
    try:
        for kind, start, length in png_chunks(path, io.BytesIO(data)):  # also after the pixels
            if kind == b"eXIf":
                exif = data[start : start + length]
            elif kind == b"iTXt" and xmp is None and data.startswith(_PNG_XMP_START, start):
                xmp = _png_text(data[start + len(_PNG_XMP_START) : start + length])
    except ImageError:
        pass
    raw = {
        name: raw_profile(image.info.get(f"Raw profile type {name}")) for name in PNG_RAW_PROFILES
    }
    segment = raw["APP1"] or b""
    if exif is None:
        exif = raw["exif"] or (segment if segment.startswith(_EXIF_START) else None)
    if xmp is None:
        xmp = raw["xmp"] or (segment if segment.startswith(_XMP_START) else b"")[len(_XMP_START) :]
    return exif, xmp, None if raw["iptc"] is None else _iptc_of_resource(raw["iptc"])


def _png_text(block: bytes) -> bytes | None:
    """Text of an iTXt chunk, after its keyword."""
    parts = block[2:].split(b"\0", 2)
    if len(parts) < 3:
        return None
    if block[0] == 0:
        return parts[2]
    try:
        return zlib.decompressobj().decompress(parts[2], 2**24)
    except zlib.error:
        return None


def _iptc_of_resource(resource: bytes) -> bytes | None:
    """IPTC records in a Photoshop resource, the inverse of `_iptc_resource`."""
    if not resource.startswith(b"8BIM") or len(resource) < 12:
        return None
    (size,) = struct.unpack_from(">I", resource, 8)
    return resource[12 : 12 + size] or None


def _of_tiff(
    data: bytes, tags: TiffImagePlugin.ImageFileDirectory_v2
) -> tuple[bytes | None, bytes | None, bytes | None]:
    exif, source = Image.Exif(), Image.Exif()
    block_bytes = None
    with contextlib.suppress(Exception):  # Pillow raises various types on broken tags
        for tag, value in _descriptive(tags).items():
            exif[tag] = value
        block_bytes = exif.tobytes() if len(exif) else None
        source.bigtiff, source.endian = tags._bigtiff, tags._endian
        source.load_from_fp(io.BytesIO(data), tags._offset)
        for tag in (_EXIF_TAG, _GPS_TAG):
            if block := _directory(source, tag):
                exif[tag] = block
        block_bytes = exif.tobytes() if len(exif) else None
    iptc = tags.get(_TIFF_IPTC)
    if isinstance(iptc, tuple):  # some writers declare the bytes as integers
        iptc = struct.pack(f"{tags._endian}{len(iptc)}I", *iptc)
    xmp = tags.get(_TIFF_XMP)
    if isinstance(xmp, tuple) and len(xmp) == 1:
        xmp = xmp[0]
    return block_bytes, xmp if isinstance(xmp, bytes) else None, iptc


def _descriptive(tags: Mapping[int, Any]) -> dict[int, Any]:
    """The tags of a first directory that describe the picture."""
    return {
        tag: _as_stored(value)
        for tag, value in tags.items()
        if tag in _DESCRIPTIVE_TAGS or (tag in _PRIVATE_TAGS and tag not in _BLOCKS)
    }


def _directory(exif: Image.Exif, tag: int) -> dict[int, Any]:
    """A directory inside EXIF, with that of interoperability if it has one."""
    directory = {key: _as_stored(value) for key, value in exif.get_ifd(tag).items()}
    if isinstance(directory.get(_INTEROP_TAG), int):
        directory[_INTEROP_TAG] = dict(exif.get_ifd(_INTEROP_TAG))
    return directory


def _as_stored(value: Any) -> Any:
    """A value for Pillow to write, which replaces letters outside ASCII, but not bytes."""
    is_text = isinstance(value, str) and not value.isascii()
    return value.encode("latin-1", "replace") if is_text else value


def upright_exif(block: bytes) -> bytes | None:
    """An EXIF block with orientation 1 and no thumbnail; None if it is broken."""
    order = _ORDERS.get(bytes(block[:4]))
    if order is None:
        return None
    data = bytearray(block)
    try:
        (first,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, first)
        link = first + 2 + 12 * count
        if link > len(data):
            return None
        for entry in range(first + 2, link, 12):
            (tag,) = struct.unpack_from(order + "H", data, entry)
            if tag == TIFF_TAGS["orientation"]:
                struct.pack_into(order + "HHIHH", data, entry, tag, 3, 1, 1, 0)
        if len(data) < link + 4:  # some writers omit the last link
            return bytes(data)
        (second,) = struct.unpack_from(order + "I", data, link)
        struct.pack_into(order + "I", data, link, 0)
    except struct.error:
        return None
    if second:
        _erase_thumbnail(data, order, second)
    return bytes(data)


def _erase_thumbnail(data: bytearray, order: str, directory: int) -> None:
    """Overwrites the thumbnail of a directory, or truncates the block if it is at the end."""
    values = {}
    try:
        (count,) = struct.unpack_from(order + "H", data, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, number, value = struct.unpack_from(order + "HHII", data, entry)
            if number == 1 and kind == 4:
                values[tag] = value
    except struct.error:
        pass
    for start_tag, length_tag in ((0x201, 0x202), (0x111, 0x117)):
        start, length = values.get(start_tag, 0), values.get(length_tag, 0)
        if not directory < start < len(data):
            continue
        end = min(start + length, len(data))
        if end >= len(data) - 8:
            del data[start:]
        else:
            data[start:end] = bytes(end - start)


def _upright_xmp(xmp: bytes | str, *, turned: bool) -> bytes:
    """XMP without thumbnails, and upright if the pixels have been turned, for which EXIF counts."""
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    xmp = xmp.rstrip(b"\0")
    if turned:
        xmp = re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]", rb"\g<1>1", xmp)
    return re.sub(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", b"", xmp, flags=re.DOTALL)


def png_with(encoded: bytes, profile: bytes | None, metadata: Metadata) -> bytes:
    """Inserts a colour profile and metadata after the header of a PNG file."""
    chunks = []
    if profile:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)))
    if metadata.resolution:
        per_metre = (round(density * _METRE) for density in metadata.resolution)
        chunks.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif))
    if metadata.xmp:
        chunks.append((b"iTXt", _PNG_XMP_START + b"\0\0\0\0" + metadata.xmp))
    if metadata.iptc:
        resource = _iptc_resource(metadata.iptc)
        lines = re.findall(".{1,72}", resource.hex())
        text = "\n".join(["", "iptc", f"{len(resource):8}", *lines, ""])
        chunks.append((b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(text.encode())))
    blocks = b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    return encoded[:33] + blocks + encoded[33:]


def jpeg_with(encoded: bytes, profile: bytes | None, metadata: Metadata) -> tuple[bytes, list[str]]:
    """Inserts a colour profile and metadata into a JPEG file; also names those too long for it."""
    segments, dropped = [], []
    for name, marker, content in (
        ("EXIF", 0xE1, metadata.exif and _EXIF_START + metadata.exif),
        ("XMP", 0xE1, metadata.xmp and _XMP_START + metadata.xmp),
        ("IPTC", 0xED, metadata.iptc and b"Photoshop 3.0\0" + _iptc_resource(metadata.iptc)),
    ):
        if content and len(content) > _LARGEST_SEGMENT:
            dropped.append(f"{name} of over 64 KiB")
        elif content:
            segments.append((marker, content))
    if profile:
        size = _LARGEST_SEGMENT - 14
        parts = [profile[i : i + size] for i in range(0, len(profile), size)]
        for number, part in enumerate(parts, 1):
            segments.append((0xE2, b"ICC_PROFILE\0" + bytes((number, len(parts))) + part))
    blocks = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        for marker, content in segments
    )
    start = 2
    head = encoded[:2]
    if encoded[2:4] == b"\xff\xe0":  # JFIF comes first
        start = 4 + int.from_bytes(encoded[4:6], "big")
        head = encoded[:start]
    if metadata.resolution:
        per_inch = [round(density) for density in metadata.resolution]
        if head[6:10] == b"JFIF" and all(1 <= density < 2**16 for density in per_inch):
            head = head[:13] + struct.pack(">BHH", 1, *per_inch) + head[18:]
        else:
            dropped.append("resolution")
    return head + blocks + encoded[start:], dropped


def bmp_with(encoded: bytes, metadata: Metadata) -> tuple[bytes, list[str]]:
    """Adds the resolution to a BMP file; also returns the names of metadata that it cannot hold."""
    names = metadata.names()
    if metadata.resolution:
        per_metre = [round(density * _METRE) for density in metadata.resolution]
        encoded = encoded[:38] + struct.pack("<ii", *per_metre) + encoded[46:]
        names.remove("resolution")
    return encoded, names


def _iptc_resource(iptc: bytes) -> bytes:
    head = b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc))
    return head + iptc + bytes(len(iptc) % 2)


def webp_of(pixels: np.ndarray, profile: bytes | None, metadata: Metadata) -> bytes:
    """A lossless WebP file of uint8 RGB or RGBA pixels; WebP cannot hold IPTC."""
    file = io.BytesIO()
    exif = metadata.exif
    if metadata.resolution and not exif:  # EXIF has a resolution of its own
        block = Image.Exif()
        block[282], block[283], block[296] = *metadata.resolution, 2
        exif = block.tobytes()
    options = {"icc_profile": profile, "exif": exif, "xmp": metadata.xmp}
    Image.fromarray(pixels).save(
        file, "WEBP", lossless=True, exact=True, **{k: v for k, v in options.items() if v}
    )
    return file.getvalue()


def tiff_of(
    pixels: np.ndarray, profile: bytes | None, metadata: Metadata
) -> tuple[bytes, list[str]]:
    """A TIFF file of uint8 or uint16 RGB or RGBA pixels; also names of metadata it cannot hold."""
    height, width, channels = pixels.shape
    bits = 8 * pixels.itemsize
    # Horizontal differences compress better; readers add them up again.
    differences = pixels.astype(f"<u{pixels.itemsize}")
    differences[:, 1:] = pixels[:, 1:] - pixels[:, :-1]
    rows = max(_STRIP_BYTES // (width * channels * pixels.itemsize), 1)
    strips = [zlib.compress(differences[i : i + rows]) for i in range(0, height, rows)]
    tags = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"II*\0\0\0\0\0")
    dropped = _add_exif(tags, metadata.exif)
    if metadata.resolution:
        tags[282], tags[283] = metadata.resolution
        tags[296] = 2  # inches
    ends = np.cumsum([len(strip) for strip in strips]).tolist()
    for tag, value in {
        256: width,
        257: height,
        TIFF_TAGS["bits"]: (bits,) * channels,
        259: 8,  # deflate
        TIFF_TAGS["photometric"]: 2,
        273: tuple(end - len(strip) for end, strip in zip(ends, strips, strict=True)),
        277: channels,
        278: rows,
        279: tuple(len(strip) for strip in strips),
        TIFF_TAGS["planar"]: 1,
        317: 2,  # differences
    }.items():
        tags[tag] = value
    if channels == 4:
        tags[338] = 2  # alpha not premultiplied
    for tag, block in (
        (_TIFF_XMP, metadata.xmp),
        (_TIFF_IPTC, metadata.iptc),
        (_TIFF_PROFILE, profile),
    ):
        if block:
            tags.tagtype[tag] = 7  # bytes
            tags[tag] = block
    file = io.BytesIO()
    tags.save(file)
    file.writelines(strips)
    return file.getvalue(), dropped


def _add_exif(tags: TiffImagePlugin.ImageFileDirectory_v2, block: bytes | None) -> Sequence[str]:
    """Adds the tags of an EXIF block; ["EXIF"] if that is not possible."""
    if not block:
        return []
    try:
        exif = Image.Exif()
        exif.load(_EXIF_START + block)
        directories = {tag: _directory(exif, tag) for tag in (_EXIF_TAG, _GPS_TAG)}
        all_tags = {
            **_descriptive(exif),
            **{tag: directory for tag, directory in directories.items() if directory},
        }
        trial = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"II*\0\0\0\0\0")
        for tag, value in all_tags.items():
            trial[tag] = value
        trial.tobytes()
    except Exception:  # Pillow raises various types on unusual tags
        return ["EXIF"]
    for tag, value in all_tags.items():
        tags[tag] = value
    return []
