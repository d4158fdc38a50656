"""Reads PyTorch's `.pth` files without PyTorch and without running anything in them.

A `.pth` file is a pickle, and a pickle can call any function. Here it can name tensors and plain
data only: of the names in it, the few in `_FUNCTIONS` are carried out here, others give `Inert`
objects or are refused. Both layouts are read: the zip archive of PyTorch 1.6 and later, and the
stream of pickles before that.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import io
import math
import pickle
import pickletools
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from dcpt_jax.convert.messages import printable
from dcpt_jax.convert.other_files import kind_of_archive

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
            if file.peek(4).startswith(b"PK"):
                raise PthError("a zip archive without its end: the download or copy was cut off")
            return _read_legacy(file, _Budget(path))
    except PthError as error:
        raise PthError(f"{path}: {error}") from error.__cause__
    except OSError:
        raise
    except MemoryError as error:
        raise PthError(f"{path}: it asks for more memory than there is") from error
    except Exception as error:  # the standard modules raise many kinds for damaged data
        reason = printable(str(error) or type(error).__name__)
        raise PthError(f"{path}: damaged, or not a PyTorch checkpoint ({reason})") from error


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
            raise PthError("damaged: the key of a storage is not text")
        return self._made[key].array

    def __call__(self, identity: Any) -> Storage:
        """The storage of a persistent id: ("storage", type, key, device, number of elements)."""
        # The types come first: a text of nested lists could take for ever.
        if type(identity) is not tuple or not 5 <= len(identity) <= 6:
            raise PthError("damaged: it refers to something that is not a storage")
        word, kind, key, _, count = identity[:5]
        name = kind.removeprefix("torch.") if type(kind) is Name else ""
        if (
            name not in STORAGE_DTYPES
            or (type(word), type(key), type(count)) != (str, str, int)
            or word != "storage"
            or not (key.isascii() and key.isdigit() and len(key) < 20)
            or not 0 <= count < 2**63
        ):
            raise PthError("damaged: it refers to something that is not a storage")
        if len(identity) == 6 and identity[5] is not None:
            raise PthError(
                "refused: a storage that is a view of another, which PyTorch no longer writes"
            )
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
            raise PthError(
                "damaged: cut off, or a storage whose size differs from the announced one"
            )
        storage[:] = np.frombuffer(data, storage.dtype)
    file.seek(begin)
    return unpickle(file, storages, budget.take)


# The pickle in a file.

# A state dict takes about 30 instructions and 150 bytes for each tensor, with an optimizer's state
# three times as many. An instruction makes up to some hundred bytes of objects.
MAX_INSTRUCTIONS = 1_000_000
MAX_BYTES = 16 * 2**20

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


class PthError(ValueError):
    """A file that is not a PyTorch checkpoint, is damaged, or holds more than tensors."""


class Name(str):
    """Something that a pickle names: "module.name"."""


class _NumberKind(str):
    """A dtype of NumPy in a pickle, by its code, e.g. "f8"."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """The numbers that tensors are views of: an array of one axis."""

    array: np.ndarray


class Inert:
    """Stands for an object beside the weights; takes any content and keeps none of it."""

    __slots__ = ()

    def append(self, _: Any) -> None:
        """Takes an element, as a list does."""

    def extend(self, _: Any) -> None:
        """Takes elements, as a list does."""


def unpickle(file: BinaryIO, storage: Callable[[Any], Storage], take: Callable[[int], None]) -> Any:
    """Returns the next object in a stream of pickles; the file stands behind it afterwards.

    Args:
        file: a file that can seek.
        storage: called with a persistent id.
        take: called with the number of bytes that a new array takes; raises if they are too many.

    Raises:
        PthError: if the pickle is too large, names anything else, or uses other instructions.
        Exception: of many kinds if it is damaged.
    """
    begin = file.tell()
    content = file.read(MAX_BYTES)
    buffer = io.BytesIO(content)
    try:
        value = _Unpickler(buffer, storage, take).load()
    except EOFError as error:
        reason = "damaged: its structure has no end"
        if len(content) == MAX_BYTES:
            reason = f"refused: its structure is larger than {MAX_BYTES:,} bytes"
        raise PthError(reason) from error
    file.seek(begin + buffer.tell())
    return value


class _Instructions(dict):
    """Byte -> method that carries it out, for one pickle: limits which there may be, and how many.

    Left out are those that make objects larger than the pickle (BYTEARRAY8), hash what they find
    (DICT, EMPTY_SET, PUT with its numbers of any length), call by themselves (INST, OBJ) or go by a
    global registry (EXT1).
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
    """Python's unpickler, kept from running anything.

    `find_class` and `persistent_load` decide what a file may refer to. They cannot stop what the
    instructions themselves do, so this subclasses the unpickler written in Python (as joblib
    does), whose instructions can be replaced, and not the one in C:

    * BUILD calls `__setstate__` or sets attributes of any object: a dtype's storage could be
      rewritten, an array's memory exchanged. Here it does nothing, to very few kinds of objects.
    * SETITEM hashes whatever stands as a key: tuples of tuples and numbers that share a hash take
      forever. Here keys are texts and small numbers.
    * REDUCE calls any object. Here it calls a `Name`.
    * The unpickler in C takes memory for as many remembered objects as the highest number says:
      nine bytes of a file made it take 256 MB.
    """

    def __init__(
        self, file: BinaryIO, storage: Callable[[Any], Storage], take: Callable[[int], None]
    ):
        super().__init__(file, encoding="utf-8")  # of texts that Python 2 wrote
        self.dispatch = _Instructions()
        self.persistent_load = storage
        self.take = take

    def find_class(self, module: str, name: str) -> Name:
        """The name itself, unless it is one of Python's or PyTorch's that weights do not need.

        All others, of settings and the project's own classes, lie beside the weights.
        """
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)  # Python 2
        if len(module) + len(name) > 200:  # the same long text could be named many times
            raise PthError("damaged: a name of more than 200 characters")
        found = Name(f"{module}.{name}")
        root = module.partition(".")[0]
        strict = root == "torch" or root in sys.stdlib_module_names or not root.isidentifier()
        if strict and not (
            found in _FUNCTIONS or _WORDS.fullmatch(found) or _INERT.fullmatch(found)
        ):
            raise PthError(
                f"refused: it names {printable(found)}, which is not one of the names that "
                "this reader knows; save the state dict alone: torch.save(model.state_dict(), ...)"
            )
        return found

    def load_reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if type(name) is not Name or type(arguments) is not tuple or _WORDS.fullmatch(name):
            raise PthError("damaged: it calls something that is not a function")
        self.append(self.call(name, arguments))

    def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        """What stands for the result of a call."""
        if name not in _FUNCTIONS:
            return Inert()
        if len(arguments) > 16:  # of the same long tuple many calls could be made
            raise PthError("damaged: a call with too many arguments")
        return _FUNCTIONS[name](self, *arguments)

    def load_newobj(self) -> None:
        _, name = self.stack.pop(), self.stack.pop()
        if type(name) is not Name or name in _FUNCTIONS or _WORDS.fullmatch(name):
            raise PthError("refused: the instruction NEWOBJ, which no state dict needs")
        self.append(Inert())

    def load_build(self) -> None:
        # A state dict's OrderedDict has `_metadata`, versions of layers; nothing needs them.
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
            texts = type(key) in (str, Name)  # Lightning once keyed callbacks by their class
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
    """The tensor as an array of its own."""
    if len(more) > 2 and more[2]:  # requires_grad, hooks, metadata
        raise PthError("refused: a tensor that is stored negated or conjugated")
    if type(storage) is not Storage:
        raise PthError("damaged: a tensor without storage")
    if type(size) is not tuple or type(stride) is not tuple or not len(size) == len(stride) <= 64:
        raise PthError("damaged: a tensor with no valid shape or strides")
    if not all(type(n) is int and 0 <= n < 2**63 for n in (*size, *stride, offset)):
        raise PthError("damaged: a tensor with a size, stride or offset out of range")
    array, count = storage.array, math.prod(size)
    self.take(count * array.itemsize + 128 + 32 * len(size))  # with what an array takes by itself
    if not count:
        return np.zeros(size, array.dtype)
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= array.size:
        raise PthError(f"damaged: a tensor of shape {size} reaches past its storage")
    byte_strides = [step * array.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(array[offset:], size, byte_strides).copy()


def _of_type(self: _Unpickler, function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    built = type(function) is Name and _FUNCTIONS.get(function) is _tensor
    if not built or type(arguments) is not tuple:
        raise PthError("damaged: a tensor that is built by something else")
    return self.call(function, arguments)


def _ordered_dict(_: _Unpickler, items: Any = ()) -> collections.OrderedDict:
    if items:  # Python 2 wrote pairs here
        raise PthError("refused: an OrderedDict as Python 2 wrote it")
    return collections.OrderedDict()


def _encode(self: _Unpickler, text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise PthError("damaged: bytes that are not valid")
    self.take(len(text))
    return text.encode("latin-1")


def _scalar(_: _Unpickler, kind: Any, data: Any = b"") -> Any:
    """A number of NumPy's as Python's; other scalars, such as dates and texts, are inert."""
    if type(kind) is not _NumberKind or type(data) is not bytes:
        raise PthError("damaged: a number that is not valid")
    if kind not in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"):
        return Inert()
    if len(data) != int(kind[1]):
        raise PthError("damaged: a number whose length does not match its kind")
    return np.frombuffer(data, "<" + kind)[0].item()


# What may be called, and what is called in its place.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda _, data, *__: data,
    "torch._utils._rebuild_parameter_with_state": lambda _, data, *__: data,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch.Size": lambda _, size=(): size,
    # Formats cut long texts off, and take neither numbers of many digits nor other objects.
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
# What may be named and not called.
_WORDS = re.compile(
    r"torch\.(?:\w+Storage|Tensor|b?float\d+|u?int\d+|bool|complex\d+)|"
    r"torch\.nn\.parameter\.(?:Parameter|Buffer)|builtins\.(?:dict|list|int|long|float)"
)
# Objects of Python's and PyTorch's own that may lie beside weights: settings, dates, paths, states
# of generators.
_INERT = re.compile(
    r"(?:argparse|array|collections|copyreg|dataclasses|datetime|decimal|enum|fractions|functools|"
    r"logging|operator|pathlib|random|re|types|typing|uuid|zoneinfo|"
    r"torch\.(?:optim|torch_version))\..+|"
    r"builtins\.(?:bool|bytearray|frozenset|getattr|object|range|slice|str|tuple|xrange|"
    r"Ellipsis|NotImplemented)"
)
