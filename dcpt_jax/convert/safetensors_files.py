"""Reads and writes `.safetensors` files: a JSON header with names and shapes, then raw bytes."""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

# Bytes of the header: a few hundred per tensor. Parsing takes a multiple of that in memory.
_MAX_HEADER = 16 * 2**20


class SafetensorsError(ValueError):
    """Not a safetensors file, damaged, or with a dtype that NumPy lacks; the message names it."""


def looks_like_safetensors(path: Path | str) -> bool:
    """Whether a file begins like a safetensors file: with the size of a header, and a brace."""
    with Path(path).open("rb") as file:
        begin = file.read(9)
    size = Path(path).stat().st_size
    return len(begin) == 9 and begin[8:] == b"{" and struct.unpack("<Q", begin[:8])[0] <= size - 8


def read_safetensors(path: Path | str) -> dict[str, np.ndarray]:
    """Reads a `.safetensors` file.

    Takes about as much memory as the size of the file.

    Returns:
        Name -> array; bfloat16 as `ml_dtypes.bfloat16`. The metadata in the header are ignored.

    Raises:
        OSError: if there is no such file, or it cannot be read.
        SafetensorsError: if the file is damaged or holds numbers of an unknown type.
    """
    path = Path(path)
    _check_header_size(path)
    import ml_dtypes  # noqa: F401  (makes bfloat16 known to NumPy, and so to safetensors)
    from safetensors import safe_open

    arrays = {}
    try:
        with safe_open(path, framework="numpy") as file:
            # The library checks that tensors do not overlap, so together they are not larger than
            # the file.
            for name in file.keys():  # noqa: SIM118  (the file itself cannot be iterated over)
                arrays[name] = np.array(file.get_tensor(name))
    except OSError:
        raise
    except AttributeError as error:  # raised by the library for dtypes that NumPy lacks
        kind = str(error).rpartition(" ")[2].strip("'")
        raise SafetensorsError(
            f"{path}: {kind} numbers are not supported; save it as float32 or float16"
        ) from error
    except Exception as error:
        raise SafetensorsError(f"{path}: damaged, or not a safetensors file ({error})") from error
    return arrays


def _check_header_size(path: Path) -> None:
    with path.open("rb") as file:
        begin = file.read(8)
    size = path.stat().st_size
    announced = struct.unpack("<Q", begin)[0] if len(begin) == 8 else None
    if announced is None or announced > size - 8:
        raise SafetensorsError(f"{path}: truncated, or not a safetensors file")
    if announced > _MAX_HEADER:
        raise SafetensorsError(
            f"{path}: refused: its header of {announced:,} bytes is larger than any network needs"
        )


def write_safetensors(path: Path | str, state: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as a `.safetensors` file, marked as PyTorch's (`{"format": "pt"}`).

    Args:
        path: file to write, replaced if it exists; not atomic, see `files.replacing`.
        state: name -> array, floating-point (bfloat16 too), integer or bool.

    Raises:
        OSError: if the file cannot be written.
        SafetensorsError: if the format does not support the dtype of an array.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # The library ignores strides and writes the memory of an array as it is.
    arrays = {name: np.require(array, requirements="C") for name, array in state.items()}
    try:
        save_file(arrays, path, metadata={"format": "pt"})
    except SafetensorError as error:  # its only type of error, even for a full disk
        kind = OSError if "I/O error" in str(error) else SafetensorsError
        raise kind(f"{path}: {error}") from error
