"""Row normalisation whose backward pass keeps only the result and one number per row."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax


def normalise(x: jax.Array, epsilon: float, centred: bool) -> jax.Array:
    """Divides each row of [..., c] by its standard deviation; `centred` subtracts the mean."""
    return _normal_rows(x.reshape(-1, x.shape[-1]), epsilon, centred).reshape(x.shape)


def _normal_and_inverse(x: jax.Array, epsilon: float, centred: bool) -> tuple[jax.Array, jax.Array]:
    """The result of `normalise`, and the reciprocals of the deviations, [..., 1]."""
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
