"""Reads a pickle of tensors by carrying out its instructions itself, those of plain data only.

Python's own unpickler calls methods of whatever a pickle names, hashes whatever it finds as a key
and takes memory before it looks at the data. Here an instruction is either in the table below or
refused, a name is a `Name`, which does nothing, and only the functions given for it are called.
"""

import collections
import dataclasses
import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from dcpt_jax.convert.messages import printable

# A state dict takes about 30 instructions and 150 bytes for each tensor, with an optimizer's state
# three times as many. An instruction makes up to some hundred bytes of objects.
MAX_INSTRUCTIONS = 1_000_000
MAX_BYTES = 16 * 2**20


class PthError(ValueError):
    """A file that is no PyTorch checkpoint, is damaged, or holds more than tensors."""


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """Something that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(frozen=True, slots=True)
class NumberKind:
    """A dtype of NumPy in a pickle, by its code, e.g. "f8"."""

    code: str


def unpickle(
    file: BinaryIO,
    functions: Mapping[Name, Callable[..., Any]],
    storage: Callable[[Any], Any],
) -> Any:
    """The next object in a stream of pickles; the file stands behind it then.

    Args:
        file: a file that can seek.
        functions: what may be named -> what is called in its place. Names of dtypes and storages
            of PyTorch may stand there too, with whatever function refuses to be called.
        storage: called with a persistent id.

    Raises:
        PthError: if the pickle is damaged, too large, or does or names anything else.
    """
    begin = file.tell()
    content = file.read(MAX_BYTES)
    machine = _Machine(functions, storage)
    instructions = pickletools.genops(io.BytesIO(content))
    try:
        for count, (opcode, argument, position) in enumerate(instructions):
            if opcode.name == "STOP":
                file.seek(begin + position + 1)
                return machine.stack.pop()
            if count >= MAX_INSTRUCTIONS:
                raise PthError(f"refused: its structure has more than {count:,} instructions")
            machine.carry_out(opcode.name, argument)
    except ValueError as error:
        if isinstance(error, PthError) or len(content) < MAX_BYTES:
            raise
        raise PthError(f"refused: its structure is larger than {MAX_BYTES:,} bytes") from error
    raise PthError("damaged: its structure has no end")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_INTEGERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"}
_VALUES = {
    *("FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_OLD_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # of Python 2
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack that a pickle's instructions work on, and the objects that they remember."""

    def __init__(self, functions: Mapping[Name, Callable[..., Any]], storage: Callable[[Any], Any]):
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below the marks
        self._memo: dict[int, Any] = {}
        self._functions, self._storage = functions, storage

    def carry_out(self, name: str, argument: Any) -> None:
        """Carries out one instruction."""
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _INTEGERS:
            stack.append(_short_integer(argument))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _OLD_TEXTS:
            stack.append(argument.encode("latin-1").decode("utf-8"))
        elif name in _TUPLES:
            size = _TUPLES[name]
            if size > len(stack):
                raise PthError("damaged: a tuple of more than there is")
            stack[len(stack) - size :] = [tuple(stack[len(stack) - size :])]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            if not 0 <= argument < 2**32:
                raise PthError(f"refused: it remembers an object under {printable(str(argument))}")
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[argument])
        else:
            method = getattr(self, "_" + name.lower(), None) if name in _INSTRUCTIONS else None
            if method is None:
                raise PthError(f"refused: the instruction {name}, which no state dict needs")
            method(argument)

    def _proto(self, argument: int) -> None:
        pass

    _frame = _proto

    def _mark(self, _: None) -> None:
        self._below.append(self.stack)
        self.stack = []

    def _above_mark(self) -> list[Any]:
        above, self.stack = self.stack, self._below.pop()
        return above

    def _pop(self, _: None) -> None:
        self.stack.pop()

    def _pop_mark(self, _: None) -> None:
        self._above_mark()

    def _tuple(self, _: None) -> None:
        above = self._above_mark()
        self.stack.append(tuple(above))

    def _empty_list(self, _: None) -> None:
        self.stack.append([])

    def _list(self, _: None) -> None:
        above = self._above_mark()
        self.stack.append(above)

    def _append(self, _: None) -> None:
        value = self.stack.pop()
        self._extend([value])

    def _appends(self, _: None) -> None:
        self._extend(self._above_mark())

    def _extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise PthError("damaged: it appends to something that is no list")
        self.stack[-1].extend(values)

    def _empty_dict(self, _: None) -> None:
        self.stack.append({})

    def _dict(self, _: None) -> None:
        above = self._above_mark()
        self.stack.append({})
        self._update(above)

    def _setitem(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _setitems(self, _: None) -> None:
        self._update(self._above_mark())

    def _update(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, collections.OrderedDict) or len(pairs) % 2:
            raise PthError("damaged: it sets entries of something that is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Tuples of tuples, and long numbers that share a hash, would take for ever as keys.
            if type(key) is not str and not (type(key) in (int, bool) and abs(key) < 2**31):
                kind = printable(type(key).__name__)
                raise PthError(f"refused: a key of type {kind}; keys are names or small numbers")
            target[key] = value

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push_name(module, name)

    def _stack_global(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise PthError("damaged: a name that is no text")
        self._push_name(module, name)

    def _push_name(self, module: str, text: str) -> None:
        name = Name("builtins" if module == "__builtin__" else module, text)  # of Python 2
        if name not in self._functions:
            raise PthError(
                f"refused: it names {printable(str(name))}, which is not one of the names that "
                "this reader knows; save the state dict alone: torch.save(model.state_dict(), ...)"
            )
        self.stack.append(name)

    def _reduce(self, _: None) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if type(name) is not Name or type(arguments) is not tuple:
            raise PthError("damaged: it calls something that is no function")
        self.stack.append(self._functions[name](*arguments))

    def _build(self, _: None) -> None:
        # A state dict's OrderedDict has `_metadata`, versions of layers; nothing needs them.
        self.stack.pop()
        if type(self.stack[-1]) not in (collections.OrderedDict, NumberKind):
            raise PthError("refused: it sets attributes, which no state dict needs")

    def _binpersid(self, _: None) -> None:
        identity = self.stack.pop()
        self.stack.append(self._storage(identity))


_INSTRUCTIONS = {
    *("PROTO", "FRAME", "MARK", "POP", "POP_MARK", "TUPLE", "EMPTY_LIST", "LIST", "APPEND"),
    *("APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL"),
    *("REDUCE", "BUILD", "BINPERSID"),
}


def _short_integer(value: int) -> int:
    if abs(value) >= 2**2048:  # LONG1 has up to 255 bytes; longer ones take time wherever they go
        raise PthError("refused: an integer of more digits than any setting has")
    return value
