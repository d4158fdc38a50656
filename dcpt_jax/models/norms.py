"""Norms over the channels of each pixel, with backward passes that XLA runs fast on CPUs."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from dcpt_jax.models.convolutions import Formulation, formulation
from dcpt_jax.models.layers import parameter_dtype


class LayerNorm(nn.Module):
    """Layer norm over the channels of each pixel; statistics in float32 or, in float64, float64.

    Parameters: `scale` [c] and, if `centred`, `bias` [c]. Ba et al., Layer Normalization (2016);
    biased variance, `epsilon` inside the root. Not `centred`, it divides by the same deviation but
    subtracts no mean: the bias-free norm of Restormer.
    """

    epsilon: float = 1e-6
    centred: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., c] -> [..., c] in `dtype`."""
        stored = parameter_dtype(self.dtype)
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), stored)
        bias = None
        if self.centred:
            bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), stored)
        return layer_norm(x.astype(self.dtype), scale, bias, self.epsilon)


def layer_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array | None,
    epsilon: float,
    *,
    how: Formulation | None = None,
) -> jax.Array:
    """Layer norm over the last axis.

    Args:
        x: [..., c].
        scale: [c], in the dtype for the statistics.
        bias: [c], likewise; None also leaves the mean where it is.
        epsilon: added to the variance.
        how: formulation, see `convolutions`; "slices" has its own backward pass.

    Returns:
        [..., c] in the dtype of x.
    """
    wide = x.astype(scale.dtype)
    if (how or formulation()) == "convolution":
        mean, inverse = _statistics(wide, epsilon)
        normal = wide * inverse * scale if bias is None else (wide - mean) * inverse * scale + bias
    else:
        rows = wide.reshape(-1, x.shape[-1])
        if bias is None:
            normal = _scale_norm_of_rows(rows, scale, epsilon).reshape(x.shape)
        else:
            normal = _layer_norm_of_rows(rows, scale, bias, epsilon).reshape(x.shape)
    return normal.astype(x.dtype)


def _statistics(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    mean = x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
    return mean, lax.rsqrt(variance + epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm_of_rows(x, scale, bias, epsilon):
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
    # Behind a barrier, here and below, the statistics are one number a row; left alone, XLA on
    # CPUs writes each of them out as a map with all channels.
    mean, inverse = lax.optimization_barrier(_statistics(x, epsilon))
    return (x - mean) * inverse * scale + bias, (x, scale, mean, inverse)


def _layer_norm_backward(epsilon, saved, gradient):
    x, scale, mean, inverse = saved
    normal = (x - mean) * inverse
    product = lax.optimization_barrier(gradient * normal)
    # Sums over channels as matrix products: reductions would first write `scale` out for each row.
    sums = gradient @ scale[:, None], product @ scale[:, None]
    offset, along = (total / x.shape[-1] for total in lax.optimization_barrier(sums))
    to_x = inverse * (gradient * scale - offset - normal * along)
    return to_x, product.sum(axis=0), gradient.sum(axis=0)


_layer_norm_of_rows.defvjp(_layer_norm_forward, _layer_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _scale_norm_of_rows(x, scale, epsilon):
    return _scale_norm_forward(x, scale, epsilon)[0]


def _scale_norm_forward(x, scale, epsilon):
    mean, inverse = lax.optimization_barrier(_statistics(x, epsilon))
    return x * inverse * scale, (x, scale, mean, inverse)


def _scale_norm_backward(epsilon, saved, gradient):
    x, scale, mean, inverse = saved
    product = lax.optimization_barrier(gradient * x * inverse)
    along = lax.optimization_barrier(product @ scale[:, None]) / x.shape[-1]
    to_x = inverse * (gradient * scale - (x - mean) * inverse * along)
    return to_x, product.sum(axis=0)


_scale_norm_of_rows.defvjp(_scale_norm_forward, _scale_norm_backward)
