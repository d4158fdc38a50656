"""Precision of float32 matrix products and convolutions on accelerators."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

PRECISIONS = ("default", "high", "highest")


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Sets the precision of everything traced in the context; also usable as a decorator.

    Args:
        precision: "default" leaves it to JAX: TensorFloat-32 (10 bits of each factor) on GPUs,
            bfloat16 (7 bits) on TPUs; "high" is TensorFloat-32 on GPUs and three passes of bfloat16
            on TPUs; "highest" is float32. CPUs always multiply in float32. Products of bfloat16
            numbers are not affected.

    Raises:
        ValueError: for another name.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; known: {', '.join(PRECISIONS)}")
    if precision == "default":  # or that of JAX_DEFAULT_MATMUL_PRECISION
        yield
        return
    with jax.default_matmul_precision(precision):
        yield
