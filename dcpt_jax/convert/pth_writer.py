"""Writes state dicts as `.pth` files without PyTorch.

The format is that of `torch.save({"params": OrderedDict(...)}, path)`: an uncompressed zip archive
of a pickle with the names and shapes, and one entry of raw bytes per tensor. PyTorch can load it
with weights_only=True and with mmap=True.
"""

import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dcpt_jax.convert.pth_names import STORAGE_DTYPES

_ROOT = "archive"
_ALIGNMENT = 64  # bytes; PyTorch maps storages into memory and computes on them in place
_LOCAL_HEADER = 30  # bytes in front of an entry's name
_STORAGES = {
    np.dtype(dtype).newbyteorder("<"): storage for storage, dtype in STORAGE_DTYPES.items()
}


def write_pth(path: Path | str, state: Mapping[str, np.ndarray]) -> None:
    """Writes a `.pth` file that holds `{"params": OrderedDict(state)}`.

    Args:
        path: file to write, replaced if it exists; not atomic, see `files.replacing`.
        state: name -> array of a dtype that `read_pth` reads; each tensor gets its own storage.

    Raises:
        OSError: if the file cannot be written.
        ValueError: if an array has another dtype.
    """
    arrays = {name: _little_endian(np.asarray(array)) for name, array in state.items()}
    wrong = [f"{name} ({a.dtype})" for name, a in arrays.items() if a.dtype not in _STORAGES]
    if wrong:
        raise ValueError(f"PyTorch's files cannot hold these dtypes: {', '.join(wrong[:5])}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        # PyTorch takes the archive's name from its first entry.
        _add(archive, "data.pkl", _pickled(arrays))
        _add(archive, "byteorder", b"little")
        for key, array in enumerate(arrays.values()):
            _add(archive, f"data/{key}", array.tobytes())
        _add(archive, "version", b"3\n")


def _little_endian(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Adds an entry whose data are aligned, by padding its header."""
    entry = zipfile.ZipInfo(f"{_ROOT}/{name}")  # no date: equal weights give equal files
    begin = archive.fp.tell() + _LOCAL_HEADER + len(entry.filename) + 4
    padding = -begin % _ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(entry, data)


def _pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The pickle; assembled by hand, since Python's pickler would import every name."""
    items = (_text(name) + _tensor(key, array) for key, (name, array) in enumerate(arrays.items()))
    params = _empty_ordered_dict() + pickle.MARK + b"".join(items) + pickle.SETITEMS
    content = pickle.EMPTY_DICT + _text("params") + params + pickle.SETITEM
    return pickle.PROTO + b"\x02" + content + pickle.STOP


def _tensor(key: int, array: np.ndarray) -> bytes:
    """The call of `torch._utils._rebuild_tensor_v2`, as in PyTorch's own files."""
    storage = _tuple(
        _text("storage"),
        _name("torch", _STORAGES[array.dtype]),
        _text(str(key)),
        _text("cpu"),
        _integer(array.size),
    )
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    arguments = _tuple(
        storage + pickle.BINPERSID,
        _integer(0),  # offset
        _tuple(*map(_integer, array.shape)),
        _tuple(*map(_integer, strides)),
        pickle.NEWFALSE,  # requires_grad
        _empty_ordered_dict(),  # hooks
    )
    return _name("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _empty_ordered_dict() -> bytes:
    return _name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    if number < 2**31:
        return pickle.BININT + struct.pack("<i", number)
    return pickle.LONG1 + b"\x08" + struct.pack("<q", number)
