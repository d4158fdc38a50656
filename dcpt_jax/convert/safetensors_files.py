"""Reads and writes `.safetensors` files: a JSON header with names and shapes, then raw bytes."""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

# Of the header; some hundred bytes for each tensor. Parsing takes a multiple of it in memory.
_MAX_HEADER = 16 * 2**20


class SafetensorsError(ValueError):
    """A file that is no safetensors file, is damaged, or holds numbers that NumPy has no type for.

    The message names the file.
    """


def looks_like_safetensors(path: Path | str) -> bool:
    """Whether a file begins as a safetensors file does: with the size of a header, and a brace."""
    with Path(path).open("rb") as file:
        begin = file.read(9)
    size = Path(path).stat().st_size
    return len(begin) == 9 and begin[8:] == b"{" and struct.unpack("<Q", begin[:8])[0] <= size - 8


def read_safetensors(path: Path | str) -> dict[str, np.ndarray]:
    """Reads a `.safetensors` file.

    Takes as much memory as the file is large, and some for its header.

    Returns:
        Name -> array, independent of the file; bfloat16 as `ml_dtypes.bfloat16`. The header's
        metadata are left out.

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
            # The library checks that the tensors fill the file exactly and do not overlap, so all
            # of them together cannot be larger than it.
            for name in file.keys():  # noqa: SIM118  (the file itself cannot be iterated over)
                arrays[name] = np.array(file.get_tensor(name))
    except OSError:
        raise
    except AttributeError as error:  # its way to say that NumPy has no such type
        raise SafetensorsError(f"{path}: unknown kind of numbers ({error})") from error
    except Exception as error:
        raise SafetensorsError(f"{path}: damaged, or not a safetensors file ({error})") from error
    return arrays


def _check_header_size(path: Path) -> None:
    with path.open("rb") as file:
        begin = file.read(8)
    size = path.stat().st_size
    announced = struct.unpack("<Q", begin)[0] if len(begin) == 8 else None
    if announced is None or announced > size - 8:
        raise SafetensorsError(f"{path}: cut off, or not a safetensors file")
    if announced > _MAX_HEADER:
        raise SafetensorsError(
            f"{path}: refused: its header of {announced:,} bytes is larger than any network needs"
        )


def write_safetensors(path: Path | str, state: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as a `.safetensors` file, marked as PyTorch's (`{"format": "pt"}`).

    Args:
        path: file to write, replaced if it exists. See `files.replacing` for a write that cannot
            leave half a file.
        state: name -> array, floating-point (bfloat16 too), integer or bool.

    Raises:
        OSError: if the file cannot be written.
        SafetensorsError: if an array has a dtype that such files cannot hold.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # The library writes an array's memory as it lies, whatever its strides are.
    arrays = {name: np.require(array, requirements="C") for name, array in state.items()}
    try:
        save_file(arrays, path, metadata={"format": "pt"})
    except SafetensorError as error:  # its only class of errors, also for a full disk
        kind = OSError if "I/O error" in str(error) else SafetensorsError
        raise kind(f"{path}: {error}") from error
