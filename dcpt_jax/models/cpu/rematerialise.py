"""Recomputation in the backward pass that XLA on CPUs does not undo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dcpt_jax.models.formulation import CPU, formulated


def rematerialised(function: Callable[[Any, Any], jax.Array]) -> Callable[[Any, Any], jax.Array]:
    """The same function of (params, inputs), which keeps only those two for the backward pass.

    XLA on CPUs merges what `jax.checkpoint` recomputes with the forward pass, so that no memory is
    saved. Here the recomputation is in one branch of a condition, which keeps it apart: eight
    Restormer blocks at 128x128 then take 134 MB instead of 749.
    """

    def run(params, inputs):
        with formulated(CPU):  # JAX traces the backward pass later, outside the caller's
            return function(params, inputs)

    apply = jax.custom_vjp(run)

    def forward(params, inputs):
        return run(params, inputs), (params, inputs)

    def again(params, inputs, gradient):
        return jax.vjp(run, params, inputs)[1](gradient)

    def never(params, inputs, gradient):
        del gradient
        return jax.tree.map(jnp.zeros_like, (params, inputs))

    def backward(saved, gradient):
        # Nothing is larger than infinity, but XLA does not know that.
        impossible = gradient.ravel()[0] > jnp.inf
        return lax.cond(impossible, never, again, *saved, gradient)

    apply.defvjp(forward, backward)
    return apply
