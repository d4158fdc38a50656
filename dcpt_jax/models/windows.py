"""Attention inside the windows of an image, as SwinIR uses it."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcpt_jax.models.convolutions import Formulation, formulation


def cut_windows(x: jax.Array, window: int, shift: int) -> jax.Array:
    """Rolls the image by `shift` up and to the left, and cuts it.

    Returns:
        [b, h, w, c] -> [b, h / window, w / window, window * window, c].
    """
    b, h, w, c = x.shape
    cells = jnp.roll(x, (-shift, -shift), axis=(1, 2))
    cells = cells.reshape(b, h // window, window, w // window, window, c).swapaxes(2, 3)
    return cells.reshape(b, h // window, w // window, window * window, c)


def join_windows(windows: jax.Array, window: int, shift: int) -> jax.Array:
    """The inverse of `cut_windows`."""
    b, rows, columns, _, c = windows.shape
    cells = windows.reshape(b, rows, columns, window, window, c).swapaxes(2, 3)
    image = cells.reshape(b, rows * window, columns * window, c)
    return jnp.roll(image, (shift, shift), axis=(1, 2))


def attend_in_windows(
    qkv: jax.Array,
    heads: int,
    wide: jnp.dtype,
    visible: jax.Array | None = None,
    *,
    how: Formulation | None = None,
) -> jax.Array:
    """Softmax attention between the pixels of each window.

    Args:
        qkv: [b, rows, columns, pixels of a window, 3c]: queries, keys and values of all windows.
        heads: attention heads.
        wide: dtype of scores and softmax.
        visible: None, or [b, rows, columns, pixels of a window], 0 for pixels that get no weight. A
            window that has no others becomes zero.
        how: formulation, see `convolutions`. "slices" goes through the rows of windows in up to
            eight parts: XLA works on the many small products of a part on one core only, but on
            several parts at a time.

    Returns:
        [b, rows, columns, pixels of a window, c] in the dtype of `qkv`.
    """
    rows = qkv.shape[1]
    parts = 1 if (how or formulation()) == "convolution" else math.gcd(rows, 8)

    def attend(part: jax.Array, visible: jax.Array | None) -> jax.Array:
        bias = None
        if visible is not None:
            part = jnp.where(visible[..., None] > 0, part, jnp.zeros((), part.dtype))
            bias = hidden_keys_bias(visible, heads, wide)
        shape = part.shape[:-1]
        cells = part.reshape(-1, shape[-1], 3, heads, part.shape[-1] // 3 // heads)
        # -> [3, windows and heads, pixels of a window, channels of a head]
        cells = cells.transpose(2, 0, 3, 1, 4)
        query, key, value = cells.reshape(3, -1, *cells.shape[-2:])
        y = softmax_attention(query * cells.shape[-1] ** -0.5, key, value, wide, bias)
        return y.reshape(cells.shape[1:]).swapaxes(1, 2).reshape(*shape, -1)

    masks = [None] * parts if visible is None else jnp.split(visible, parts, axis=1)
    split = zip(jnp.split(qkv, parts, axis=1), masks, strict=True)
    return jnp.concatenate([attend(part, mask) for part, mask in split], axis=1)


def hidden_keys_bias(visible: jax.Array, heads: int, wide: jnp.dtype) -> jax.Array:
    """What leaves hidden keys no weight: [b, rows, columns, n] -> [windows and heads, 1, n].

    It is finite, so that in a window without visible keys, where all get the same, the softmax is
    finite too.
    """
    bias = jnp.where(visible > 0, 0, jnp.finfo(wide).min / 2).astype(wide)
    return bias.reshape(-1, 1, visible.shape[-1]).repeat(heads, axis=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def softmax_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    wide: jnp.dtype,
    bias: jax.Array | None = None,
) -> jax.Array:
    """softmax(query key^T + bias) value for each of t windows: three [t, n, d] -> [t, n, d].

    `wide` is the dtype of scores and softmax, `bias` a constant [t, 1, n], or None for none. The
    backward pass needs the sum of each row of weights times their gradients; as in Dao et al.,
    FlashAttention (2022, appendix B), it takes the product of output and its gradient, which has d
    columns and not n: row sums are slow on CPUs.
    """
    return _attention_forward(query, key, value, wide, bias)[0]


def _attention_forward(query, key, value, wide, bias):
    scores = jnp.einsum("tid,tjd->tij", query, key, preferred_element_type=wide)
    if bias is not None:
        scores = scores + bias
    weights = nn.softmax(scores).astype(query.dtype)
    y = jnp.einsum("tij,tjd->tid", weights, value)
    return y, (query, key, value, weights, y)


def _attention_backward(wide, saved, gradient):
    query, key, value, weights, y = saved
    to_value = jnp.einsum("tij,tid->tjd", weights, gradient)
    to_weights = jnp.einsum("tid,tjd->tij", gradient, value, preferred_element_type=wide)
    along = (gradient.astype(wide) * y.astype(wide)).sum(axis=-1, keepdims=True)
    to_scores = (weights.astype(wide) * (to_weights - along)).astype(query.dtype)
    to_query = jnp.einsum("tij,tjd->tid", to_scores, key)
    to_key = jnp.einsum("tij,tid->tjd", to_scores, query)
    return to_query, to_key, to_value, None  # the bias is a constant


softmax_attention.defvjp(_attention_forward, _attention_backward)
