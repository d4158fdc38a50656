"""A sequence of equal blocks.

The blocks are unrolled. On two cores a `lax.scan` over stacked parameters was slower: the full
NAFNet's step (28 blocks) compiled in 38 s instead of 24 s and took twice as long, the full
Restormer's three times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from dcpt_jax.models import cpu
from dcpt_jax.models.formulation import (
    ACCELERATOR,
    by_platform,
    checkpointed,
    formulated,
    on_cpu,
)

# From this number of equal blocks their parameters are drawn together: XLA takes about 0.1 s to
# compile each random draw, and a large network has hundreds.
DRAW_FROM = 3


class Stage(nn.Module):
    """A sequence of blocks, `block_0`, `block_1`, ...; [b, h, w, c] -> [b, h, w, c].

    Attributes:
        blocks: number of blocks.
        kinds: functions that make a block from the keyword arguments `name` and `parent`, used in
            turn (SwinIR shifts the windows of every second block).
        remat: whether to recompute each block's activations in the backward pass instead of
            keeping them (Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016).
    """

    blocks: int
    kinds: tuple[Callable[..., nn.Module], ...]
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array | None = None) -> jax.Array:
        """Applies the blocks in sequence; for `visible` see `masking`."""
        return self.run(x, visible)

    def run(self, x: jax.Array, visible: jax.Array | None) -> jax.Array:
        """Applies only the blocks; call it in a compact method of a subclass."""
        repeats, rest = divmod(self.blocks, len(self.kinds))
        if self.is_initializing() and repeats >= DRAW_FROM and not rest:
            self._draw(x, repeats)
        # One function for each kind, so that JAX traces equal blocks only once.
        functions = [block_function(make(parent=None), self.remat) for make in self.kinds]
        for i in range(self.blocks):
            k = i % len(self.kinds)
            block = self.kinds[k](name=f"block_{i}")
            x = run_block(block, x, visible, functions[k])
        return x

    def _draw(self, x: jax.Array, repeats: int) -> None:
        """Creates the parameters of all blocks, together for each kind."""
        for k, make in enumerate(self.kinds):
            block = make(parent=None)
            keys = jax.random.split(self.make_rng("params"), repeats)
            draw = jax.vmap(lambda key, x, block=block: block.init(key, x)["params"], (0, None))
            with formulated(ACCELERATOR):
                drawn = jax.jit(draw)(keys, x)  # jitted: computes only the parameters
            for i in range(repeats):
                block_params = jax.tree.map(lambda leaf, i=i: leaf[i], drawn)
                self.put_variable("params", f"block_{i * len(self.kinds) + k}", block_params)


def block_function(block: nn.Module, remat: bool = False) -> Callable[..., jax.Array]:
    """A function of (params, (x, visible)) that runs a block in the platform's formulation."""

    def apply(params: Any, inputs: Any) -> jax.Array:
        return block.apply({"params": params}, *inputs)

    def compute(params: Any, inputs: Any) -> jax.Array:
        if not remat:
            return checkpointed(apply)(params, inputs)
        return (cpu.rematerialised if on_cpu() else jax.checkpoint)(apply)(params, inputs)

    @jax.jit
    def run(params: Any, inputs: Any) -> jax.Array:
        return by_platform(compute, params, inputs)

    return run


def run_block(
    block: nn.Module,
    x: jax.Array,
    visible: jax.Array | None,
    function: Callable[..., jax.Array],
) -> jax.Array:
    """Runs a block by its `block_function`.

    While parameters are initialised or intermediates captured, the block itself runs, so that its
    parent sees them. Captured values are kept, so there is nothing to recompute.
    """
    params = block.variables.get("params")
    if block.is_initializing():
        with formulated(ACCELERATOR):  # tracing a single formulation takes half the time
            return block(x, visible)
    if params is None or block.is_mutable_collection("intermediates"):
        return block(x, visible)
    return function(params, (x, visible))
