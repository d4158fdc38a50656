"""State dict files of PyTorch: which kind a file is, and writing them."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dcpt_jax.convert.other_files import refuse_other_files
from dcpt_jax.convert.pth import read_pth
from dcpt_jax.convert.pth_writer import write_pth
from dcpt_jax.convert.safetensors_files import (
    looks_like_safetensors,
    read_safetensors,
    write_safetensors,
)
from dcpt_jax.files import replacing

_WRITERS = {".pth": write_pth, ".pt": write_pth, ".safetensors": write_safetensors}
SUFFIXES = tuple(_WRITERS)


def read_checkpoint(path: Path | str) -> Any:
    """Reads a `.pth` or `.safetensors` file, whatever it is called.

    The content decides; the suffix only says which reader complains about a file that is neither.

    Returns:
        What `read_pth` or `read_safetensors` returns.

    Raises:
        OSError: if there is no such file, it is a folder, or it cannot be read.
        ValueError: if the file is of another kind, damaged or refused; the message names it.
    """
    path = Path(path)
    refuse_other_files(path)
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    suffixed = path.suffix.lower() == ".safetensors"
    if not is_zip and (suffixed or looks_like_safetensors(path)):
        return read_safetensors(path)
    return read_pth(path)


def is_file_name(path: Path | str) -> bool:
    """Whether an output of this name is a file with a state dict, and not a weights folder."""
    return Path(path).suffix.lower() in _WRITERS


def write_checkpoints(states: Mapping[Path, Mapping[str, np.ndarray]]) -> None:
    """Writes state dicts, in the formats that the suffixes of their files say.

    Nothing appears under their names before all are written whole beside them; only if renaming
    fails then (the file system is gone), some may have been replaced and some not.

    Raises:
        OSError: if a file cannot be written.
        ValueError: if an array has a dtype that the format cannot hold.
    """
    with contextlib.ExitStack() as stack:
        for path, state in states.items():
            temporary = stack.enter_context(replacing(path))
            _WRITERS[path.suffix.lower()](temporary, state)
