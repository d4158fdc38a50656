"""A row of equal blocks.

The blocks are written out one after another. A `lax.scan` over their stacked parameters is no gain
on two cores: the full NAFNet's step (28 blocks) compiled in 38 s in place of 24 s and took twice as
long, the full Restormer's three times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from dcpt_jax.models.convolutions import PRODUCT, Formulation, formulation

# From this many repetitions on, the parameters of a row are drawn together: XLA takes about 0.1 s
# to compile each drawing of random numbers, and a large network has hundreds.
DRAW_FROM = 3


class Stage(nn.Module):
    """Several blocks in a row, `block_0`, `block_1`, ...; [b, h, w, c] -> [b, h, w, c].

    Attributes:
        blocks: number of blocks.
        kinds: functions that make a block from the keyword arguments `name` and `parent`; they take
            turns (SwinIR's windows are shifted in every second block).
        remat: whether to compute each block's inner values again in the backward pass instead of
            keeping them (Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016).
    """

    blocks: int
    kinds: tuple[Callable[..., nn.Module], ...]
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array | None = None) -> jax.Array:
        """Applies the blocks one after another; `visible` as in the `masking` module."""
        return self.run(x, visible)

    def run(self, x: jax.Array, visible: jax.Array | None) -> jax.Array:
        """The blocks alone, for stages with more in them; call it from a compact method."""
        repeats, rest = divmod(self.blocks, len(self.kinds))
        if self.is_initializing() and repeats >= DRAW_FROM and not rest:
            self._draw(x, repeats)
            return x  # of the right shape and dtype, which is all that initialising looks at
        for i in range(self.blocks):
            make = self.kinds[i % len(self.kinds)]
            recompute = self.remat or formulation("block") == "products"
            if recompute and not self.is_initializing():
                params = self.variables["params"][f"block_{i}"]
                applied = _applied(make(parent=None))
                keep = rematerialised if self.remat else products_kept
                x = keep(applied)(params, (x, visible))
            else:
                x = make(name=f"block_{i}")(x, visible)
        return x

    def _draw(self, x: jax.Array, repeats: int) -> None:
        """Makes the parameters of all blocks, of each kind at once."""
        for k, make in enumerate(self.kinds):
            block = make(parent=None)
            keys = jax.random.split(self.make_rng("params"), repeats)
            draw = jax.vmap(lambda key, x, block=block: block.init(key, x)["params"], (0, None))
            drawn = jax.jit(draw)(keys, x)  # jitted, so that only the parameters are computed
            for i in range(repeats):
                one = jax.tree.map(lambda leaf, i=i: leaf[i], drawn)
                self.param(f"block_{i * len(self.kinds) + k}", lambda _, one=one: one)


def rematerialised(
    function: Callable[[Any, Any], jax.Array], *, how: Formulation | None = None
) -> Callable[[Any, Any], jax.Array]:
    """The same function of (params, x), of which the backward pass keeps nothing but those two.

    Args:
        function: (params, x) -> array; both trees of floating-point arrays.
        how: "convolution" is `jax.checkpoint`; "slices" is for CPUs, whose XLA merges what that
            computes again with the first time, so that nothing is saved. There, computing again
            stands in one branch of a condition, which keeps it apart: eight Restormer blocks at
            128x128 then take 134 MB in place of 749. None asks `formulation()`.
    """
    if (how or formulation()) == "convolution":
        return jax.checkpoint(function)

    @jax.custom_vjp
    def apply(params, x):
        return function(params, x)

    def forward(params, x):
        return function(params, x), (params, x)

    def again(params, x, gradient):
        return jax.vjp(function, params, x)[1](gradient)

    def never(params, x, gradient):
        del gradient
        return jax.tree.map(jnp.zeros_like, (params, x))

    def backward(saved, gradient):
        # Nothing is larger than infinity, but XLA does not know that.
        impossible = gradient.ravel()[0] > jnp.inf
        return lax.cond(impossible, never, again, *saved, gradient)

    apply.defvjp(forward, backward)
    return apply


def products_kept(function: Callable[[Any, Any], jax.Array]) -> Callable[[Any, Any], jax.Array]:
    """The same function, of which the backward pass keeps the results of convolutions and products.

    Everything between them (norms, gates, biases, factors) is computed again, in the kernels that
    need it. JAX would keep several float32 maps of each norm instead.

    Args:
        function: (params, x) -> array; both trees of floating-point arrays.
    """
    return jax.checkpoint(function, policy=_is_product)


def _is_product(primitive: Any, *_: Any, **parameters: Any) -> bool:
    products = (lax.conv_general_dilated_p, lax.dot_general_p)
    return primitive in products or parameters.get("name") == PRODUCT


def _applied(block: nn.Module) -> Callable[[Any, Any], jax.Array]:
    return lambda params, inputs: block.apply({"params": params}, *inputs)
