"""Reads and writes photos with their colour profile, alpha, bit depth and metadata.

The restore command uses `read_photo` and `write_photo`, so that a result keeps the colours and
metadata of its photo:

* Pixels with an RGB profile are unchanged, and the result has the same profile: nothing is clipped.
  Pixels with CMYK, Lab and grey profiles, and with linear RGB ones (gamma 1.0), which look unlike
  the networks' training data, are converted to sRGB, and the result has an sRGB profile.
* EXIF, XMP, IPTC and print resolution are kept, with upright orientation, without thumbnails.
* Alpha and 16 bits are kept if the format of the result supports them.

NumPy, OpenCV and Pillow only.
"""

import contextlib
import dataclasses
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from dcpt_jax import files
from dcpt_jax.images import codec, colour, tiff
from dcpt_jax.images.headers import JPEG_END, ImageHeader, open_for_metadata, png_without_damage
from dcpt_jax.images.metadata import (
    PNG_RAW_PROFILES,
    Metadata,
    bmp_with,
    jpeg_with,
    png_with,
    read_metadata,
    tiff_of,
    webp_of,
)

_WITH_PROFILE = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"})
_TRAILER = 1000  # bytes after a picture that are worth a remark
_WITH_ALPHA = frozenset({".png", ".webp", ".tif", ".tiff"})


@dataclasses.dataclass(frozen=True)
class Carried:
    """Data of a file besides its RGB pixels."""

    bits: int  # per channel, 8 or 16
    # ICC profile of the RGB pixels; None: no profile, which viewers interpret as sRGB
    profile: bytes | None = None
    # Upright and without thumbnails
    metadata: Metadata = dataclasses.field(default_factory=Metadata)
    alpha: np.ndarray | None = None  # uint8 or uint16 [h, w], upright; None: opaque
    remarks: tuple[str, ...] = ()  # notes for people on what reading changed or left out


def read_photo(
    path: Path | str, *, max_pixels: int = codec.MAX_PIXELS
) -> tuple[np.ndarray, Carried]:
    """Reads an image file as upright RGB pixels, and its other data.

    Returns:
        uint8 or uint16 pixels [h, w, 3] in the space of `profile`, and the other data.
    """
    path = Path(path)
    header, data = codec.read_undecoded(path, max_pixels=max_pixels)
    pixels = codec.decode_pixels(data, path, max_pixels=max_pixels, colour="as_is")
    image = open_for_metadata(path, header.kind, data)
    if image is None:
        remark = "unreadable colour profile, metadata and alpha dropped"
        return pixels, Carried(8 * pixels.itemsize, remarks=(remark,))
    pixels, profile, remarks = _in_rgb(pixels, header, image)
    try:
        metadata, left_out = read_metadata(path, header.kind, data, image)
        remarks += [f"{name} dropped" for name in left_out]
        if len(image.info.get("exif") or b"") > len(b"Exif\0\0") and not metadata.exif:
            remarks.append("unreadable EXIF dropped")
    except Exception as error:  # Pillow raises various types on broken blocks
        metadata = Metadata()
        remarks.append(f"unreadable metadata dropped ({error})")
    return pixels, Carried(
        8 * pixels.itemsize,
        profile,
        metadata,
        _alpha(path, header, data, pixels.dtype),
        (*remarks, *_remarks(header, data, image)),
    )


def _remarks(header: ImageHeader, data: bytes, image: Image.Image) -> list[str]:
    """Notes for people on what is not read, besides colour profile and metadata."""
    remarks = []
    with contextlib.suppress(Exception):  # Pillow raises various types on broken further pictures
        more = "mp" in image.info or getattr(image, "is_animated", False)  # MPF of JPEG
        if header.kind == "TIFF":
            more = image.tag_v2.next
        elif header.kind == "PNG":
            at = data.find(b"acTL", 0, data.find(b"IDAT"))
            more = at >= 0 and int.from_bytes(data[at + 4 : at + 8], "big") > 1
        if more:
            remarks.append("only the first of several images is used")
    if header.kind == "TIFF" and (extra := tiff.extra_channels(image.tag_v2)):
        remarks.append(f"{extra} extra channel{'s'[: extra > 1]} dropped")
    if hdr := image.info.get("hdr"):
        remarks.append(f"HDR ({hdr}) treated as sRGB")
    at = data.find(b"pixi") if header.kind in ("AVIF", "HEIC") else -1
    if at >= 0 and (bits := int.from_bytes(data[at + 9 : at + 10])) > 8:
        remarks.append(f"{bits} bits reduced to 8")
    if damaged := image.info.get("damaged"):
        remarks.append(f"damaged or too long PNG chunks dropped: {', '.join(damaged)}")
    if texts := _texts(data, image):
        remarks.append(f"{texts} dropped")
    if header.kind == "JPEG" and "mp" not in image.info:
        end = data.find(JPEG_END, header.data_start) + len(JPEG_END)
        if (trailing := len(data[end:].rstrip(b"\0"))) > _TRAILER:
            remarks.append(f"{trailing:,} bytes after the image, such as a video, dropped")
    return remarks


def _texts(data: bytes, image: Image.Image) -> str:
    """Names of texts in a file that `Metadata` does not include, for people."""
    texts = [
        name
        for name in getattr(image, "text", {})
        if name != "XML:com.adobe.xmp"
        and name.removeprefix("Raw profile type ") not in PNG_RAW_PROFILES
    ]
    names = [f"PNG texts ({', '.join(texts)})"] if texts else []
    if image.info.get("comment"):
        names.append("comment")
    if image.format == "JPEG" and b"http://ns.adobe.com/xmp/extension/\0" in data:
        names.append("extended XMP")
    return ", ".join(names)


def _in_rgb(
    pixels: np.ndarray, header: ImageHeader, image: Image.Image
) -> tuple[np.ndarray, bytes | None, list[str]]:
    """Pixels in an RGB space suitable for networks, its profile, and notes on changes."""
    try:
        embedded = colour.embedded_profile(image)
        if embedded is None:
            guessed = image.mode == "CMYK"
            return pixels, None, ["CMYK without a profile: colours are approximate"] * guessed
        space, profile = embedded
        linear = space == "RGB" and colour.is_linear(profile)
        if space == "RGB" and not linear:
            return pixels, profile, []
        converted = codec.pixels_to_srgb(pixels, header, image, space, profile)
    except colour.ProfileError as error:
        return pixels, None, [f"{error}; profile ignored"]
    remarks = [f"converted to sRGB from {'linear RGB' if linear else space}"]
    return converted, colour.srgb_profile(), remarks


def _alpha(path: Path, header: ImageHeader, data: bytes, dtype: np.dtype) -> np.ndarray | None:
    """The alpha channel, upright, with the bit depth of the pixels; None if there is none."""
    if header.kind == "TIFF" and (tags := tiff.tags_beyond_pillow(path, data)):
        return tiff.read_samples(path, tags, data)[1]
    # Opened again: the other image may be partly decoded.
    image = open_for_metadata(path, header.kind, data)
    image.info.pop("xmp", None)  # as in `codec`
    if not image.has_transparency_data:
        return None
    if dtype == np.uint16:
        if header.kind == "PNG":  # damaged animations crash OpenCV
            data, _ = png_without_damage(path, data, ancillary=True)
        flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if stored is None or stored.dtype != dtype:
            return None
        transparent = image.info.get("transparency")
        if stored.ndim == 2 and isinstance(transparent, int):  # one grey level, as in PNG
            alpha = np.where(stored == transparent, 0, 65535).astype(dtype)
            return codec.upright(alpha, header.orientation)
        if stored.ndim != 3 or stored.shape[2] != 4:
            return None
        return codec.upright(stored[..., 3], header.orientation)
    if header.kind == "PNG":
        transparent = image.info.get("transparency")
        if isinstance(transparent, int) and image.mode == "L":  # stored with 2, 4 or 8 bits
            image.info["transparency"] = transparent * 255 // (2 ** data[24] - 1)
        return codec.upright(np.array(image.convert("RGBA").getchannel("A")), header.orientation)
    alpha = np.array(ImageOps.exif_transpose(image).convert("RGBA").getchannel("A"))
    # Programs that do not use the alpha channel of BMP leave it zero.
    return None if header.kind == "BMP" and not alpha.any() else alpha


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Blends pixels [h, w, 3] over white by their alpha [h, w]; both of one dtype."""
    largest = np.iinfo(pixels.dtype).max
    opacity = alpha[..., None].astype(np.float64) / largest
    return np.rint(pixels * opacity + largest * (1 - opacity)).astype(pixels.dtype)


def write_photo(path: Path | str, image: np.ndarray, carried: Carried) -> list[str]:
    """Writes an image with the other data of its photo, atomically.

    Args:
        path: target; the suffix selects the format, see `codec.write_image`.
        image: float [h, w, 3], clipped to [0, 1], in the space of `carried.profile`.
        carried: the other data; 16 bits become 8 if the format does not support them.

    Returns:
        Names of what the format cannot hold and was left out, for people.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    profile, metadata, dropped = carried.profile, carried.metadata, []
    if profile and suffix not in _WITH_PROFILE:
        if not colour.is_srgb(profile):
            image = colour.to_srgb(np.clip(image, 0, 1), profile)
            dropped.append(f"converted to sRGB, as {suffix} does not support colour profiles")
        profile = None
    bits = carried.bits
    if bits == 16 and suffix not in codec.SUFFIXES_OF_16_BITS:
        bits = 8
        dropped.append(f"reduced to 8 bits, as {suffix} does not support 16")
    levels = codec.to_levels(path, image, bits)
    alpha = carried.alpha
    if alpha is not None and suffix not in _WITH_ALPHA:
        if alpha.min() < np.iinfo(alpha.dtype).max:
            dropped.append(f"alpha dropped, as {suffix} has none")
        alpha = None
    if alpha is not None:
        if alpha.dtype != levels.dtype:
            alpha = codec.to_uint8(codec.to_float(alpha))
        levels = np.dstack([levels, alpha])
    encoded, lost = _encoded(path, levels, profile, metadata)
    if lost:
        dropped.append(f"{', '.join(lost)} dropped, as {suffix} does not support it")
    files.write_bytes(path, encoded)
    return dropped


def _encoded(
    path: Path, levels: np.ndarray, profile: bytes | None, metadata: Metadata
) -> tuple[bytes, list[str]]:
    """The content of a file, and the names of the metadata that it cannot hold."""
    suffix = path.suffix.lower()
    if suffix == ".png":
        return png_with(codec.encode(path, levels), profile, metadata), []
    if suffix in (".jpg", ".jpeg"):
        return jpeg_with(codec.encode(path, levels), profile, metadata)
    if suffix == ".webp":
        return webp_of(levels, profile, metadata), ["IPTC"] if metadata.iptc else []
    if suffix in (".tif", ".tiff"):
        return tiff_of(levels, profile, metadata)
    if suffix == ".bmp":
        return bmp_with(codec.encode(path, levels), metadata)
    return codec.encode(path, levels), metadata.names()
