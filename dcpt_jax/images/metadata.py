"""Reads EXIF, XMP, IPTC and print resolution from image files, and writes them to encoded files.

Orientation and thumbnail are changed in place, so that all other bytes of EXIF are kept, including
makers' notes with their offsets. TIFF files store EXIF among their own tags, which Pillow rewrites.
"""

import io
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dcpt_jax.images import tag_directories
from dcpt_jax.images.headers import (
    TIFF_TAGS,
    UPRIGHT_KINDS,
    ImageError,
    find_orientation,
    png_chunks,
    raw_profile,
)
from dcpt_jax.images.tag_directories import (
    EXIF,
    GPS,
    INTEROPERABILITY,
    Damage,
    Value,
    integers,
    rational,
)
from dcpt_jax.images.xmp import cleaned_xmp

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
_TIFF_XMP, _TIFF_IPTC, _TIFF_PROFILE = 700, 33723, 34675
# Blocks that are read and written separately, layers of Photoshop, and its resources.
_BLOCKS = frozenset({EXIF, GPS, INTEROPERABILITY, _TIFF_IPTC, _TIFF_PROFILE, 34377, 37724})
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


def read_metadata(
    path: Path, kind: str, data: bytes, image: Image.Image
) -> tuple[Metadata, list[str]]:
    """Reads the metadata of a file, upright and without thumbnails; broken blocks are left out.

    Returns:
        The metadata, and names of what was left out, for people.
    """
    left_out: list[str] = []
    if kind == "TIFF":
        exif, xmp, iptc, left_out = _of_tiff(data)
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
    if xmp:
        xmp = cleaned_xmp(xmp, turned=orientation != 1 or kind in UPRIGHT_KINDS)
        left_out += ["damaged XMP"] if xmp is None else []
    metadata = Metadata(
        upright_exif(exif) if exif else None,
        xmp or None,
        bytes(iptc) if iptc else None,
        resolution[::-1] if resolution and orientation in (5, 6, 7, 8) else resolution,
    )
    return metadata, left_out


def _resolution(image: Image.Image) -> tuple[float, float] | None:
    """Pixels per inch as stored in a JFIF, PNG, BMP or TIFF file; Pillow invents missing values."""
    if image.format == "JPEG":
        inches = {1: 1.0, 2: 2.54}.get(image.info.get("jfif_unit"), 0.0)
        densities = [inches * density for density in image.info.get("jfif_density", (0, 0))]
    elif image.format == "TIFF" and not {282, 283} <= set(image.tag_v2):
        return None
    else:
        densities = [float(density) for density in image.info.get("dpi", (0, 0))]
    # Some TIFFs state NaN, which fails the comparison.
    known = len(densities) == 2 and all(0 < density < 1e6 for density in densities)
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


def _of_tiff(data: bytes) -> tuple[bytes | None, bytes | None, bytes | None, list[str]]:
    tags, order, damaged = tag_directories.read(data)
    exif = _descriptive(tags)
    xmp, iptc = (
        value.data if isinstance(value := tags.get(tag), Value) else None
        for tag in (_TIFF_XMP, _TIFF_IPTC)
    )
    return tag_directories.block(exif, order) if exif else None, xmp, iptc, _damaged_names(damaged)


def _descriptive(tags: tag_directories.Directory) -> tag_directories.Directory:
    """The tags of a first directory that describe the picture."""
    return {tag: value for tag, value in tags.items() if value and _is_descriptive(tag)}


def _is_descriptive(tag: int) -> bool:
    is_private = tag in _PRIVATE_TAGS and tag not in _BLOCKS
    return tag in _DESCRIPTIVE_TAGS or is_private or tag in (EXIF, GPS)


def _damaged_names(damaged: Sequence[Damage]) -> list[str]:
    """Names for people of the damaged tags that would have been kept."""
    tags = [f"{tag:#06x}" for owner, tag, _ in damaged if owner or _is_descriptive(tag)]
    return [f"damaged EXIF tag{'s'[: len(tags) != 1]} {', '.join(tags)}"] if tags else []


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
    """A TIFF file of uint8 or uint16 RGB or RGBA pixels; also names of metadata left out."""
    height, width, channels = pixels.shape
    tags, order, dropped = _tags_of_exif(metadata.exif)
    # Horizontal differences compress better; readers add them up again.
    differences = pixels.astype(f"{order}u{pixels.itemsize}")
    differences[:, 1:] = pixels[:, 1:] - pixels[:, :-1]
    rows = max(_STRIP_BYTES // (width * channels * pixels.itemsize), 1)
    strips = [zlib.compress(differences[i : i + rows]) for i in range(0, height, rows)]
    if metadata.resolution:
        tags[282], tags[283] = (rational(order, density) for density in metadata.resolution)
        tags[296] = integers(order, 3, 2)  # inches
    sizes = [len(strip) for strip in strips]
    ends = (8 + np.cumsum(sizes)).tolist()
    end = ends[-1] + ends[-1] % 2
    if end >= 2**32 - 2**24:
        raise ValueError("more than 4 GiB, which TIFF does not support; use PNG")
    for tag, values in {
        TIFF_TAGS["bits"]: (8 * pixels.itemsize,) * channels,
        259: (8,),  # deflate
        TIFF_TAGS["photometric"]: (2,),
        TIFF_TAGS["samples"]: (channels,),
        TIFF_TAGS["planar"]: (1,),
        317: (2,),  # differences
        **({338: (2,)} if channels == 4 else {}),  # alpha not premultiplied
    }.items():
        tags[tag] = integers(order, 3, *values)
    for tag, values in {
        256: (width,),
        257: (height,),
        273: [end - size for end, size in zip(ends, sizes, strict=True)],
        278: (rows,),
        279: sizes,
    }.items():
        tags[tag] = integers(order, 4, *values)
    for tag, block in (
        (_TIFF_XMP, metadata.xmp),
        (_TIFF_IPTC, metadata.iptc),
        (_TIFF_PROFILE, profile),
    ):
        if block:
            tags[tag] = Value(7, block)  # bytes
    directory = tag_directories.encode_directory(tags, order, end)
    parts = [tag_directories.header(order, end), *strips, bytes(ends[-1] % 2), directory]
    return b"".join(parts), dropped


def _tags_of_exif(block: bytes | None) -> tuple[tag_directories.Directory, str, list[str]]:
    """The tags for a TIFF file of an EXIF block, their byte order, and names of those left out."""
    if not block:
        return {}, "<", []
    try:
        tags, order, damaged = tag_directories.read(block)
    except ValueError:
        return {}, "<", ["EXIF"]
    return _descriptive(tags), order, _damaged_names(damaged)
