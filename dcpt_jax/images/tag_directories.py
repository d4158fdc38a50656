"""Directories of tags in TIFF files and EXIF blocks, whose values stay the stored bytes.

Pillow's reader omits all tags after a damaged one, and its writer refuses unusual values.
"""

import struct
from typing import NamedTuple

EXIF, GPS, INTEROPERABILITY = 0x8769, 0x8825, 0xA005
_INNER = {0: (EXIF, GPS), EXIF: (INTEROPERABILITY,)}  # directory: the directories inside it
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BYTES_BIG = {16: 8, 17: 8, 18: 8}  # additional types of BigTIFF
_FORMATS = {3: "H", 4: "I"}


# Tags of a first directory without which the pixels cannot be decoded, and those that describe them
# in other words: document name, description, maker, model and so on.
_STORAGE, _DESCRIBING = range(254, 348), frozenset({269, 270, 271, 272, 285, 305, 306, 315, 316})


class Damage(NamedTuple):
    """A tag whose value lies outside the data."""

    owner: int  # tag of the directory that it is in, 0 for the first one
    tag: int
    entry: int  # offset of its entry


class Value(NamedTuple):
    """Value of a tag."""

    kind: int  # number of its TIFF type
    data: bytes  # in the byte order of its directory


Directory = dict[int, "Value | Directory"]


def integers(order: str, kind: int, *values: int) -> Value:
    """A value of integers of 16 (kind 3) or 32 bits (kind 4)."""
    return Value(kind, struct.pack(f"{order}{len(values)}{_FORMATS[kind]}", *values))


def rational(order: str, number: float) -> Value:
    """A value of one positive number below 10^6, with three decimals."""
    return Value(5, struct.pack(f"{order}II", round(number * 1000), 1000))


def read(data: bytes) -> tuple[Directory, str, list[Damage]]:
    """First directory of a TIFF file or EXIF block, with those of EXIF, GPS, interoperability.

    Returns:
        The directory, its byte order ("<" or ">"), and the damaged tags, which are left out.

    Raises:
        ValueError: if there is no directory.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    damaged: list[Damage] = []
    try:
        at, kind = (8, "Q") if is_big else (4, "I")
        (first,) = struct.unpack_from(order + kind, data, at)
        return _read(data, first, order, is_big, 0, damaged), order, damaged
    except struct.error as error:
        raise ValueError("no directory of tags") from error


def _read(
    data: bytes, start: int, order: str, is_big: bool, owner: int, damaged: list[Damage]
) -> Directory:
    head, offset = order + ("Q" if is_big else "H"), order + ("Q" if is_big else "I")
    room = struct.calcsize(offset)
    (count,) = struct.unpack_from(head, data, start)
    start += struct.calcsize(head)
    found: Directory = {}
    for entry in range(start, start + count * (4 + 2 * room), 4 + 2 * room):
        if entry + 4 + 2 * room > len(data):
            break
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        (number,) = struct.unpack_from(offset, data, entry + 4)
        size = number * (_BYTES | _BYTES_BIG).get(kind, 0)
        at = entry + 4 + room
        if size > room:
            (at,) = struct.unpack_from(offset, data, at)
        if number and (not size or at + size > len(data)):
            damaged.append(Damage(owner, tag, entry))
        elif tag in _INNER.get(owner, ()):
            try:
                (inner,) = struct.unpack_from(offset if size == 8 else order + "I", data, at)
                found[tag] = _read(data, inner, order, is_big, tag, damaged)
            except struct.error:
                damaged.append(Damage(owner, tag, entry))
        elif kind in _BYTES and number:
            found[tag] = Value(kind, data[at : at + size])
    return found


def with_empty_damaged_values(data: bytes) -> bytes:
    """A TIFF file whose damaged tags are empty texts, except those that pixels need."""
    try:
        _, order, damaged = read(data)
    except ValueError:
        return data
    changed = bytearray()
    for owner, tag, entry in damaged:
        if not owner and (tag not in _STORAGE or tag in _DESCRIBING):
            changed = changed or bytearray(data)
            room = 16 if data[2:4] in (b"+\0", b"\0+") else 8
            number = struct.pack(order + ("Q" if room == 16 else "I"), 1)
            struct.pack_into(f"{order}H{room}s", changed, entry + 2, 2, number)
    return bytes(changed) or data


def block(directory: Directory, order: str) -> bytes:
    """An EXIF block with this directory."""
    return header(order, 8) + encode_directory(directory, order, 8)


def header(order: str, first: int) -> bytes:
    """Start of a TIFF file or EXIF block whose first directory is at an offset."""
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", first)


def encode_directory(directory: Directory, order: str, start: int) -> bytes:
    """The bytes of a directory at an even offset, followed by its values and directories."""
    entries, values = [], b""
    end = start + 2 + 12 * len(directory) + 4
    for tag, value in sorted(directory.items()):
        at = end + len(values)
        if isinstance(value, dict):
            kind, count, inside = 4, 1, struct.pack(order + "I", at)
            values += encode_directory(value, order, at)
        else:
            kind, count = value.kind, len(value.data) // _BYTES[value.kind]
            is_short = len(value.data) <= 4
            inside = value.data.ljust(4, b"\0") if is_short else struct.pack(order + "I", at)
            values += b"" if is_short else value.data + bytes(len(value.data) % 2)
        entries.append(struct.pack(order + "HHI", tag, kind, count) + inside)
    return struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4) + values
