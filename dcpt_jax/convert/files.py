"""Reads and writes state dict files, in the `.pth` and `.safetensors` formats."""

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
    """Reads a `.pth` or `.safetensors` file.

    The format is detected from the content; the suffix only matters for error messages.

    Returns:
        What `read_pth` or `read_safetensors` returns.

    Raises:
        OSError: if there is no such file, it is a folder, or it cannot be read.
        ValueError: if the file has another format, is damaged or refused; the message names it.
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
    """Whether an output path is a state dict file, and not a weights folder."""
    return Path(path).suffix.lower() in _WRITERS


def write_checkpoints(states: Mapping[Path, Mapping[str, np.ndarray]]) -> None:
    """Writes state dicts, each in the format of its suffix.

    All files are written under temporary names before any is renamed, so a failed write changes
    nothing.

    Raises:
        OSError: if a file cannot be written.
        ValueError: if an array has a dtype that the format cannot hold.
    """
    with contextlib.ExitStack() as stack:
        for path, state in states.items():
            temporary = stack.enter_context(replacing(path))
            _WRITERS[path.suffix.lower()](temporary, state)
