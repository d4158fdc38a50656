"""What a checkpoint of PyTorch may name, and what is called in its place."""

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from dcpt_jax.convert.pth_pickle import Name, NumberKind, PthError

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
_TORCH_DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "bool", "uint8"),
    *("int8", "int16", "int32", "int64", "complex64", "complex128"),
)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """The numbers that tensors are views of: an array of one axis."""

    array: np.ndarray


def _view(storage: Any, offset: Any, size: Any, stride: Any, take: Callable[[int], None]) -> Any:
    """The tensor as an array of its own."""
    if type(storage) is not Storage:
        raise PthError("damaged: a tensor without storage")
    if type(size) is not tuple or type(stride) is not tuple or not len(size) == len(stride) <= 64:
        raise PthError("damaged: a tensor whose shape or strides are none")
    if not all(type(n) is int and 0 <= n < 2**63 for n in (*size, *stride, offset)):
        raise PthError("damaged: a tensor with a size, stride or offset that is none")
    array, count = storage.array, math.prod(size)
    take(count * array.itemsize + 128 + 32 * len(size))  # with what an array takes by itself
    if not count:
        return np.zeros(size, array.dtype)
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= array.size:
        raise PthError(f"damaged: a tensor of shape {size} reaches past its storage")
    byte_strides = [step * array.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(array[offset:], size, byte_strides).copy()


def functions(
    take: Callable[[int], None], *, tensors: bool = True
) -> dict[Name, Callable[..., Any]]:
    """What a checkpoint may name, and what is called in its place.

    Args:
        take: called with the bytes that something takes.
        tensors: False where a pickle is read only for the storages it refers to.
    """

    def tensor(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Any:
        if len(more) > 2 and more[2]:  # requires_grad, hooks, metadata
            raise PthError("refused: a tensor that is stored negated or conjugated")
        return _view(storage, offset, size, stride, take) if tensors else None

    def parameter(data: Any, *_: Any) -> Any:
        return data

    def of_type(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
        if type(function) is not Name or function not in builders or type(arguments) is not tuple:
            raise PthError("damaged: a tensor that is built by something else")
        return builders[function](*arguments)

    def ordered_dict(items: Any = ()) -> collections.OrderedDict:
        if items:  # Python 2 wrote pairs here
            raise PthError("refused: an OrderedDict as Python 2 wrote it")
        return collections.OrderedDict()

    def encode(text: str, encoding: str) -> bytes:
        if type(text) is not str or encoding != "latin1":
            raise PthError("damaged: bytes that are none")
        take(len(text))
        return text.encode("latin-1")

    def device(*parts: Any) -> str:
        if not all((type(part) is str and len(part) < 20) or type(part) is int for part in parts):
            raise PthError("damaged: a device that is none")
        return ":".join(map(str, parts))

    def uncalled(*_: Any) -> Any:
        raise PthError("damaged: it calls something that is no function")

    builders = {
        Name("torch._utils", "_rebuild_tensor"): tensor,
        Name("torch._utils", "_rebuild_tensor_v2"): tensor,
    }
    inert = [*STORAGE_DTYPES, *_TORCH_DTYPES, "Tensor"]
    return {
        **builders,
        **{Name("torch", name): uncalled for name in inert},
        Name("torch.nn.parameter", "Parameter"): uncalled,
        Name("torch.nn.parameter", "Buffer"): uncalled,
        Name("torch._utils", "_rebuild_parameter"): parameter,
        Name("torch._utils", "_rebuild_parameter_with_state"): parameter,
        Name("torch._tensor", "_rebuild_from_type_v2"): of_type,
        Name("torch", "Size"): lambda size=(): size,
        Name("torch", "device"): device,
        Name("collections", "OrderedDict"): ordered_dict,
        Name("collections", "defaultdict"): lambda *_: {},
        Name("collections", "Counter"): lambda counts=None: {} if counts is None else counts,
        Name("builtins", "set"): lambda values=(): values,
        Name("builtins", "complex"): _complex,
        **{Name("builtins", name): uncalled for name in ("dict", "list", "int", "float")},
        Name("_codecs", "encode"): encode,
        Name("numpy", "dtype"): lambda code, *_: NumberKind(code),
        Name("numpy.core.multiarray", "scalar"): _scalar,
        Name("numpy._core.multiarray", "scalar"): _scalar,
    }


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise PthError("damaged: a complex number that is none")
    return complex(real, imaginary)


def _scalar(kind: Any, data: Any) -> Any:
    """A number of NumPy's as Python's."""
    if type(kind) is not NumberKind or type(data) is not bytes:
        raise PthError("damaged: a number that is none")
    if kind.code not in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"):
        raise PthError("refused: a number of an unknown kind")
    if len(data) != int(kind.code[1]):
        raise PthError("damaged: a number of another length than its kind")
    return np.frombuffer(data, "<" + kind.code)[0].item()
