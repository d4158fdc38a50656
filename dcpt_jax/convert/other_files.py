"""Says what a file is that holds no weights, and where the weights would be."""

import stat
from collections.abc import Iterable
from pathlib import Path

from dcpt_jax.convert.messages import listed

_UNPACK = "unpack it and give the file with the weights in it"
_BEGINNINGS = (
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file, as Keras and TensorFlow write it; give a file of PyTorch",
    ),
    (b"\x93NUMPY", "a single NumPy array (.npy); weights are a dict of many"),
    (b"GGUF", "a GGUF file, which holds language models"),
    (b"\x1f\x8b", f"a gzip archive; {_UNPACK}"),
    (b"\xfd7zXZ\x00", f"an xz archive; {_UNPACK}"),
    (b"7z\xbc\xaf'\x1c", f"a 7z archive; {_UNPACK}"),
    (b"Rar!", f"a RAR archive; {_UNPACK}"),
    (b"\x89PNG", "an image; `python -m dcpt_jax.restore` restores images"),
    (b"\xff\xd8\xff", "an image; `python -m dcpt_jax.restore` restores images"),
    (b"%PDF", "a PDF document"),
)
_PAGE = (
    "a web page, not weights: the address that was saved shows a page; download the file itself "
    "(Hugging Face: its `resolve` address, Google Drive: confirm the warning for large files)"
)
_POINTER = (
    "a Git LFS pointer, which stands for a file elsewhere; get that with `git lfs pull` in its "
    "repository, or download it from the repository's web page"
)
_TORCHSCRIPT = (
    "a TorchScript program, not weights; save those of it with PyTorch: "
    "torch.save(torch.jit.load(FILE, 'cpu').state_dict(), 'weights.pth')"
)


def refuse_other_files(path: Path) -> None:
    """Raises if a file is of a kind that is known and holds no weights; opens regular files only.

    Args:
        path: what should be read.

    Raises:
        OSError: if there is no such file, it is a folder, or it cannot be read.
        ValueError: saying what it is.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder; give a file{weights_files_in(path)}")
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{path} is a pipe or device, which cannot be read from several places; save what it "
            "gives as a file first"
        )
    with path.open("rb") as file:
        begin = file.read(512)
    kind = _kind(begin)
    if kind:
        raise ValueError(f"{path} is {kind}")


def weights_files_in(folder: Path) -> str:
    """Names of the files in a folder that may hold weights, for the end of a message."""
    suffixes = {".pth", ".pt", ".ckpt", ".bin", ".safetensors"}
    try:
        found = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in suffixes)
    except OSError:
        return ""
    return f"; files that may be weights there: {listed(found, 5)}" if found else ""


def _kind(begin: bytes) -> str:
    """What begins so, if it is known to be no weights."""
    if begin[4:9] == b"\0\0\0\0{":  # safetensors: the size of a header in front can be any bytes
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
    return ""


def kind_of_archive(names: Iterable[str]) -> str:
    """What a zip archive with these entries is, if it is none that `torch.save` wrote.

    Args:
        names: of the entries.

    Returns:
        "" for one that may hold weights.
    """
    names = list(names)
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        return _TORCHSCRIPT
    if any(name.count("/") == 1 and name.endswith("/data.pkl") for name in names):
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return (
            "a NumPy archive (.npz); with the names and shapes of PyTorch's weights, write it "
            "as safetensors: safetensors.numpy.save_file(dict(numpy.load(FILE)), 'w.safetensors')"
        )
    inside = [name for name in names if name.endswith((".pth", ".pt", ".ckpt", ".safetensors"))]
    if inside:
        return f"an archive; unpack it and give one of its files: {listed(inside, 5)}"
    return ""
