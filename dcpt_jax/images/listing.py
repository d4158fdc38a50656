"""Lists the image files below a folder: which files count, their order, and those left out.

The lists need little memory even for a million files: see `FileList`.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    | {".avif", ".heic", ".heif", ".hif", ".mpo", ".apng", ".jxl", ".pjpeg", ".pjp"}
)
_RAW_SUFFIXES = (
    ".3fr .arq .arw .bay .cap .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .kdc .mef .mos .mrw "
    ".nef .nrw .orf .pef .ptx .raf .raw .rw2 .rwl .rwz .sr2 .srf .srw .x3f"
)
_OTHER_SUFFIXES = (
    ".exr .hdr .jp2 .j2k .jpf .jpx .jxr .hdp .wdp .psd .psb .xcf .kra .ora .tga .ppm .pgm "
    ".pbm .pnm .pfm .pam .pcx .dds .ktx .qoi .ico .icns .svg .eps .dcm .fit .fits .fts .heics "
    ".avifs .flif .bpg .ras .sgi .xpm .xbm .emf .wmf .cin .dpx "
    ".dib .jls .jph .ljpg .jps .insp .avci .xisf "
    ".j2c .jpc .jpm .svgz .ai .indd .pdn .procreate .clip .pct .pict .iff .wbmp .djvu .rgbe .cur"
)
# Image formats that are not supported: such files are counted and reported.
UNREAD_SUFFIXES = frozenset(f"{_RAW_SUFFIXES} {_OTHER_SUFFIXES}".split())
# Folders for previews or deleted files, created by systems; in lower case.
SYSTEM_FOLDERS = frozenset(
    {"@eadir", ".@__thumb", "#recycle", "@recycle", "$recycle.bin", "system volume information"}
    | {"lost+found", "__macosx", ".trash", ".trashes", ".thumbnails", ".picasaoriginals"}
    | {
        "@sharesnap",
        "@recently-snapshot",
        "#snapshot",
        ".snapshot",
        "@tmp",
        "@sharebin",
        "recycler",
    }
    | {"found.000", "network trash folder", "temporary items", "ipod photo cache", ".dtrash"}
    | {".stversions", ".xvpics", ".appledouble"}
)

_logger = logging.getLogger(__name__)


class FileList(Sequence):
    """Paths stored in one string: about 40 bytes per file instead of 300 for `Path` objects.

    Attributes:
        root: folder that the names are relative to.
        inaccessible: (path, message) of files and folders that could not be accessed: broken or
            circular links, folders without permission.
        left_out: number of files of each suffix in `UNREAD_SUFFIXES` (".dng"), and of images in
            folders of each name in `SYSTEM_FOLDERS` ("@eaDir/").
    """

    def __init__(
        self,
        root: Path | str,
        names: Iterable[str],
        inaccessible: Sequence[tuple[Path, str]] = (),
        left_out: Mapping[str, int] | None = None,
    ):
        """A list of files below `root`."""
        self.root = Path(root)
        self.inaccessible = tuple(inaccessible)
        self.left_out = Counter(left_out or {})
        names = [os.fsencode(name) for name in names]
        self._text = b"\0".join(names)
        lengths = np.fromiter(map(len, names), np.int64, len(names))
        self._ends = np.cumsum(lengths + 1) - 1

    def __len__(self) -> int:
        """Number of files."""
        return len(self._ends)

    def __getitem__(self, index: int) -> Path:
        """The path of a file."""
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
        return FileList(self.root, [names[i] for i in indices], self.inaccessible, self.left_out)

    def __repr__(self) -> str:
        """Short representation."""
        return f"FileList({len(self)} files in {self.root})"


def concatenate(lists: Sequence[FileList]) -> FileList:
    """Concatenates lists."""
    if len(lists) == 1:
        return lists[0]
    names = [str(path) for files in lists for path in files]
    inaccessible = [entry for files in lists for entry in files.inaccessible]
    return FileList("", names, inaccessible, sum((files.left_out for files in lists), Counter()))


def list_images(root: Path | str, *, deep: bool = True) -> FileList:
    """Lists the image files below a folder, in the order of their names.

    Includes sub-folders (also linked ones, each once). Takes regular files with a suffix in
    `IMAGE_SUFFIXES`, in upper or lower case; ignores hidden files and folders (whose names start
    with a dot). Names are compared as strings, part by part: "10.png" comes before "9.png". A
    million files take 3 to 7 s.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"no such folder: {root}")
    if not root.is_dir():
        raise NotADirectoryError(f"not a folder: {root}")
    names: list[str] = []
    inaccessible: list[tuple[Path, str]] = []
    left_out: Counter[str] = Counter()
    visited: set[tuple[int, int]] = set()
    # Stack of files and folders; names of folders end with a slash.
    waiting = [""]
    while waiting:
        name = waiting.pop()
        if name and not name.endswith("/"):
            names.append(name)
            continue
        try:
            status = os.stat(root / name)
            if (status.st_dev, status.st_ino) in visited:  # a link to a parent is a cycle
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(root / name) as entries:
                entries = sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            if not name:
                raise
            path = root / name
            inaccessible.append((path, f"{path}: cannot be listed ({error.strerror})"))
            continue
        children = []
        for entry in entries:
            try:
                if key := _left_out(entry):
                    left_out[key] += _images_in(entry.path) if key.endswith("/") else 1
                else:
                    children.append(_image_or_folder(entry))
            except OSError as error:
                path = root / name / entry.name
                inaccessible.append((path, f"{path}: cannot be accessed ({error.strerror})"))
        waiting += [name + entry for entry in children if entry and (deep or entry[-1] != "/")]
    return FileList(root, names, inaccessible, +left_out)


def images_in(root: Path | str, *, given_by: str = "") -> FileList:
    """`list_images` of a folder that must hold images.

    Args:
        root: the folder.
        given_by: the flag that names it, for messages.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it; names what is left out.
    """
    hint = f", given by {given_by}" if given_by else ""
    try:
        files = list_images(root)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{error}{hint}") from error
    require_images(files, f"the folder {root}{hint}")
    return files


def require_images(files: FileList, folder: str) -> None:
    """Raises FileNotFoundError if no images of `folder` are listed; names what is left out."""
    if not files:
        reasons = [reason for _, reason in files.inaccessible[:1]] + left_out_texts(files.left_out)
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise FileNotFoundError("; ".join([f"no images in {folder} (known: {known})", *reasons]))


def find_images(path: Path | str) -> tuple[list[Path], Counter[str]]:
    """The image files of a path: the file itself, whatever its suffix, or those in a folder.

    Logs a warning for files and folders that cannot be accessed.

    Returns:
        The files, and those left out of the folder: see `FileList.left_out`.

    Raises:
        FileNotFoundError: if there is no such file or folder, or no image in the folder.
    """
    path = Path(path)
    if path.is_file():
        return [path], Counter()
    if not path.exists():
        raise FileNotFoundError("no such file or folder")
    if not path.is_dir():
        raise FileNotFoundError("a pipe, socket or device, not an image file or folder")
    files = list_images(path)
    for _, message in files.inaccessible:
        _logger.warning("skipped: %s", message)
    require_images(files, "this folder")
    return list(files), files.left_out


def left_out_texts(left_out: Mapping[str, int]) -> list[str]:
    """Describes `FileList.left_out` as texts such as "5 files not read: .dng"."""
    unread = {name: count for name, count in left_out.items() if not name.endswith("/")}
    system = {name: count for name, count in left_out.items() if name.endswith("/")}
    texts = []
    for counts, noun, verb in ((unread, "file", "not read:"), (system, "image", "skipped in")):
        if not counts:
            continue
        total = sum(counts.values())
        names = [
            name if len(counts) == 1 else f"{name} ({count})"
            for name, count in sorted(counts.items())
        ]
        texts.append(f"{total} {noun}{'s'[: total != 1]} {verb} {', '.join(names)}")
    return texts


def _left_out(entry: os.DirEntry) -> str:
    """The key under which `FileList.left_out` counts a file or folder; "" if not counted."""
    name = entry.name.lower()
    is_system = name in SYSTEM_FOLDERS or name.startswith(".trash-") or name.endswith(".lrdata")
    if is_system and entry.is_dir():
        return f"{entry.name}/"
    suffix = os.path.splitext(entry.name)[1].lower()
    is_unread = suffix in UNREAD_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    return suffix if is_unread else ""


def _images_in(folder: str) -> int:
    return sum(
        os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
        for _, _, names in os.walk(folder)
        for name in names
    )


def _image_or_folder(entry: os.DirEntry) -> str | None:
    """Name of an image file, or of a folder followed by "/"; None for anything else."""
    if entry.name.startswith("."):
        return None
    if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
        if entry.is_file():
            return entry.name
        if entry.is_symlink():
            entry.stat()  # a broken link raises, so that the image is reported as missing
    return f"{entry.name}/" if entry.is_dir() else None
