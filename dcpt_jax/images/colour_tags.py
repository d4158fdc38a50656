"""Colour spaces that files state otherwise than Pillow reads them, as ICC profiles.

PNG's cICP, gAMA and cHRM, the code points (nclx) of AVIF and HEIC, the Adobe RGB that cameras
state only in EXIF, and profiles embedded in BMP files. NumPy and Pillow only.
"""

import struct

import numpy as np
from PIL import Image

_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D65 = (0.3127, 0.3290)
# Chromaticities of red, green, blue and white, by the code points of ITU-T H.273.
_SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, *_D65)
_ADOBE = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, *_D65)
_PRIMARIES = {
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *_D65),  # BT.2020
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),  # DCI-P3
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *_D65),  # Display P3
}
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}  # other transfers: the curve of sRGB
_HDR = {16: "PQ", 18: "HLG"}
_SRGB_GAMMA = 1 / 0.45455
_ADOBE_GAMMA = 2 + 51 / 256


def add_stated_profile(image: Image.Image, kind: str, data: bytes) -> None:
    """Sets `image.info["icc_profile"]` from the colour space stated by a file without a profile.

    No-op for sRGB. HDR transfer characteristics, which are not supported, are named in
    `image.info["hdr"]`. A PNG file's cICP takes precedence over its profile, as in browsers.

    Args:
        image: the opened file.
        kind: type of the file, see `ImageHeader`.
        data: content of the file.
    """
    has_profile = bool(image.info.get("icc_profile"))
    if image.mode in ("CMYK", "LAB") or (has_profile and kind != "PNG"):
        return
    points = _code_points(kind, data)
    if points is not None:
        primaries, transfer = points
        if transfer in _HDR:
            if not has_profile:
                image.info["hdr"] = _HDR[transfer]
        elif primaries in _PRIMARIES or transfer in _GAMMAS:
            chromaticities = _PRIMARIES.get(primaries, _SRGB)
            image.info["icc_profile"] = rgb_profile(chromaticities, _GAMMAS.get(transfer))
        elif primaries == 1:
            image.info.pop("icc_profile", None)
    elif has_profile:
        return
    elif kind == "PNG" and "srgb" not in image.info and image.info.get("gamma", 0) > 0:
        gamma = 1 / image.info["gamma"]
        stated = tuple(image.info.get("chromaticity", ()))  # white first
        chromaticities = (*stated[2:], *stated[:2]) or _SRGB
        is_srgb = np.abs(np.subtract(chromaticities, _SRGB)).max() < 0.002
        if _possible(chromaticities, gamma) and (abs(gamma - _SRGB_GAMMA) > 0.02 or not is_srgb):
            curve = None if abs(gamma - _SRGB_GAMMA) < 0.02 else gamma
            image.info["icc_profile"] = rgb_profile(chromaticities, curve)
    elif kind == "JPEG" and b"R03\0" in (exif := image.info.get("exif", b"")) and _is_adobe(exif):
        image.info["icc_profile"] = rgb_profile(_ADOBE, _ADOBE_GAMMA)
    elif kind == "BMP" and data[14] == 124 and data[70:74] == b"DEBM" and len(data) > 138:
        # The header of version 5 with an embedded profile
        start, size = struct.unpack_from("<II", data, 126)
        image.info["icc_profile"] = data[14 + start : 14 + start + size]


def _possible(chromaticities: tuple[float, ...], gamma: float) -> bool:
    """Whether a gamma, and x and y of red, green, blue and white, can be those of a display.

    Others, such as zeros or points on a line, are damage and may exceed the range of a profile.
    """
    red, green, blue, white = np.reshape(chromaticities, (4, 2))
    area = abs(np.linalg.det([green - red, blue - red]))
    in_range = 0.1 <= gamma <= 10 and min(chromaticities) >= 0 and max(chromaticities) <= 1
    return bool(in_range and area > 0.01 and white.min() > 0.2 and white.max() < 0.45)


def _code_points(kind: str, data: bytes) -> tuple[int, int] | None:
    """Primaries and transfer characteristics of H.273 stated by a file."""
    if kind == "PNG":
        at = 8  # chunks of length, name, content and checksum
        while (name := data[at + 4 : at + 8]) not in (b"cICP", b"IDAT", b""):
            at += 12 + int.from_bytes(data[at : at + 4], "big")
        return (data[at + 8], data[at + 9]) if name == b"cICP" else None
    if kind in ("AVIF", "HEIC"):
        at = data.find(b"colrnclx")
        return None if at < 0 else struct.unpack_from(">HH", data.ljust(at + 12), at + 8)
    return None


def _is_adobe(exif: bytes) -> bool:
    """Whether EXIF states Adobe RGB, by the interoperability index R03."""
    block = Image.Exif()
    try:
        block.load(exif)
        return block.get_ifd(0xA005).get(1) == "R03"
    except Exception:  # Pillow raises various types on broken blocks
        return False


def rgb_profile(chromaticities: tuple[float, ...], gamma: float | None) -> bytes:
    """An ICC profile of a matrix and one curve for all channels.

    Args:
        chromaticities: x and y of red, green, blue and white.
        gamma: of the curve; None: the curve of sRGB.
    """
    xyz = np.array(
        [
            (x / y, 1, (1 - x - y) / y)
            for x, y in zip(
                chromaticities[::2], np.maximum(chromaticities[1::2], 1e-6), strict=True
            )
        ]
    ).T
    primaries, white = xyz[:, :3], xyz[:, 3]
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ _D50 / (_BRADFORD @ white)) @ _BRADFORD
    columns = adapt @ primaries * np.linalg.solve(primaries, white)
    tags = {b"desc": _text("RGB"), b"cprt": _text("CC0"), b"wtpt": _xyz(_D50)}
    for i, name in enumerate((b"r", b"g", b"b")):
        tags[name + b"XYZ"] = _xyz(columns[:, i])
        tags[name + b"TRC"] = _curve(gamma)
    table, blocks, at = b"", b"", 132 + 12 * len(tags)
    for name, block in tags.items():
        block += bytes(-len(block) % 4)
        table += struct.pack(">4sII", name, at + len(blocks), len(block))
        blocks += block
    size = at + len(blocks)
    head = struct.pack(">I4sI4s4s4s", size, b"", 0x04200000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", *(round(value * 65536) for value in _D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + blocks


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return struct.pack(">4sIII4sII", b"mluc", 0, 1, 12, b"enUS", len(encoded), 28) + encoded


def _curve(gamma: float | None) -> bytes:
    kind, values = 0, [gamma]
    if gamma is None:
        kind, values = 3, [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045]
    numbers = (round(value * 65536) for value in values)
    return struct.pack(f">4sIHH{len(values)}i", b"para", 0, kind, 0, *numbers)
