"""Experimental depthwise 3x3 convolutions for GPUs, not part of the package.

Each takes x [b, h, w, c] and kernel [3, 3, 1, c] and computes the result of
`dcpt_jax.models.layers.depthwise_conv` in float32, rounded to the dtype of x. All but `taps` have
custom backward passes; the gradient of the input is the same function with the kernel flipped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

_TURN = (slice(None, None, -1), slice(None, None, -1))


def _promoted(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _taps(x: jax.Array) -> list[jax.Array]:
    """The input shifted by the nine taps, zero padded, in float32."""
    h, w = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [_promoted(padded[:, i : i + h, j : j + w]) for i in range(3) for j in range(3)]


def taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The sum of the nine shifted products, differentiated by JAX."""
    factors = _promoted(kernel).reshape(9, -1)
    return sum(tap * factors[k] for k, tap in enumerate(_taps(x))).astype(x.dtype)


def _one_reduction(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """The kernel's gradient by a single reduction with nine results."""
    products = tuple(tap * _promoted(gradient) for tap in _taps(x))
    zero = jnp.zeros((), products[0].dtype)
    sums = lax.reduce(
        products, (zero,) * 9, lambda a, b: tuple(map(jnp.add, a, b)), dimensions=(0, 1, 2)
    )
    return jnp.stack(sums)


def _nine_sums(x: jax.Array, gradient: jax.Array) -> jax.Array:
    return jnp.stack([(tap * _promoted(gradient)).sum(axis=(0, 1, 2)) for tap in _taps(x)])


def _sums_in_steps(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """The kernel's gradient summed over rows, then over the rest: two smaller reductions."""
    partial = [(tap * _promoted(gradient)).sum(axis=1) for tap in _taps(x)]
    return jnp.stack([part.sum(axis=(0, 1)) for part in partial])


def _with_backward(forward: Callable, to_kernel: Callable) -> Callable:
    """A function of x and kernel with these passes; `to_kernel` returns [9, c]."""
    function = jax.custom_vjp(forward)

    def keep(x, kernel):
        return forward(x, kernel), (x, kernel)

    def backward(saved, gradient):
        x, kernel = saved
        to_input = forward(gradient, kernel[_TURN])
        return to_input, to_kernel(x, gradient).reshape(kernel.shape).astype(kernel.dtype)

    function.defvjp(keep, backward)
    return function


taps_one_reduction = _with_backward(taps, _one_reduction)
taps_nine_sums = _with_backward(taps, _nine_sums)
taps_sums_in_steps = _with_backward(taps, _sums_in_steps)


def _neighbours(pixels: jax.Array, h: int, w: int):
    """For flat positions in an image: the position and validity of each of the nine neighbours.

    Positions outside are clamped to the image, so that every load is valid.
    """
    row, column = pixels // w, pixels % w
    for i in range(3):
        for j in range(3):
            inside = (row + i >= 1) & (row + i <= h) & (column + j >= 1) & (column + j <= w)
            yield jnp.clip(pixels + (i - 1) * w + j - 1, 0, h * w - 1), inside


def _convolve(x_ref, kernel_ref, out_ref, *, h, w, pixels, channels):
    """Pallas kernel: convolves some pixels and channels of one image."""
    image = pl.program_id(0)
    positions = pl.program_id(1) * pixels + jnp.arange(pixels)
    columns = pl.program_id(2) * channels + jnp.arange(channels)
    total = jnp.zeros((pixels, channels), jnp.float32)
    for k, (neighbours, inside) in enumerate(_neighbours(positions, h, w)):
        tap = x_ref[image, neighbours[:, None], columns[None, :]].astype(jnp.float32)
        factor = kernel_ref[k, columns].astype(jnp.float32)
        total += jnp.where(inside[:, None], tap, 0) * factor[None, :]
    out_ref[image, positions[:, None], columns[None, :]] = total.astype(out_ref.dtype)


def _correlate(x_ref, gradient_ref, out_ref, *, h, w, pixels, channels, rounds):
    """Pallas kernel: kernel gradient of some pixels and channels of one image."""
    image, part = pl.program_id(0), pl.program_id(1)
    columns = pl.program_id(2) * channels + jnp.arange(channels)

    def add(i, sums):
        positions = (part * rounds + i) * pixels + jnp.arange(pixels)
        gradient = gradient_ref[image, positions[:, None], columns[None, :]].astype(jnp.float32)
        added = []
        for total, (neighbours, inside) in zip(sums, _neighbours(positions, h, w), strict=True):
            tap = x_ref[image, neighbours[:, None], columns[None, :]].astype(jnp.float32)
            product = jnp.where(inside[:, None], tap, 0) * gradient
            added.append(total + product.sum(axis=0))
        return tuple(added)

    zeros = (jnp.zeros((channels,), jnp.float32),) * 9
    for k, total in enumerate(lax.fori_loop(0, rounds, add, zeros)):
        out_ref[image * pl.num_programs(1) + part, k, columns] = total


def _power_of_two(number: int, most: int) -> int:
    """The largest power of two, at most `most`, that divides a number."""
    return min(number & -number, most)


def pallas(interpret: bool = False) -> Callable:
    """A depthwise convolution by Pallas kernels for Triton.

    Args:
        interpret: run the kernels by XLA on any device, for tests.
    """
    call = functools.partial(pl.pallas_call, interpret=interpret)
    if not interpret:
        from jax.experimental.pallas import triton

        call = functools.partial(call, compiler_params=triton.CompilerParams(num_warps=4))

    def forward(x, kernel):
        b, h, w, c = x.shape
        pixels, channels = _power_of_two(h * w, 32), _power_of_two(c, 64)
        out = call(
            functools.partial(_convolve, h=h, w=w, pixels=pixels, channels=channels),
            out_shape=jax.ShapeDtypeStruct((b, h * w, c), x.dtype),
            grid=(b, h * w // pixels, c // channels),
        )(x.reshape(b, h * w, c), kernel.reshape(9, c))
        return out.reshape(x.shape)

    def to_kernel(x, gradient):
        b, h, w, c = x.shape
        pixels, channels = _power_of_two(h * w, 16), _power_of_two(c, 64)
        rounds = _power_of_two(h * w // pixels, 32)
        parts = h * w // pixels // rounds
        sums = call(
            functools.partial(
                _correlate, h=h, w=w, pixels=pixels, channels=channels, rounds=rounds
            ),
            out_shape=jax.ShapeDtypeStruct((b * parts, 9, c), jnp.float32),
            grid=(b, parts, c // channels),
        )(x.reshape(b, h * w, c), gradient.reshape(b, h * w, c))
        return sums.sum(axis=0)

    return _with_backward(forward, to_kernel)
