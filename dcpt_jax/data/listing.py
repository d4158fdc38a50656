"""Lists of image files that stay small in memory and start fast, with a million files too.

A list of many files is kept beside the user's other caches (`$XDG_CACHE_HOME/dcpt_jax/listings`, or
`~/.cache/...`) together with the modification times of all folders it was made from. It is used
again as long as none of these has changed: a file that is added, removed or renamed changes its
folder's time. Where nothing can be written there, folders are listed anew each time, and so are
those in which something could not be looked at.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from dcpt_jax import images

_KEPT_FROM = 20_000  # files; shorter lists are made faster than they are worth keeping
# A folder changed this shortly before it was listed may change again without a new time.
_SETTLED_NANOSECONDS = 2_000_000_000
_FORMAT = 3

_logger = logging.getLogger(__name__)


class FileList(Sequence):
    """Paths as one text: some 40 bytes a file, where a list of `Path` objects takes 300.

    Attributes:
        root: folder that the names are relative to.
        passed_by: (path, message) of what could not be looked at when the folder was listed.
        left_out: how many files were left out, see `images.Scan`.
    """

    def __init__(
        self,
        root: Path | str,
        names: Iterable[str],
        passed_by: Sequence[tuple[Path, str]] = (),
        left_out: Mapping[str, int] | None = None,
    ):
        """A list of files below `root`.

        Args:
            root: a folder.
            names: of the files, relative to it (or absolute), in the order of the list.
            passed_by: see above.
            left_out: see above.
        """
        self.root = Path(root)
        self.passed_by = tuple(passed_by)
        self.left_out = Counter(left_out or {})
        names = [os.fsencode(name) for name in names]
        self._text = b"\0".join(names)
        lengths = np.fromiter(map(len, names), np.int64, len(names))
        self._ends = np.cumsum(lengths + 1) - 1

    @classmethod
    def _of_text(cls, root: Path | str, text: bytes, ends: np.ndarray) -> "FileList":
        found = cls(root, ())
        found._text, found._ends = text, ends
        return found

    def __len__(self) -> int:
        """Number of files."""
        return len(self._ends)

    def __getitem__(self, index: int) -> Path:
        """The path of a file.

        Raises:
            IndexError: if the index is out of range.
        """
        return self.root / self.name(index)

    def name(self, index: int) -> str:
        """Path of a file relative to the root."""
        count = len(self._ends)
        if not -count <= index < count:
            raise IndexError(f"file {index} of {count}")
        index %= count
        start = self._ends[index - 1] + 1 if index else 0
        return os.fsdecode(self._text[start : self._ends[index]])

    def names(self) -> list[str]:
        """Paths of all files relative to the root."""
        return os.fsdecode(self._text).split("\0") if len(self) else []

    def __iter__(self) -> Iterator[Path]:
        """The paths in order."""
        return (self.root / name for name in self.names())

    def take(self, indices: Sequence[int]) -> "FileList":
        """The files with these indices, in this order."""
        names = self.names()
        return FileList(self.root, [names[i] for i in indices], self.passed_by, self.left_out)

    def __repr__(self) -> str:
        """Short."""
        return f"FileList({len(self)} files in {self.root})"


def list_files(root: Path | str, *, deep: bool = True) -> FileList:
    """The image files below a folder: those of `images.list_images`, in the same order.

    Args:
        root: the folder.
        deep: whether files in sub-folders are wanted too.

    Raises:
        FileNotFoundError: if there is no such folder.
        NotADirectoryError: if `root` is a file.
    """
    if not deep:
        found = list_files(root)
        passed_by = [entry for entry in found.passed_by if entry[0].parent == found.root]
        names = [name for name in found.names() if "/" not in name]
        return FileList(root, names, passed_by, images.scan_images(root, deep=False).left_out)
    index = _index_path(root)
    if index is not None and (found := _kept(index, root)) is not None:
        return found
    started = time.time_ns()
    scan = images.scan_images(root)
    paths = ((Path(root, name), reason) for name, reason in scan.passed_by)
    passed_by = [(path, f"{path}: {reason}") for path, reason in paths]
    found = FileList(root, scan.names, passed_by, scan.left_out)
    settled = max(scan.times.values()) + _SETTLED_NANOSECONDS < started
    if index is not None and settled and len(found) >= _KEPT_FROM and not found.passed_by:
        _keep(index, found, scan.times)
    return found


def joined(lists: Sequence[FileList]) -> FileList:
    """Several lists as one."""
    if len(lists) == 1:
        return lists[0]
    names = [str(path) for files in lists for path in files]
    passed_by = [entry for files in lists for entry in files.passed_by]
    return FileList("", names, passed_by, sum((files.left_out for files in lists), Counter()))


def _index_path(root: Path | str) -> Path | None:
    """Where the list of a folder is kept; None where a user has no folder of their own."""
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
    return Path(cache, "dcpt_jax", "listings", f"{name}.npz")


def _kept(index: Path, root: Path | str) -> FileList | None:
    """The list kept in a file, if it is whole and all its folders are as they were."""
    try:
        with np.load(index, allow_pickle=False) as content:
            if content["format"] != _FORMAT or content["suffixes"] != _suffixes():
                return None
            folders = FileList._of_text(
                root, content["folders"].tobytes(), content["folder_ends"]
            ).names()
            for name, expected in zip(folders, content["folder_times"].tolist(), strict=True):
                if os.stat(os.path.join(root, name)).st_mtime_ns != expected:
                    return None
            found = FileList._of_text(root, content["files"].tobytes(), content["file_ends"])
            found.left_out = Counter(json.loads(str(content["left_out"])))
            return found
    except FileNotFoundError:
        return None
    except Exception as error:  # np.load raises many kinds on broken files
        _logger.debug("the kept list %s is not used: %s", index, error)
        return None


def _keep(index: Path, found: FileList, folders: dict[str, int]) -> None:
    names = FileList(found.root, folders)
    temporary = index.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(
                file,
                format=np.array(_FORMAT),
                suffixes=np.array(_suffixes()),
                left_out=np.array(json.dumps(found.left_out)),
                folders=np.frombuffer(names._text, np.uint8),
                folder_ends=names._ends,
                folder_times=np.array(list(folders.values()), np.int64),
                files=np.frombuffer(found._text, np.uint8),
                file_ends=found._ends,
            )
        os.replace(temporary, index)
    except OSError as error:
        _logger.debug("the list of %s cannot be kept: %s", found.root, error)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _suffixes() -> str:
    known = images.IMAGE_SUFFIXES | images.UNREAD_SUFFIXES | images.SYSTEM_FOLDERS
    return " ".join(sorted(known))
