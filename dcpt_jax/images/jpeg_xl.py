"""Size in the header of JPEG XL files, whose reader decodes them before it reports it."""

import os
from typing import BinaryIO

_CODESTREAM = b"\xff\x0a"
STARTS = (_CODESTREAM, b"\0\0\0\x0cJXL \r\n\x87\n")  # codestream, container


def size_of(file: BinaryIO) -> tuple[int, int] | None:
    """Width and height of a JPEG XL file, by its header; None if that is damaged."""
    start = file.read(2)
    if start != _CODESTREAM:  # container boxes, one or several of which have the codestream
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
    if start != _CODESTREAM or not bits:
        return None

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
