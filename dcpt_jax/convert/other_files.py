"""Recognises files of other formats, and explains how to get the weights."""

import re
import stat
from collections.abc import Iterable
from pathlib import Path

from dcpt_jax.convert.messages import listed, printable
from dcpt_jax.weights import DESCRIPTION, FILE_SUFFIXES, weights_files_in

_UNPACK = "unpack it and give the weights file in it"
_BEGINNINGS = (
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file, as Keras and TensorFlow write it; give a file of PyTorch",
    ),
    (b"\x93NUMPY", "a single NumPy array (.npy); weights are a dict of many"),
    (b"GGUF", "a GGUF file, a format of language models"),
    (b"\x1f\x8b", f"a gzip archive; {_UNPACK}"),
    (b"\xfd7zXZ\x00", f"an xz archive; {_UNPACK}"),
    (b"7z\xbc\xaf'\x1c", f"a 7z archive; {_UNPACK}"),
    (b"Rar!", f"a RAR archive; {_UNPACK}"),
    (b"\x89PNG", "an image; `python -m dcpt_jax.restore` restores images"),
    (b"\xff\xd8\xff", "an image; `python -m dcpt_jax.restore` restores images"),
    (b"RIFF", "an image, sound or film"),
    (b"GIF8", "an image; `python -m dcpt_jax.restore` restores images"),
    (b"II*\0", "an image; `python -m dcpt_jax.restore` restores images"),
    (b"BM", "an image; `python -m dcpt_jax.restore` restores images"),
    (b"\x04\x22M\x18", f"an LZ4 archive; {_UNPACK}"),
    (b"\0\5\x16\7", "attributes that macOS keeps of a file; give the one of its name without `._`"),
    (b"BZh", f"a bzip2 archive; {_UNPACK}"),
    (b"(\xb5/\xfd", f"a Zstandard archive; {_UNPACK}"),
    (b"\x7fELF", "a program of Linux"),
    (b"SQLite format 3", "a database of SQLite"),
    (b"%PDF", "a PDF document"),
)
_PAGE = (
    "a web page, not weights: the address that was saved shows a page; download the file itself "
    "(Hugging Face: its `resolve` address, Google Drive: confirm the warning for large files)"
)
_POINTER = (
    "a Git LFS pointer, not the file itself; get that with `git lfs pull` in its "
    "repository, or download it from the repository's web page"
)
_TENSORFLOW = "a part of a TensorFlow checkpoint or program; give a file of PyTorch"
_OF_TENSORFLOW = re.compile(r"\.(index|meta|pb|data-\d+-of-\d+)$")
_TORCHSCRIPT = (
    "a TorchScript program, not weights; save those of it with PyTorch: "
    "torch.save(torch.jit.load(FILE, 'cpu').state_dict(), 'weights.pth')"
)


def refuse_other_files(path: Path) -> None:
    """Raises an error if a file has a known format without weights; opens regular files only.

    Raises:
        OSError: if there is no such file, it is a folder, or it cannot be read.
        ValueError: if it has another format, which the message names.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder; give a file{weights_files_in(path)}")
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{path} is a pipe or device, which cannot be read at random positions; save its "
            "content to a file first"
        )
    if path.suffix.lower() not in FILE_SUFFIXES and (path.parent / DESCRIPTION).is_file():
        raise ValueError(f"{path} is a part of the weights folder {path.parent}; give the folder")
    with path.open("rb") as file:
        begin = file.read(512)
    kind = _kind(begin)
    if _OF_TENSORFLOW.search(path.name) or begin.startswith(b"model_checkpoint_path:"):
        kind = _TENSORFLOW
    if kind:
        raise ValueError(f"{path} is {kind}")


def _kind(begin: bytes) -> str:
    """The format of a file that begins like this, if known and without weights; else ""."""
    if begin[4:9] == b"\0\0\0\0{":  # safetensors; the first bytes are the size of its header
        return ""
    if not begin:
        return "empty (0 bytes): the download or copy failed; get it again"
    for start, kind in _BEGINNINGS:
        if begin.startswith(start):
            return kind
    if begin[257:262] == b"ustar":
        return f"a tar archive; {_UNPACK}"
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return _PAGE
    if text.startswith(b"version https://git-lfs"):
        return _POINTER
    if text.startswith(b"{") and b'"' in text:
        return "a JSON text, such as an index or a server's answer; the weights are in other files"
    if begin[4:8] in (b"ftyp", b"TFL3"):
        return "a film or image" if begin[4:8] == b"ftyp" else "a TensorFlow Lite model"
    if begin[:1] == b"\x08" and (b"pytorch" in begin or b"onnx" in begin):
        return "an ONNX program, not weights; save the state_dict of what it came from"
    if not begin.strip(b"\0"):
        return "zeros from its beginning on: the download or copy failed; get it again"
    if begin.startswith((b"\xff\xfe", b"\xfe\xff")) or _is_text(begin):
        shown = printable(" ".join(begin[:60].decode("utf-8", "replace").split()), 40)
        return f"a text, not weights; it begins {shown!r}"
    return ""


def _is_text(begin: bytes) -> bool:
    """Whether the beginning of a file is UTF-8 text, and not a pickle that looks like text."""
    if begin[:2] in (b"(d", b"(l", b"(i", b"cc"):
        return False
    try:
        begin.decode()
    except UnicodeDecodeError as error:
        if error.start < 508:  # else a character that these bytes cut
            return False
    return not set(begin) & {*range(9), 11, *range(14, 32), 127}


def kind_of_archive(names: Iterable[str]) -> str:
    """Describes a zip archive that `torch.save` did not write.

    Args:
        names: names of its entries.

    Returns:
        The description; "" for an archive that may hold weights.
    """
    names = list(names)
    if any(name.endswith(("/archive_format", "models/model.json")) for name in names):
        return "a program that torch.export wrote; save the state_dict of what it came from"
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        return _TORCHSCRIPT
    if any(name.count("/") == 1 and name.endswith("/data.pkl") for name in names):
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return (
            "a NumPy archive (.npz); with the names and shapes of PyTorch's weights, write it "
            "as safetensors: safetensors.numpy.save_file(dict(numpy.load(FILE)), 'w.safetensors')"
        )
    if any(name.rpartition("/")[2] == DESCRIPTION for name in names):
        return "an archive of a weights folder; unpack it and give the folder"
    inside = [name for name in names if name.endswith(FILE_SUFFIXES)]
    if inside:
        return f"an archive; unpack it and give one of its files: {listed(inside, 5)}"
    return ""
