"""Reads PyTorch's `.pth` files without PyTorch and without executing code in them.

A `.pth` file is a pickle, and a pickle can call any function. Here only tensors and plain data are
allowed: the few functions in `_FUNCTIONS` are replaced by safe ones, and any other name gives an
`Inert` object or is refused. Both formats are read: the zip archive of PyTorch 1.6 and later, and
the older stream of pickles.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import io
import math
import pickle
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dcpt_jax.convert.messages import printable
from dcpt_jax.convert.other_files import kind_of_archive
from dcpt_jax.convert.pth_names import INERT, OTHER_TENSORS, STORAGE_DTYPES, WORDS

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_DIRECTORY = 4 * 2**20  # bytes of a zip archive's directory; about 100 per tensor
_SLACK = 64 * 2**20  # bytes that any file may take


def read_pth(path: Path | str) -> Any:
    """Reads a `.pth` file.

    Tensors become NumPy arrays with their shape and dtype (bfloat16 as `ml_dtypes.bfloat16`), in C
    order; tensors that share a storage become independent copies. Parameters become plain arrays.
    Among other objects, counters and defaultdicts become dicts, sets become lists, sizes tuples,
    devices texts, and dtypes inert names.

    Returns:
        The pickled object: nested dicts, lists, tuples, numbers, strings and arrays.

    Raises:
        FileNotFoundError: if there is no such file.
        PthError: if the file is damaged, refers to anything but tensors and plain data, or needs
            more memory than four times its size (plus 64 MiB).
    """
    path = Path(path)
    try:
        with _File(path) as file:
            if zipfile.is_zipfile(file):
                return _read_zip(file, _Budget(path))
            file.seek(0)
            if file.peek(4).startswith(b"PK"):
                raise PthError("a zip archive without its end: the download or copy is truncated")
            return _read_legacy(file, _Budget(path))
    except PthError as error:
        raise PthError(f"{path}: {error}") from error.__cause__
    except OSError:
        raise
    except MemoryError as error:
        raise PthError(f"{path}: it asks for more memory than there is") from error
    except Exception as error:  # damaged data raise many types
        reason = printable(str(error) or type(error).__name__)
        raise PthError(f"{path}: damaged, or not a PyTorch checkpoint ({reason})") from error


class _File(io.BufferedReader):
    """A file with a limit on the size of a single read."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self.largest = math.inf

    def read(self, size: int | None = -1) -> bytes:
        if (size or 0) > self.largest:
            raise PthError("refused: a directory larger than any network needs")
        return super().read(size)


class _Budget:
    """Limit on the memory that reading a file may take."""

    def __init__(self, path: Path):
        self._left = 4 * path.stat().st_size + _SLACK

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise PthError("refused: its tensors are far larger than the file")


class _Storages:
    """The storages of a file by key, each created at its first use."""

    def __init__(self, make: Callable[[str, np.dtype, int], np.ndarray], budget: _Budget):
        self._make, self._budget = make, budget
        self._made: dict[str, Storage] = {}

    def __getitem__(self, key: str) -> np.ndarray:
        if type(key) is not str:
            raise PthError("damaged: the key of a storage is not text")
        return self._made[key].array

    def __call__(self, identity: Any) -> Storage:
        """The storage of a persistent id: ("storage", type, key, device, number of elements)."""
        # Check the types first: converting nested lists to text could take forever.
        is_valid = type(identity) is tuple and 5 <= len(identity) <= 6
        word, kind, key, _, count, *view = identity if is_valid else (None,) * 5
        name = kind.removeprefix("torch.") if type(kind) is Name else ""
        if name.endswith("Storage") and name not in STORAGE_DTYPES:
            raise PthError(
                f"refused: a tensor of {name.removesuffix('Storage')} numbers, which is not read; "
                "save plain ones of float32"
            )
        if (
            name not in STORAGE_DTYPES
            or (type(word), type(key), type(count)) != (str, str, int)
            or word != "storage"
            or not (key.isascii() and key.isdigit() and len(key) < 20)
            or not 0 <= count < 2**63
        ):
            raise PthError("damaged: it refers to something that is not a storage")
        if view and view[0] is not None:
            raise PthError("refused: a storage that is a view of another, as in old versions")
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
            raise PthError("a zip archive, but not a PyTorch checkpoint: it holds no data.pkl")
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

    # A pickle begins with its protocol or, in the first one, with a letter for a large number.
    if file.peek(1)[:1] not in (b"\x80", b"L") or plain() != _LEGACY_MAGIC:
        raise PthError("not a PyTorch checkpoint: neither a zip archive nor the older layout")
    if plain() != _LEGACY_PROTOCOL:
        raise PthError("refused: an unknown version of the older layout")
    system = plain()
    if type(system) is not dict or not system.get("little_endian", True):
        raise PthError("refused: written on a big-endian machine")

    # The data follow the pickle. It is read once to create the storages, which are then filled, and
    # a second time to create the tensors.
    storages = _Storages(lambda key, dtype, count: np.zeros(count, dtype), budget)
    begin = file.tell()
    unpickle(file, storages, copy.copy(budget).take)
    for key in plain():
        storage = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        data = file.read(storage.nbytes)
        if count != storage.size or len(data) != storage.nbytes:
            raise PthError(
                "damaged: truncated, or a storage whose size differs from the announced one"
            )
        storage[:] = np.frombuffer(data, storage.dtype)
    file.seek(begin)
    return unpickle(file, storages, budget.take)


# A state dict takes about 30 instructions and 150 bytes per tensor, and three times as much with
# the optimizer's state. An instruction creates objects of up to a few hundred bytes.
MAX_INSTRUCTIONS = 1_000_000
MAX_BYTES = 16 * 2**20


class PthError(ValueError):
    """Not a PyTorch checkpoint, damaged, or refused because it holds more than tensors."""


class Name(str):
    """A global that a pickle refers to: "module.name"."""


class _NumberKind(str):
    """A NumPy dtype in a pickle, by its code, e.g. "f8"."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """One-dimensional array of which tensors are views."""

    array: np.ndarray


class Inert:
    """Placeholder for an object that is not a tensor; discards its content."""

    __slots__ = ()

    def append(self, _: Any) -> None:
        """Discards an element."""

    def extend(self, _: Any) -> None:
        """Discards elements."""


def unpickle(file: BinaryIO, storage: Callable[[Any], Storage], take: Callable[[int], None]) -> Any:
    """Reads the next object in a stream of pickles, and leaves the file at its end.

    Args:
        file: a seekable file.
        storage: maps a persistent id to its storage.
        take: called with the number of bytes of each new array; raises if the total is too large.

    Raises:
        PthError: if the pickle is too large, or has a name or instruction that is not allowed.
    """
    begin = file.tell()
    content = file.read(MAX_BYTES)
    buffer = io.BytesIO(content)
    try:
        value = _Unpickler(buffer, storage, take).load()
    except EOFError as error:
        reason = "damaged: its structure is incomplete"
        if len(content) == MAX_BYTES:
            reason = f"refused: its structure is larger than {MAX_BYTES:,} bytes"
        raise PthError(reason) from error
    file.seek(begin + buffer.tell())
    return value


class _Instructions(dict):
    """Byte -> method of the instruction; limits the kinds and the number of instructions.

    Not allowed are instructions that create objects larger than the pickle (BYTEARRAY8), hash
    arbitrary objects (DICT, EMPTY_SET, PUT), call functions (INST, OBJ), or use a global registry
    (EXT1).
    """

    def __init__(self):
        super().__init__(_METHODS)
        self._left = MAX_INSTRUCTIONS

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self._left -= 1
        if self._left < 0:
            count = f"{MAX_INSTRUCTIONS:,}"
            raise PthError(f"refused: its structure has more than {count} instructions")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Callable[[Any], None]:
        if chr(code) not in pickletools.code2op:
            raise PthError("damaged, or not a PyTorch checkpoint")
        name = pickletools.code2op[chr(code)].name
        raise PthError(f"refused: the instruction {name}, which no state dict needs")


class _Unpickler(pickle._Unpickler):
    """Python's unpickler, restricted so that it executes no code of the file.

    `find_class` and `persistent_load` restrict the names in a file, but not what the instructions
    do. So this subclasses the unpickler written in Python (as joblib does), whose instructions can
    be replaced, not the one in C:

    * BUILD calls `__setstate__` or sets attributes of any object, such as the memory of an array.
      Here it does nothing, and is allowed for few types only.
    * SETITEM hashes any key; nested tuples and numbers with equal hashes can take forever. Here
      keys are texts and small numbers.
    * REDUCE calls any object. Here it calls a `Name`.
    * The unpickler in C allocates its memo by the highest index, so that nine bytes of a file can
      take 256 MB.
    """

    def __init__(
        self, file: BinaryIO, storage: Callable[[Any], Storage], take: Callable[[int], None]
    ):
        super().__init__(file, encoding="utf-8")  # for texts written by Python 2
        self.dispatch = _Instructions()
        self.persistent_load = storage
        self.take = take

    def find_class(self, module: str, name: str) -> Name:
        """The name; PthError if it is of Python or PyTorch and not on the list of allowed names.

        Names of other packages, such as settings and project classes, become inert objects.
        """
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)  # Python 2
        if len(module) + len(name) > 200:  # the memo could repeat a long name many times
            raise PthError("damaged: a name of more than 200 characters")
        found = Name(f"{module}.{name}")
        root = module.partition(".")[0]
        strict = root == "torch" or root in sys.stdlib_module_names or not root.isidentifier()
        if strict and OTHER_TENSORS.fullmatch(found):
            raise PthError(
                f"refused: a tensor of a kind that is not read ({found}), such as a sparse, "
                "quantised or distributed one; save plain ones of float32"
            )
        if strict and not (found in _FUNCTIONS or WORDS.fullmatch(found) or INERT.fullmatch(found)):
            raise PthError(
                f"refused: it names {printable(found)}, which is not one of the names that "
                "this reader knows; save the state dict alone: torch.save(model.state_dict(), ...)"
            )
        return found

    def load_reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if type(name) is not Name or type(arguments) is not tuple or WORDS.fullmatch(name):
            raise PthError("damaged: it calls something that is not a function")
        self.append(self.call(name, arguments))

    def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        """The result of a call."""
        if name not in _FUNCTIONS:
            return Inert()
        if len(arguments) > 16:  # the memo could repeat a long tuple many times
            raise PthError("damaged: a call with too many arguments")
        return _FUNCTIONS[name](self, *arguments)

    def load_newobj(self) -> None:
        _, name = self.stack.pop(), self.stack.pop()
        if type(name) is not Name or name in _FUNCTIONS or WORDS.fullmatch(name):
            raise PthError("refused: the instruction NEWOBJ, which no state dict needs")
        self.append(Inert())

    def load_build(self) -> None:
        # Discards the `_metadata` (versions of layers) of a state dict's OrderedDict.
        self.stack.pop()
        if type(self.stack[-1]) not in (collections.OrderedDict, _NumberKind, Inert):
            raise PthError("refused: it sets attributes, which no state dict needs")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def load_setitems(self) -> None:
        self._update(self.pop_mark())

    def _update(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is Inert:
            return
        if type(target) not in (dict, collections.OrderedDict) or len(pairs) % 2:
            raise PthError("damaged: it sets entries of something that is not a dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            texts = type(key) in (str, Name)  # old Lightning versions used classes as keys
            if not texts and not (type(key) in (int, bool) and abs(key) < 2**31):
                kind = printable(type(key).__name__)
                raise PthError(f"refused: a key of type {kind}; keys are names or small numbers")
            target[key] = value


_KEPT = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG1", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT"),
    *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
    *("GLOBAL", "STACK_GLOBAL", "BINPERSID"),
)
_METHODS = {
    **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in map(vars(pickle).get, _KEPT)},
    pickle.REDUCE[0]: _Unpickler.load_reduce,
    pickle.NEWOBJ[0]: _Unpickler.load_newobj,
    pickle.BUILD[0]: _Unpickler.load_build,
    pickle.SETITEM[0]: _Unpickler.load_setitem,
    pickle.SETITEMS[0]: _Unpickler.load_setitems,
}


def _tensor(
    self: _Unpickler, storage: Any, offset: Any, size: Any, stride: Any, *more: Any
) -> np.ndarray:
    """A tensor as an independent array."""
    if len(more) > 2 and more[2]:  # requires_grad, hooks, metadata
        raise PthError("refused: a tensor that is stored negated or conjugated")
    if type(storage) is not Storage:
        raise PthError("damaged: a tensor without storage")
    if type(size) is not tuple or type(stride) is not tuple or not len(size) == len(stride) <= 64:
        raise PthError("damaged: a tensor with no valid shape or strides")
    if not all(type(n) is int and 0 <= n < 2**63 for n in (*size, *stride, offset)):
        raise PthError("damaged: a tensor with a size, stride or offset out of range")
    array, count = storage.array, math.prod(size)
    self.take(count * array.itemsize + 128 + 32 * len(size))  # with the overhead of an array
    if not count:
        return np.zeros(size, array.dtype)
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= array.size:
        raise PthError(f"damaged: a tensor of shape {size} reaches past its storage")
    byte_strides = [step * array.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(array[offset:], size, byte_strides).copy()


def _of_type(self: _Unpickler, function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    is_tensor = type(function) is Name and _FUNCTIONS.get(function) is _tensor
    if not is_tensor or type(arguments) is not tuple:
        raise PthError("damaged: a tensor that is built by something else")
    return self.call(function, arguments)


def _ordered_dict(_: _Unpickler, items: Any = ()) -> collections.OrderedDict:
    if items:  # Python 2 stored pairs here
        raise PthError("refused: an OrderedDict as Python 2 wrote it")
    return collections.OrderedDict()


def _encode(self: _Unpickler, text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise PthError("damaged: bytes that are not valid")
    self.take(len(text))
    return text.encode("latin-1")


def _scalar(_: _Unpickler, kind: Any, data: Any = b"") -> Any:
    """A NumPy number as a Python number; other scalars, such as dates and texts, are inert."""
    if type(kind) is not _NumberKind or type(data) is not bytes:
        raise PthError("damaged: a number that is not valid")
    if kind not in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"):
        return Inert()
    if len(data) != int(kind[1]):
        raise PthError("damaged: a number whose length does not match its kind")
    return np.frombuffer(data, "<" + kind)[0].item()


# Functions that may be called, and their safe replacements.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda _, data, *__: data,
    "torch._utils._rebuild_parameter_with_state": lambda _, data, *__: data,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch.Size": lambda _, size=(): size,
    # The formats truncate long texts, and refuse long numbers and other objects.
    "torch.device": lambda _, kind, index=0: f"{kind:.20s}:{index:.6g}",
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda *_: {},
    "collections.Counter": lambda _, counts=None: {} if counts is None else counts,
    "builtins.set": lambda _, values=(): values,
    "builtins.complex": lambda _, real, imaginary: complex(real, imaginary),
    "_codecs.encode": _encode,
    "numpy.dtype": lambda _, code, *__: _NumberKind(f"{code:.8s}"),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}
