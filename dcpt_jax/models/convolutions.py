"""Convolutions in the formulations that are fast where they run.

XLA on CPUs is slow at grouped and at 1x1 convolutions, so there every function here computes with
slices and matrix products; on GPUs and TPUs it calls XLA's own convolutions, except where
`_ACCELERATORS` names a faster formulation. `formulation` decides; nothing else in the package asks
which backend is running.

All functions take images [b, h, w, c] and kernels in the usual layout [kh, kw, in, out], in one
common floating dtype, and return that dtype. Gradients are reverse mode only (`jax.grad`, not
`jax.jvp`) with "slices", which brings its own backward passes.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

Formulation = Literal["slices", "convolution", "taps", "products"]
Operation = Literal["depthwise", "pointwise", "square", "patch", "norm", "block", "other"]

# On GPUs and TPUs; "convolution" where an operation is not named. For 1x1 kernels a matrix product
# is a little faster than cuDNN's convolution (H100, bfloat16, 64 to 128 channels at 32x128x128,
# with both gradients: 230 us against 249).
_ACCELERATORS: dict[Operation, Formulation] = {
    "pointwise": "slices",
    "patch": "slices",
    "block": "products",
}

PRODUCT = "product"  # name of a result worth keeping for the backward pass, beside XLA's own

# From this many channels in and out on, matrix products beat XLA's gradient of a 3x3 kernel.
_WIDE = 48
# Of a core's cache: what a loop over parts of a map works on at a time.
_CACHE_BYTES = 2**20

_Chosen = dict[Operation, Formulation]
_chosen: contextvars.ContextVar[_Chosen] = contextvars.ContextVar("chosen")


def formulation(operation: Operation = "other") -> Formulation:
    """The formulation of an operation for the backend in use: "slices" on CPUs."""
    chosen = _chosen.get({})
    if operation in chosen or "other" in chosen:
        return chosen.get(operation, chosen.get("other"))
    if jax.default_backend() == "cpu":
        return "slices"
    return _ACCELERATORS.get(operation, "convolution")


@contextlib.contextmanager
def formulated(how: Formulation | None = None, **operations: Formulation) -> Iterator[None]:
    """Forces formulations while tracing, whatever the backend.

    Args:
        how: of every operation that is not named; None leaves those as they are.
        **operations: the formulation of single operations, such as `depthwise="taps"`.
    """
    chosen = operations if how is None else {"other": how, **operations}
    before = _chosen.set(chosen)
    try:
        yield
    finally:
        _chosen.reset(before)


def cut(array: jax.Array, parts: int, *, how: Formulation | None = None) -> list[jax.Array]:
    """Cuts a kernel or bias along its output channels, for maps that are wanted in equal parts.

    On CPUs, where a map is copied when it is cut, and its gradient when it is put together again,
    each part is computed by itself. Elsewhere one large convolution is faster: there nothing is
    cut, and there is one part. See `in_parts`.

    Args:
        array: [..., channels].
        parts: how many, which divides the channels.
        how: formulation; None asks `formulation()`.
    """
    return jnp.split(array, parts, axis=-1) if (how or formulation()) == "slices" else [array]


def in_parts(maps: Sequence[jax.Array], parts: int) -> Sequence[jax.Array]:
    """Cuts the one map that there is, unless `cut` did it before: so many of [b, h, w, c]."""
    return maps if len(maps) == parts else jnp.split(maps[0], parts, axis=-1)


def plain_conv(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> jax.Array:
    """XLA's own convolution, zero padded by `padding` pixels on every side."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def square_conv(x: jax.Array, kernel: jax.Array, *, how: Formulation | None = None) -> jax.Array:
    """3x3 convolution, zero padded to the same size.

    Args:
        x: [b, h, w, in].
        kernel: [3, 3, in, out].
        how: formulation; None asks `formulation("square")`. With "slices" and enough channels the
            kernel's gradient is nine matrix products: 48 ms in place of 222 for 180 channels at
            128x128.

    Returns:
        [b, h, w, out].
    """
    if (how or formulation("square")) == "convolution" or min(kernel.shape[2:]) < _WIDE:
        return plain_conv(x, kernel, padding=1)
    return _square_conv(x, kernel)


@jax.custom_vjp
def _square_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return plain_conv(x, kernel, padding=1)


def _square_forward(x, kernel):
    return _square_conv(x, kernel), (x, kernel)


def _square_backward(saved, gradient):
    x, kernel = saved
    to_input = plain_conv(gradient, kernel[::-1, ::-1].swapaxes(2, 3), padding=1)
    return to_input, _square_kernel_gradient(_pad_by_one(x), gradient).astype(kernel.dtype)


def _square_kernel_gradient(padded: jax.Array, gradient: jax.Array) -> jax.Array:
    """Sums over images and pixels the products of both, for each of nine shifts of the input.

    Each is a matrix product of a shifted copy. Some rows at a time, so that the copies stay in
    cache: that halves the time for 60 channels at 128x128. As for depthwise kernels the batch is
    not cut, since it may be spread over devices.
    """
    (b, h, w, outputs), inputs = gradient.shape, padded.shape[-1]
    accumulator = jnp.promote_types(padded.dtype, jnp.float32)
    rows = _rows_in_cache(h, b * w * max(inputs, outputs) * padded.dtype.itemsize)

    def add_rows(i, sums):
        lines = lax.dynamic_slice(padded, (0, i * rows, 0, 0), (b, rows + 2, w + 2, inputs))
        flat = lax.dynamic_slice_in_dim(gradient, i * rows, rows, axis=1).reshape(-1, outputs)
        return [
            jnp.matmul(
                lines[:, k // 3 : k // 3 + rows, k % 3 : k % 3 + w].reshape(-1, inputs).T,
                flat,
                preferred_element_type=accumulator,
            )
            + sums[k]
            for k in range(9)
        ]

    zeros = [jnp.zeros((inputs, outputs), accumulator)] * 9
    sums = lax.fori_loop(0, h // rows, add_rows, zeros) if rows < h else add_rows(0, zeros)
    return jnp.stack(sums).reshape(3, 3, inputs, outputs)


def _rows_in_cache(height: int, row_bytes: int) -> int:
    """The most rows, a divisor of the height, that fit into the cache; or one."""
    fitting = (rows for rows in range(height, 1, -1) if rows * row_bytes <= _CACHE_BYTES)
    return next((rows for rows in fitting if height % rows == 0), 1)


_square_conv.defvjp(_square_forward, _square_backward)


def pointwise_conv(x: jax.Array, kernel: jax.Array, *, how: Formulation | None = None) -> jax.Array:
    """1x1 convolution.

    Args:
        x: [b, h, w, in].
        kernel: [1, 1, in, out].
        how: formulation; None asks `formulation("pointwise")`.

    Returns:
        [b, h, w, out].
    """
    if (how or formulation("pointwise")) == "convolution":
        return plain_conv(x, kernel)
    # A matrix product on two axes: on four, XLA picks a slower one and a much slower gradient.
    flat = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def space_to_depth(x: jax.Array, size: int) -> jax.Array:
    """Cuts [b, h, w, c] into size x size cells: [b, h/size, w/size, size * size * c].

    The new channels are ordered row in cell, column in cell, channel: the order of a flattened
    [size, size, c, out] kernel, and not that of PyTorch's PixelUnshuffle.
    """
    b, h, w, c = x.shape
    cells = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(b, h // size, w // size, size * size * c)


def patch_conv(x: jax.Array, kernel: jax.Array, *, how: Formulation | None = None) -> jax.Array:
    """Convolution whose stride equals its kernel size, without padding.

    Args:
        x: [b, h, w, in], h and w multiples of the kernel size.
        kernel: [size, size, in, out].
        how: formulation; None asks `formulation("patch")`.

    Returns:
        [b, h / size, w / size, out].
    """
    size, _, inputs, outputs = kernel.shape
    if (how or formulation("patch")) == "convolution":
        return plain_conv(x, kernel, stride=size)
    flat_kernel = kernel.reshape(1, 1, size * size * inputs, outputs)
    return pointwise_conv(space_to_depth(x, size), flat_kernel, how=how)


def depthwise_conv(x: jax.Array, kernel: jax.Array, *, how: Formulation | None = None) -> jax.Array:
    """Depthwise 3x3 convolution, zero padded to the same size; the one that everything uses.

    Args:
        x: [b, h, w, c].
        kernel: [3, 3, 1, c].
        how: formulation; None asks `formulation("depthwise")`.

    Returns:
        [b, h, w, c].
    """
    how = how or formulation("depthwise")
    if how == "convolution":
        return plain_conv(x, kernel, padding=1, groups=x.shape[-1])
    return _depthwise_by_taps(x, kernel) if how == "taps" else _depthwise_by_slices(x, kernel)


def _depthwise_by_taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The sum of nine shifted products, in float32; gradients by JAX."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = _sum_of_taps(padded.astype(wide), kernel.astype(wide)).astype(x.dtype)
    return checkpoint_name(y, PRODUCT)


def _pad_by_one(x: jax.Array) -> jax.Array:
    # Without the barrier XLA fuses the padding into each of the nine uses and pads nine times.
    return lax.optimization_barrier(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))


def _sum_of_taps(padded: jax.Array, kernel: jax.Array) -> jax.Array:
    h, w = padded.shape[1] - 2, padded.shape[2] - 2
    taps = [padded[:, i : i + h, j : j + w] * kernel[i, j, 0] for i in range(3) for j in range(3)]
    return sum(taps[1:], start=taps[0])


@jax.custom_vjp
def _depthwise_by_slices(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _sum_of_taps(_pad_by_one(x), kernel)


def _depthwise_forward(x, kernel):
    # The padded input is kept, not the input: nothing else is made of that, and what is behind the
    # convolution may be computed again from it.
    padded = _pad_by_one(x)
    return _sum_of_taps(padded, kernel), (padded, kernel)


def _depthwise_backward(saved, gradient):
    padded, kernel = saved
    padded_gradient = _pad_by_one(gradient)
    to_input = _sum_of_taps(padded_gradient, kernel[::-1, ::-1])
    return to_input, _depthwise_kernel_gradient(padded, padded_gradient).astype(kernel.dtype)


def _depthwise_kernel_gradient(padded: jax.Array, padded_gradient: jax.Array) -> jax.Array:
    """Sums the input times the gradient, shifted, over images and pixels, for each of nine shifts.

    Row by row into [b, 3, w, c] accumulators that stay in cache, one for each shift along the row;
    one reduction over all pixels is about eight times slower. Four rows at a time, so that the
    accumulators are read and written a fourth as often. The batch axis is kept until the end, so
    that a batch that is spread over devices is summed across them once and not once a row.
    """
    b, h, w, c = padded.shape[0], padded.shape[1] - 2, padded.shape[2] - 2, padded.shape[3]
    accumulator = jnp.promote_types(padded.dtype, jnp.float32)
    together = math.gcd(h, 4)

    def sum_of_shift(j):
        def add_rows(i, sums):
            for row in range(together):
                start = i * together + row
                lines = lax.dynamic_slice(padded_gradient, (0, start, j, 0), (b, 3, w, c))
                factor = lax.dynamic_slice(padded, (0, start + 1, 1, 0), (b, 1, w, c))
                sums = sums + lines.astype(accumulator) * factor.astype(accumulator)
            return sums

        zeros = jnp.zeros((b, 3, w, c), accumulator)
        return lax.fori_loop(0, h // together, add_rows, zeros).sum(axis=(0, 2))

    sums = jnp.stack([sum_of_shift(j) for j in range(3)], axis=1)
    return sums[::-1, ::-1].reshape(3, 3, 1, c)


_depthwise_by_slices.defvjp(_depthwise_forward, _depthwise_backward)
