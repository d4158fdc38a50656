"""Norms over the channels of each pixel, with a backward pass that XLA runs fast on CPUs."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from dcpt_jax.models.convolutions import Formulation, formulation
from dcpt_jax.models.folding import Normed
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

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., c] -> [..., c] in `dtype`."""
        return self.for_kernel(x).done().astype(self.dtype)

    @nn.compact
    def for_kernel(self, x: jax.Array) -> Normed:
        """The same for a 1x1 convolution or linear layer, which applies scale and bias itself."""
        stored = parameter_dtype(self.dtype)
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), stored)
        bias = None
        if self.centred:
            bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), stored)
        # Rounded first, so that a norm sees the same whether or not a caller rounded before it.
        wide = x.astype(self.dtype).astype(stored)
        return Normed(normalise(wide, self.epsilon, centred=self.centred), scale, bias)


def normalise(
    x: jax.Array, epsilon: float, *, centred: bool, how: Formulation | None = None
) -> jax.Array:
    """Divides each row by its standard deviation.

    Args:
        x: [..., c] in the dtype for the statistics.
        epsilon: added to the variance.
        centred: whether to subtract the mean.
        how: formulation, see `convolutions`; "slices" has its own backward pass, for which only the
            result and one number a row are kept.

    Returns:
        [..., c] in the dtype of x.
    """
    if (how or formulation("norm")) == "convolution":
        return _normal_and_inverse(x, epsilon, centred)[0]
    return _normal_rows(x.reshape(-1, x.shape[-1]), epsilon, centred).reshape(x.shape)


def _normal_and_inverse(x: jax.Array, epsilon: float, centred: bool) -> tuple[jax.Array, jax.Array]:
    """What `normalise` gives, and one divided by the deviations, [..., 1]."""
    mean = x.mean(axis=-1, keepdims=True)
    inverse = lax.rsqrt(jnp.square(x - mean).mean(axis=-1, keepdims=True) + epsilon)
    return (x - mean if centred else x) * inverse, inverse


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _normal_rows(x, epsilon, centred):
    return _normal_and_inverse(x, epsilon, centred)[0]


def _forward(x, epsilon, centred):
    normal, inverse = _normal_and_inverse(x, epsilon, centred)
    return normal, (normal, inverse)


def _backward(epsilon, centred, saved, gradient):
    normal, inverse = saved[0], lax.optimization_barrier(saved[1])
    along = (gradient * normal).mean(axis=-1, keepdims=True)
    if centred:
        gradient = gradient - gradient.mean(axis=-1, keepdims=True)
    else:
        normal = normal - normal.mean(axis=-1, keepdims=True)
    return (inverse * (gradient - normal * along),)


_normal_rows.defvjp(_forward, _backward)
