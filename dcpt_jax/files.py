"""Atomic file writes, checksums, `~` in paths given by users, and short names of paths."""

import contextlib
import errno
import json
import os
import re
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_HOME = re.compile(r"(?:^|(?<=[:,;\"]))(?:~[^/,:;\"]*|\$\w+|\$\{\w+\})(?=[/,;\"]|$)")


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which replaces it at the end unless an error occurs.

    Missing parent folders are created.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = path.parent / f".{uuid.uuid4().hex}.partial"
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        with contextlib.suppress(OSError):  # some network file systems have no modes
            temporary.chmod(mode)  # some libraries make files readable only by their owner
        os.replace(temporary, path)
    except OSError as error:
        # A full disk does not name the file; names `path`, not the temporary file.
        if error.errno and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Writes a file atomically, see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path | str, text: str) -> None:
    """Writes a UTF-8 file atomically; undecodable bytes of file names are escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path | str, content: Any, *, indent: int | None = 2) -> None:
    """Writes JSON atomically; ValueError for NaN and infinities, which JSON lacks."""
    write_text(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def make_folder(folder: Path) -> None:
    """Creates a folder with its parents, unless it exists; OSError if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # the system's text would be "File exists"
        raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder", str(folder)) from error


def check_writable(folder: Path) -> None:
    """Creates a folder if necessary; OSError if files cannot be written into it."""
    make_folder(folder)
    probe = folder / f".writable-{os.getpid()}"
    probe.touch()
    probe.unlink()


def crc32_of(path: Path) -> int:
    """CRC-32 of a file's content, read in blocks."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def crc32_of_json(content: Any) -> int:
    """CRC-32 of JSON values, independent of formatting."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def expand_home(text: str) -> str:
    """Expands `~`, `~user` and `$NAME` where a path begins: at the start, after one of :,;".

    >>> expand_home("pairs:~/rain,$HOME/clean")  # doctest: +SKIP
    'pairs:/home/me/rain,/home/me/clean'

    Raises:
        ValueError: for a user or variable that does not exist.
    """
    return _HOME.sub(_expanded, text)


def _expanded(match: re.Match[str]) -> str:
    start = match[0]
    expanded = os.path.expandvars(os.path.expanduser(start))
    is_folder = match.string[match.end() :].startswith("/")
    if expanded == start and is_folder and not os.path.lexists(start):
        kind = "user" if start.startswith("~") else "environment variable"
        raise ValueError(
            f"{start}/...: no such {kind}; for a folder with this name, write ./{start}"
        )
    return expanded


def short_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each path: the shortest end of its path that is unique."""
    parts = {path: path.absolute().parts for path in paths}

    def name(path: Path) -> str:
        for count in range(1, len(parts[path]) + 1):
            end = parts[path][-count:]
            if sum(names[-count:] == end for names in parts.values()) == 1:
                return "/".join(end)
        return str(path)  # two spellings of the same path

    return {path: name(path) for path in parts}
