"""Reads PyTorch's `.pth` files without PyTorch and without running anything in them.

A `.pth` file is a pickle, and a pickle can call any function. Here it can name tensors and plain
data only; every other name is refused. Both layouts are read: the zip archive of PyTorch 1.6 and
later, and the stream of pickles before that.
"""

import copy
import io
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dcpt_jax.convert.messages import printable
from dcpt_jax.convert.other_files import kind_of_archive
from dcpt_jax.convert.pth_pickle import (
    MAX_BYTES,
    STORAGE_DTYPES,
    Name,
    PthError,
    Storage,
    unpickle,
)

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_DIRECTORY = 4 * 2**20  # bytes of a zip archive's directory; about 100 for each tensor
_SLACK = 64 * 2**20


def read_pth(path: Path | str) -> Any:
    """Reads a `.pth` file.

    Tensors become NumPy arrays of their own shape and dtype (bfloat16 as `ml_dtypes.bfloat16`), in
    C order and independent of each other, whatever views of common storage they were. Parameters
    become plain arrays. Of what stands beside the weights in training states, counters and
    defaultdicts become dicts, sets lists, sizes tuples, devices texts and dtypes inert names.

    Args:
        path: the file.

    Returns:
        The pickled object: nested dicts, lists, tuples, numbers, strings and arrays.

    Raises:
        FileNotFoundError: if there is no such file.
        PthError: if the file is damaged, names anything but tensors and plain data, or would take
            more than four times its size (and some hundred MiB) of memory.
    """
    path = Path(path)
    try:
        with _File(path) as file:
            if zipfile.is_zipfile(file):
                return _read_zip(file, _Budget(path))
            file.seek(0)
            return _read_legacy(file, _Budget(path))
    except PthError as error:
        raise PthError(f"{path}: {error}") from error.__cause__
    except OSError:
        raise
    except MemoryError as error:
        raise PthError(f"{path}: it asks for more memory than there is") from error
    except Exception as error:  # the standard modules raise many kinds for damaged data
        reason = printable(str(error) or type(error).__name__)
        raise PthError(f"{path}: damaged, or no PyTorch checkpoint ({reason})") from error


class _File(io.BufferedReader):
    """A file that can refuse to be read in large pieces."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self.largest = math.inf

    def read(self, size: int | None = -1) -> bytes:
        if (size or 0) > self.largest:
            raise PthError("refused: a directory larger than any network needs")
        return super().read(size)


class _Budget:
    """How many bytes may still be taken for a file."""

    def __init__(self, path: Path):
        self._left = 4 * path.stat().st_size + _SLACK

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise PthError("refused: its tensors are far larger than the file")


class _Storages:
    """The storages of a file by key; each is made at its first mention."""

    def __init__(self, make: Callable[[str, np.dtype, int], np.ndarray], budget: _Budget):
        self._make, self._budget = make, budget
        self._made: dict[str, Storage] = {}

    def __getitem__(self, key: str) -> np.ndarray:
        if type(key) is not str:
            raise PthError("damaged: the key of a storage is no text")
        return self._made[key].array

    def __call__(self, identity: Any) -> Storage:
        """The storage of a persistent id: ("storage", type, key, device, number of elements)."""
        # The types come first: a text of nested lists could take for ever.
        if type(identity) is not tuple or not 5 <= len(identity) <= 6:
            raise PthError("damaged: it refers to something that is no storage")
        word, kind, key, _, count = identity[:5]
        name = kind.removeprefix("torch.") if type(kind) is Name else ""
        if (
            name not in STORAGE_DTYPES
            or (type(word), type(key), type(count)) != (str, str, int)
            or word != "storage"
            or not (key.isascii() and key.isdigit() and len(key) < 20)
            or not 0 <= count < 2**63
        ):
            raise PthError("damaged: it refers to something that is no storage")
        if len(identity) == 6 and identity[5] is not None:
            raise PthError("refused: a storage that is a part of another, which PyTorch gave up")
        dtype = np.dtype(STORAGE_DTYPES[name])
        if key not in self._made:
            self._budget.take(count * dtype.itemsize)
            self._made[key] = Storage(self._make(key, dtype, count))
        if self._made[key].array.dtype != dtype:
            raise PthError(f"refused: storage {key} in two kinds of numbers")
        return self._made[key]


def _read_zip(file: _File, budget: _Budget) -> Any:
    file.largest = _MAX_DIRECTORY
    with zipfile.ZipFile(file) as archive:
        file.largest = math.inf
        entries = {entry.filename: entry for entry in archive.infolist()}
        if kind := kind_of_archive(entries):
            raise PthError(kind)
        roots = [name for name in entries if name.endswith("data.pkl") and name.count("/") == 1]
        if len(roots) != 1:
            raise PthError("a zip archive, but no PyTorch checkpoint: it holds no data.pkl")
        root = roots[0].removesuffix("data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise PthError("refused: compressed entries, which PyTorch never writes")

        def read(name: str, limit: int) -> bytes:
            if name not in entries:
                raise PthError(f"damaged: {printable(name)} is missing")
            if entries[name].file_size > limit:
                raise PthError(f"refused: {printable(name)} is larger than expected")
            return archive.read(name)

        if root + "byteorder" in entries and read(root + "byteorder", 16) != b"little":
            raise PthError("refused: written on a big-endian machine")

        def make(key: str, dtype: np.dtype, count: int) -> np.ndarray:
            data = read(f"{root}data/{key}", count * dtype.itemsize)
            return np.frombuffer(data, dtype, count)

        pickled = io.BytesIO(read(roots[0], MAX_BYTES))
        return unpickle(pickled, _Storages(make, budget), budget.take)


def _read_legacy(file: BinaryIO, budget: _Budget) -> Any:
    def refuse(_: Any) -> Storage:
        raise PthError("damaged: a storage where none belongs")

    def plain() -> Any:
        return unpickle(file, refuse, budget.take)

    if plain() != _LEGACY_MAGIC:
        raise PthError("not a PyTorch checkpoint: neither a zip archive nor the older layout")
    if plain() != _LEGACY_PROTOCOL:
        raise PthError("refused: an unknown version of the older layout")
    system = plain()
    if type(system) is not dict or not system.get("little_endian", True):
        raise PthError("refused: written on a big-endian machine")

    # The data stand behind the pickle: it is read once for the storages, which are filled then,
    # and once more for the tensors.
    storages = _Storages(lambda key, dtype, count: np.zeros(count, dtype), budget)
    begin = file.tell()
    unpickle(file, storages, copy.copy(budget).take)
    for key in plain():
        storage = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        data = file.read(storage.nbytes)
        if count != storage.size or len(data) != storage.nbytes:
            raise PthError("damaged: cut off, or a storage of another size than announced")
        storage[:] = np.frombuffer(data, storage.dtype)
    file.seek(begin)
    return unpickle(file, storages, budget.take)
