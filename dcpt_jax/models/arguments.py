"""Checks of arguments and inputs, shared by all networks."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

COMPUTE_DTYPES = ("float32", "bfloat16", "float64")


def compute_dtype(dtype: Any) -> jnp.dtype:
    """Checks a compute type.

    Args:
        dtype: float32, bfloat16 or float64, as a dtype, scalar type or name.

    Returns:
        The dtype object.

    Raises:
        ValueError: for any other type.
    """
    try:
        known = jnp.dtype(dtype)
    except TypeError:
        known = None
    if dtype is None or known is None or known.name not in COMPUTE_DTYPES:
        raise ValueError(f"dtype is {dtype!r}, but must be one of {', '.join(COMPUTE_DTYPES)}")
    return known


def parameter_dtype(dtype: Any) -> jnp.dtype:
    """Dtype of the parameters of a network that computes in `dtype`: float32, or float64."""
    return jnp.promote_types(dtype, jnp.float32)


def check_dtype_is_enabled(dtype: Any) -> None:
    """Raises ValueError if JAX would silently use float32 instead of float64."""
    if jnp.dtype(dtype) == jnp.float64 and not jax.config.jax_enable_x64:
        raise ValueError(
            "the network has dtype float64, but 64-bit types are switched off in JAX; "
            'call jax.config.update("jax_enable_x64", True) first, or create it with float32'
        )


def check_images(images: Any) -> None:
    """Checks that `images` is a batch of floating-point images.

    Raises:
        ValueError: if it is not [b, h, w, 3] with h and w at least 1 and a floating dtype.
    """
    expected = "expected a batch of floating-point images [b, h, w, 3] in [0, 1]"
    if not hasattr(images, "dtype"):
        raise ValueError(f"{expected}, got {type(images).__name__}; pass a NumPy or JAX array")
    shape, dtype = jnp.shape(images), jnp.result_type(images)
    if len(shape) == 3:
        raise ValueError(f"{expected}, got shape {shape}; for a single image pass image[None]")
    if len(shape) != 4 or shape[-1] != 3:
        hint = "; channels come last" if len(shape) == 4 and shape[1] == 3 else ""
        raise ValueError(f"{expected}, got shape {shape}{hint}")
    if 0 in shape[1:3]:
        raise ValueError(f"{expected} of at least 1x1 pixel, got shape {shape}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{expected}, got dtype {dtype}; divide 8-bit pixels by 255")


def positive_count(name: str, value: Any) -> int:
    """Returns an integer >= 1 as Python's int; raises ValueError naming the argument otherwise."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}, but must be an integer >= 1")
    return int(value)


def positive_counts(name: str, values: Any) -> tuple[int, ...]:
    """Returns a non-empty sequence of integers >= 1 as a tuple; raises ValueError otherwise."""
    if isinstance(values, str | bytes) or not isinstance(values, Sequence) or not len(values):
        raise ValueError(f"{name} is {values!r}, but must be a sequence of integers >= 1")
    return tuple(positive_count(f"{name}[{i}]", value) for i, value in enumerate(values))


def check_divides(name: str, divisor: int, number: int) -> None:
    """Raises ValueError unless a number of channels can be divided into `divisor` heads."""
    if number % divisor:
        raise ValueError(f"{name} is {divisor}, but must divide its number of channels, {number}")


def check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raises ValueError for a value not in `known`."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(known)}")
