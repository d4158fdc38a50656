"""Attention inside windows that XLA runs fast on CPUs."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    heads: int,
    accum_dtype: jnp.dtype,
) -> jax.Array:
    """Softmax attention between the pixels of each window.

    The rows of windows are processed in up to eight parts: XLA computes the many small products of
    one part on a single core, but several parts in parallel.

    Args:
        query: [b, rows, columns, pixels per window, c].
        key: same shape.
        value: same shape.
        bias: None, or [b, rows, columns, pixels per window], added to the scores of each key.
        heads: number of attention heads.
        accum_dtype: dtype of scores and softmax.

    Returns:
        [b, rows, columns, pixels per window, c].
    """
    maps, parts = [query, key, value], math.gcd(query.shape[1], 8)
    if parts > 1:
        maps = [_join_gradients_once(x) for x in maps]

    def attend_to_part(query, key, value, bias):
        *shape, n, c = query.shape
        cells = (x.reshape(-1, n, heads, c // heads) for x in (query, key, value))
        y = _attend_transposed(*cells, None if bias is None else bias.reshape(-1, n), accum_dtype)
        return y.reshape(*shape, n, c)

    split = [[None] * parts if x is None else jnp.split(x, parts, axis=1) for x in (*maps, bias)]
    return jnp.concatenate([attend_to_part(*part) for part in zip(*split, strict=True)], axis=1)


@jax.custom_vjp
def _join_gradients_once(x: jax.Array) -> jax.Array:
    """Identity on [..., c] that joins a gradient given in parts once, not anew for each use."""
    return x


def _join_forward(x):
    return x, None


def _join_backward(_, gradient):
    # With two axes, as the following matrix products take it: other shapes would need another copy.
    flat = lax.optimization_barrier(gradient.reshape(-1, gradient.shape[-1]))
    return (flat.reshape(gradient.shape),)


_join_gradients_once.defvjp(_join_forward, _join_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend_transposed(query, key, value, bias, accum_dtype):
    """Attention of t windows with n pixels, from three [t, n, heads, d] and None or [t, n].

    The window's pixels are kept along the last axis: products are then 64 numbers wide, where a
    head has 10 to 30 channels, and sums over keys are sums of rows. The output is divided by the
    sums of the weights, not the weights themselves; the sums come from an additional channel of
    ones in the values. The backward pass needs, for each query, the sum of weights times their
    gradients. This equals the product of the output and its gradient (as in Dao et al.,
    FlashAttention, 2022, appendix B), which the additional channel subtracts.
    """
    return _transposed_forward(query, key, value, bias, accum_dtype)[0]


def _transposed_forward(query, key, value, bias, accum_dtype):
    t, _, heads, d = query.shape
    query = _channels_first(query * d**-0.5)
    key = _per_head(key)
    value = _channels_first(value)
    value = jnp.concatenate([value, jnp.ones_like(value[:, :1])], axis=1)
    scores = jnp.einsum("tjd,tdi->tji", key, query, preferred_element_type=accum_dtype)
    if bias is not None:
        scores = scores + bias.repeat(heads, axis=0)[..., None]
    weights = jnp.exp(scores - scores.max(axis=1, keepdims=True)).astype(value.dtype)
    sums = jnp.einsum("tdj,tji->tdi", value, weights, preferred_element_type=accum_dtype)
    y, total = sums[:, :d] / sums[:, d:], sums[:, d:]
    saved = query, key, value, weights, y, total
    return _channels_last(y.astype(query.dtype), t), saved


def _transposed_backward(accum_dtype, saved, gradient):
    query, key, value, weights, y, total = saved
    (t, _, _, d), stored = gradient.shape, query.dtype
    gradient = _channels_first(gradient).astype(accum_dtype) / total
    along = (gradient * y).sum(axis=1, keepdims=True)
    # The barriers force XLA to write the transposed maps, so that it selects the faster products.
    value, key = lax.optimization_barrier((value.swapaxes(1, 2), key.swapaxes(1, 2)))
    # In full precision, as it subtracts numbers that may be close to each other.
    extended = jnp.concatenate([gradient, -along], axis=1)
    to_weights = jnp.einsum("tjd,tdi->tji", value.astype(accum_dtype), extended)
    to_scores = (weights.astype(accum_dtype) * to_weights).astype(stored)
    gradient = gradient.astype(stored)
    to_query = jnp.einsum("tdj,tji->tdi", key, to_scores)
    to_key = jnp.einsum("tji,tdi->tjd", to_scores, query)
    to_value = jnp.einsum("tji,tdi->tjd", weights, gradient)
    to_query = _channels_last(to_query * d**-0.5, t)
    to_key, to_value = (x.reshape(t, -1, *x.shape[1:]).swapaxes(1, 2) for x in (to_key, to_value))
    return to_query, to_key, to_value, None  # the bias is a constant


_attend_transposed.defvjp(_transposed_forward, _transposed_backward)


def _per_head(x: jax.Array) -> jax.Array:
    """[t, n, heads, d] -> [t * heads, n, d]."""
    x = x.swapaxes(1, 2)
    return x.reshape(-1, *x.shape[2:])


def _channels_first(x: jax.Array) -> jax.Array:
    """[t, n, heads, d] -> [t * heads, d, n]."""
    x = x.transpose(0, 2, 3, 1)
    return x.reshape(-1, *x.shape[2:])


def _channels_last(x: jax.Array, windows: int) -> jax.Array:
    """The inverse of `_channels_first`."""
    return x.reshape(windows, -1, *x.shape[1:]).transpose(0, 3, 1, 2)
