"""Checksums of arrays, to detect flipped bits, which Orbax does not."""

import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dcpt_jax import models
from dcpt_jax.weights.description import (
    Params,
    WeightsDescription,
    WeightsError,
    block_count,
)


def checksums_of_arrays(tree: Any) -> dict[str, int]:
    """CRC-32 of each array, including dtype and shape, by name, e.g. "network/intro/kernel".

    The 68 million parameters of the paper's NAFNet take 0.1 s on one core.

    Args:
        tree: host arrays.
    """
    return {name: _checksum(np.asarray(array)) for name, array in _named(tree).items()}


def refuse_other_arrays(params: Params, description: WeightsDescription, folder: Path) -> None:
    """Checks the arrays of a weights folder against their checksums.

    Args:
        params: as stored.
        description: read from the folder. Without checksums only the shapes are checked, with a
            warning.
        folder: for messages.

    Raises:
        WeightsError: naming the arrays that differ.
    """
    if description.checksums is None:
        logging.warning("%s has no checksums, so damage to its arrays is not detected", folder)
        refuse_other_shapes(params, description, folder)
        return
    computed, expected = checksums_of_arrays(params), description.checksums.arrays
    _refuse(computed, expected, folder, lambda name: "its checksum differs")


def refuse_other_shapes(params: Params, description: WeightsDescription, folder: Path) -> None:
    """Checks that the arrays have the names and shapes of the described modules.

    Raises:
        WeightsError: naming the arrays that differ.
    """
    shapes_found = {name: np.shape(array) for name, array in _named(params).items()}
    blocks = block_count(description.arguments)
    if blocks > len(shapes_found):  # building so many blocks would take forever
        raise WeightsError(
            f"{folder}: the description has {blocks:,} blocks, but there are only "
            f"{len(shapes_found)} arrays"
        )
    modules = {"network": description.network()}
    if description.classifier is not None:
        modules["classifier"] = description.classifier.module()
    shapes = {part: models.parameter_shapes(module) for part, module in modules.items()}
    expected = {name: leaf.shape for name, leaf in _named(shapes).items()}
    _refuse(shapes_found, expected, folder, lambda name: f"its shape is {shapes_found[name]}")


def _refuse(
    actual: dict[str, Any], expected: Any, folder: Path, differs: Callable[[str], str]
) -> None:
    wrong = [f"{name} is missing" for name in expected if name not in actual]
    wrong += [f"{name} is unexpected" for name in actual if name not in expected]
    wrong += [f"{n}: {differs(n)}" for n in actual if n in expected and actual[n] != expected[n]]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise WeightsError(f"{folder} is damaged: {'; '.join(wrong[:3])}{more}")


def _named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _checksum(array: np.ndarray) -> int:
    kind = zlib.crc32(f"{array.dtype} {array.shape}".encode())
    # As bytes, since bfloat16 does not support the buffer protocol.
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8), kind)
