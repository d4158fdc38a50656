"""Reads PyTorch's `.pth` files without PyTorch and without running anything in them.

A `.pth` file is a pickle, and a pickle can call any function. Here it can name tensors and plain
containers only; every other name is refused before it is looked up. Both layouts are read: the zip
archive of PyTorch 1.6 and later, and the stream of pickles before that.
"""

import collections
import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

STORAGE_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_PICKLE = 64 * 2**20  # bytes of structure; a state dict of thousands of names takes under one
_SLACK = 64 * 2**20


class PthError(ValueError):
    """A file that is no PyTorch checkpoint, is damaged, or holds more than tensors."""


def read_pth(path: Path | str) -> Any:
    """Reads a `.pth` file.

    Tensors become NumPy arrays of their own shape and dtype (bfloat16 as `ml_dtypes.bfloat16`), in
    C order and independent of each other, whatever views of common storage they were. Parameters
    become plain arrays.

    Args:
        path: the file.

    Returns:
        The pickled object: nested dicts, lists, tuples, numbers, strings and arrays.

    Raises:
        FileNotFoundError: if there is no such file.
        PthError: if the file is damaged, names anything but tensors and plain containers, or would
            take more than four times its size (and 64 MiB) of memory.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
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
        raise PthError(f"{path}: damaged, or no PyTorch checkpoint ({error})") from error


class _Budget:
    """How many bytes may still be taken for a file."""

    def __init__(self, path: Path):
        self._left = 4 * path.stat().st_size + _SLACK

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise PthError("refused: its tensors are far larger than the file")


class _Tensor:
    """Stands in for PyTorch's rebuild function; without attributes, so a pickle can change none."""

    __slots__ = ("_budget",)

    def __init__(self, budget: _Budget):
        self._budget = budget

    def __call__(self, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> np.ndarray:
        if not isinstance(storage, np.ndarray):
            raise PthError("damaged: a tensor without storage")
        size, stride = tuple(map(int, size)), tuple(map(int, stride))
        count = math.prod(size)
        if len(size) != len(stride) or min((*size, *stride, offset)) < 0:
            raise PthError(f"damaged: tensor of shape {size}, stride {stride}, offset {offset}")
        steps = ((n - 1) * step for n, step in zip(size, stride, strict=True))
        if count and offset + sum(steps) >= storage.size:
            raise PthError(f"damaged: a tensor of shape {size} reaches past its storage")
        self._budget.take(count * storage.itemsize)
        if not count:
            return np.zeros(size, storage.dtype)
        byte_strides = [step * storage.itemsize for step in stride]
        view = np.lib.stride_tricks.as_strided(storage[offset:], size, byte_strides)
        return view.copy()


class _Parameter:
    """A parameter is its data."""

    __slots__ = ()

    def __call__(self, data: Any, *_: Any) -> Any:
        return data


class _NoTensor:
    """Builds nothing, where a pickle is read only for what it refers to."""

    __slots__ = ()

    def __call__(self, *_: Any) -> None:
        return None


class _Unpickler(pickle.Unpickler):
    """Knows tensors and plain containers, nothing else."""

    def __init__(
        self, file: BinaryIO, build: Callable[..., Any], load: Callable[[Any], np.ndarray]
    ):
        super().__init__(file, encoding="utf-8")
        self._load = load
        self._names = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor"): build,
            ("torch._utils", "_rebuild_tensor_v2"): build,
            ("torch._utils", "_rebuild_parameter"): _Parameter(),
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._names:
            return self._names[module, name]
        if module == "torch" and name in STORAGE_DTYPES:
            return np.dtype(STORAGE_DTYPES[name])
        raise PthError(f"refused: it names {module}.{name}, which is no tensor or plain container")

    def persistent_load(self, identity: Any) -> np.ndarray:
        return self._load(identity)


def _unpickle(file: BinaryIO, build: Callable[..., Any], load: Callable[[Any], np.ndarray]) -> Any:
    """The next object in a stream of pickles."""
    begin = file.tell()
    _check_memory(file)
    file.seek(begin)
    return _Unpickler(file, build, load).load()


def _check_memory(file: BinaryIO) -> None:
    """Raises PthError for a pickle at which Python's unpickler takes memory without measure.

    It makes room for all numbers up to the highest under which an object is remembered, however
    few there are, and for byte arrays before it knows whether there are so many bytes.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
            raise PthError(f"refused: object {argument:,} after {count:,} instructions")
        if opcode.name == "BYTEARRAY8":
            raise PthError("refused: a byte array, which is no tensor or plain container")


def _storage_identity(identity: Any) -> tuple[np.dtype, str, int]:
    """(dtype, key, number of elements) of a storage's persistent id."""
    if (
        not isinstance(identity, tuple)
        or len(identity) < 5
        or identity[0] != "storage"
        or not isinstance(identity[1], np.dtype)
        or not str(identity[2]).isdigit()
    ):
        raise PthError("damaged: it refers to something that is no storage")
    return identity[1], str(identity[2]), int(identity[4])


def _read_zip(file: BinaryIO, budget: _Budget) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        roots = [name for name in entries if name.endswith("data.pkl") and name.count("/") == 1]
        if len(roots) != 1:
            raise PthError("a zip archive, but no PyTorch checkpoint: it holds no data.pkl")
        root = roots[0].removesuffix("data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise PthError("refused: compressed entries, which PyTorch never writes")

        def read(name: str, limit: int) -> bytes:
            if name not in entries:
                raise PthError(f"damaged: {name} is missing")
            if entries[name].file_size > limit:
                raise PthError(f"refused: {name} is larger than expected")
            return archive.read(name)

        if root + "byteorder" in entries and read(root + "byteorder", 16) != b"little":
            raise PthError("refused: written on a big-endian machine")
        storages: dict[str, np.ndarray] = {}

        def load(identity: Any) -> np.ndarray:
            dtype, key, count = _storage_identity(identity)
            if key not in storages:
                budget.take(count * dtype.itemsize)
                data = read(f"{root}data/{key}", count * dtype.itemsize)
                storages[key] = np.frombuffer(data, dtype, count)
            return storages[key]

        pickled = io.BytesIO(read(roots[0], _MAX_PICKLE))
        return _unpickle(pickled, _Tensor(budget), load)


def _read_legacy(file: BinaryIO, budget: _Budget) -> Any:
    def refuse(identity: Any) -> np.ndarray:
        raise PthError("damaged: a storage where none belongs")

    nothing = _NoTensor()
    if _unpickle(file, nothing, refuse) != _LEGACY_MAGIC:
        raise PthError("no PyTorch checkpoint: neither a zip archive nor the older layout")
    if _unpickle(file, nothing, refuse) != _LEGACY_PROTOCOL:
        raise PthError("refused: an unknown version of the older layout")
    system = _unpickle(file, nothing, refuse)
    if not system.get("little_endian", True):
        raise PthError("refused: written on a big-endian machine")
    storages: dict[str, np.ndarray] = {}

    def load(identity: Any) -> np.ndarray:
        # The data stand behind the pickle: it is read once for the storages, which are filled
        # then, and once more for the tensors.
        dtype, key, count = _storage_identity(identity)
        if key not in storages:
            budget.take(count * dtype.itemsize)
            storages[key] = np.zeros(count, dtype)
        return storages[key]

    begin = file.tell()
    _unpickle(file, nothing, load)
    for key in _unpickle(file, nothing, refuse):
        storage = storages[str(key)]
        (count,) = struct.unpack("<q", file.read(8))
        data = file.read(storage.nbytes)
        if count != storage.size or len(data) != storage.nbytes:
            raise PthError("damaged: cut off, or a storage of another size than announced")
        storage[:] = np.frombuffer(data, storage.dtype)
    file.seek(begin)
    return _unpickle(file, _Tensor(budget), load)
