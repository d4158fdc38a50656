"""ICC profiles for the tests, made of a matrix and one gamma."""

import struct

import numpy as np

_D50 = (0.9642, 1.0, 0.8249)
# Primaries as columns, in XYZ under D50.
P3 = np.array(
    [
        [0.51512, 0.29198, 0.15710],
        [0.24120, 0.69225, 0.06657],
        [-0.00105, 0.04189, 0.78407],
    ]
)
SRGB = np.array(
    [
        [0.43607, 0.38515, 0.14307],
        [0.22249, 0.71687, 0.06061],
        [0.01392, 0.09708, 0.71410],
    ]
)


def rgb_profile(primaries: np.ndarray = P3, gamma: float | None = 2.2) -> bytes:
    """An RGB profile; a gamma of None is the curve of sRGB."""
    tags = {b"wtpt": _xyz(_D50)}
    for i, name in enumerate("rgb"):
        tags[f"{name}XYZ".encode()] = _xyz(primaries[:, i])
        tags[f"{name}TRC".encode()] = _curve(gamma)
    return _profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    """A grey profile."""
    return _profile(b"GRAY", {b"wtpt": _xyz(_D50), b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """A CMYK profile: a table of two steps for each ink, darker and duller than plain RGB."""
    table = []
    for corner in range(16):
        c, m, y, k = ((corner >> shift) & 1 for shift in (3, 2, 1, 0))
        light = 95 - 25 * c - 45 * m - 8 * y - 85 * k
        table += [max(light, 5) * 255 // 100, 128 - 35 * c + 70 * m, 128 - 40 * c + 60 * y]
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (i in (0, 4, 8)) for i in range(9)))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + 4 * ramp + bytes(table) + 3 * ramp
    return _profile(b"CMYK", {b"wtpt": _xyz(_D50), b"A2B0": lut}, b"prtr", b"Lab ")


def _xyz(values) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"para\0\0\0\0\0\0\0\0" + struct.pack(">i", round(gamma * 65536))
    values = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para\0\0\0\0\0\3\0\0" + struct.pack(">5i", *(round(v * 65536) for v in values))


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return (
        b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(encoded), 28) + encoded
    )


def _profile(
    space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", connection: bytes = b"XYZ "
) -> bytes:
    tags = {b"desc": _text("test"), b"cprt": _text("none"), **tags}
    start, table, data = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += struct.pack(">4sII", name, start + len(data), len(content))
        data += content
    body = struct.pack(">I", len(tags)) + table + data
    header = struct.pack(
        ">I4sI4s4s4s12s4s4sI4s4sQI3i4s16s28x",
        128 + len(body),
        b"none",
        0x04200000,
        kind,
        space,
        connection,
        b"\x07\xea" + bytes(10),
        b"acsp",
        b"APPL",
        0,
        b"none",
        b"none",
        0,
        0,
        *(round(v * 65536) for v in _D50),
        b"none",
        bytes(16),
    )
    return header + body
