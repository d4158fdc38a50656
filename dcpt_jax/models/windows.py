"""Attention inside the windows of an image, as SwinIR uses it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from dcpt_jax.models.convolutions import Formulation, formulation, in_parts


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
    qkv: Sequence[jax.Array],
    heads: int,
    wide: jnp.dtype,
    visible: jax.Array | None = None,
    *,
    how: Formulation | None = None,
) -> jax.Array:
    """Softmax attention between the pixels of each window.

    Args:
        qkv: queries, keys and values of all windows: three [b, rows, columns, pixels of a window,
            c], or one with 3c.
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
    maps, bias = list(in_parts(qkv, 3)), None
    if visible is not None:
        maps = [jnp.where(visible[..., None] > 0, x, jnp.zeros((), x.dtype)) for x in maps]
        # Finite, so that where no key is visible, and all get the same, the softmax is finite too.
        bias = jnp.where(visible > 0, 0, jnp.finfo(wide).min / 2).astype(wide)
    sliced = (how or formulation()) == "slices"
    attend = _attend_transposed if sliced else _attend
    parts = math.gcd(maps[0].shape[1], 8) if sliced else 1
    if parts > 1:
        maps = [_join_gradients_once(x) for x in maps]

    def attend_to_part(query, key, value, bias):
        *shape, n, c = query.shape
        cells = (x.reshape(-1, n, heads, c // heads) for x in (query, key, value))
        y = attend(*cells, None if bias is None else bias.reshape(-1, n), wide)
        return y.reshape(*shape, n, c)

    split = [[None] * parts if x is None else jnp.split(x, parts, axis=1) for x in (*maps, bias)]
    return jnp.concatenate([attend_to_part(*part) for part in zip(*split, strict=True)], axis=1)


@jax.custom_vjp
def _join_gradients_once(x: jax.Array) -> jax.Array:
    """Gives x [..., c], whose gradient comes in parts that XLA else joins anew for each use."""
    return x


def _join_forward(x):
    return x, None


def _join_backward(_, gradient):
    # On two axes, as the matrix products behind it take it: another shape would be another copy.
    flat = lax.optimization_barrier(gradient.reshape(-1, gradient.shape[-1]))
    return (flat.reshape(gradient.shape),)


_join_gradients_once.defvjp(_join_forward, _join_backward)


def _attend(query, key, value, bias, wide):
    """Attention of t windows with n pixels: three [t, n, heads, d], and None or [t, n], to one."""
    scores = jnp.einsum(
        "tihd,tjhd->thij", query * query.shape[-1] ** -0.5, key, preferred_element_type=wide
    )
    if bias is not None:
        scores = scores + bias[:, None, None, :]
    weights = nn.softmax(scores).astype(query.dtype)
    return jnp.einsum("thij,tjhd->tihd", weights, value)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend_transposed(query, key, value, bias, wide):
    """The same as `_attend`, as XLA runs it fast on CPUs.

    All is kept with a window's pixels along the last axis: products are then 64 numbers wide, where
    a head has 10 to 30 channels, and sums over keys are sums of rows. The weights are not divided
    by their sums; that is done to the output, and the sums are the product with one more channel of
    ones in the values. The backward pass needs for each query the sum of weights times their
    gradients; that is the product of the output and its gradient (as in Dao et al., FlashAttention,
    2022, appendix B), and subtracting it is once more that channel's product.
    """
    return _transposed_forward(query, key, value, bias, wide)[0]


def _transposed_forward(query, key, value, bias, wide):
    t, _, heads, d = query.shape
    query = _channels_first(query * d**-0.5)
    key = _per_head(key)
    value = _channels_first(value)
    value = jnp.concatenate([value, jnp.ones_like(value[:, :1])], axis=1)
    scores = jnp.einsum("tjd,tdi->tji", key, query, preferred_element_type=wide)
    if bias is not None:
        scores = scores + bias.repeat(heads, axis=0)[..., None]
    weights = jnp.exp(scores - scores.max(axis=1, keepdims=True)).astype(value.dtype)
    sums = jnp.einsum("tdj,tji->tdi", value, weights, preferred_element_type=wide)
    y, total = sums[:, :d] / sums[:, d:], sums[:, d:]
    saved = query, key, value, weights, y, total
    return _channels_last(y.astype(query.dtype), t), saved


def _transposed_backward(wide, saved, gradient):
    query, key, value, weights, y, total = saved
    (t, _, _, d), stored = gradient.shape, query.dtype
    gradient = _channels_first(gradient).astype(wide) / total
    along = (gradient * y).sum(axis=1, keepdims=True)
    # Behind barriers the transposed maps are written out, and the products take the faster way.
    value, key = lax.optimization_barrier((value.swapaxes(1, 2), key.swapaxes(1, 2)))
    # In full precision, as it subtracts numbers that may be close.
    extended = jnp.concatenate([gradient, -along], axis=1)
    to_weights = jnp.einsum("tjd,tdi->tji", value.astype(wide), extended)
    to_scores = (weights.astype(wide) * to_weights).astype(stored)
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
