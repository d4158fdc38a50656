"""Our networks for `benchmarks.models`, compiled and ready to be timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.cases import images
from dcpt_jax.models import create_model


def make(
    architecture: str,
    arguments: dict[str, Any],
    batch: int,
    size: int,
    *,
    dtype: str,
    remat: bool = False,
) -> tuple[dict[str, Callable[[], None]], dict[str, Any]]:
    """Compiles a network; returns functions for single runs, and the costs of compiling.

    Args:
        architecture: name of the network in `create_model`.
        arguments: arguments that differ from its defaults.
        batch: number of images in a batch.
        size: height and width of the images.
        dtype: "float32" or "bfloat16".
        remat: whether activations in blocks are recomputed in the backward pass.

    Returns:
        Functions for "forward" and "training step", which return when the device is done; and
        facts: all "arguments" of the network, "backend" and "device", and costs of compiling.
    """
    # Programs from a cache would hide the compile time.
    jax.config.update("jax_enable_compilation_cache", False)
    model = create_model(architecture, dtype=dtype, remat=remat, **arguments)
    degraded, clean = map(jnp.asarray, images(batch, size))
    forward, step, optimizer = programs(model)

    def initialise(key, image):
        return model.init(key, image)["params"]

    start = time.perf_counter()
    smallest = degraded[:1, : model.size_multiple, : model.size_multiple]
    params = jax.block_until_ready(jax.jit(initialise)(jax.random.key(0), smallest))
    facts = {
        "arguments": model.arguments(),
        "backend": jax.default_backend(),
        "device": f"jax {jax.__version__} on {jax.devices()[0].device_kind}",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "initialise: trace, compile and run s": time.perf_counter() - start,
    }
    state = optimizer.init(params)
    compiled = {}
    for program, function, inputs, donated in (
        ("forward", forward, (params, degraded), ()),
        ("training step", step, (params, state, degraded, clean), (0, 1)),
    ):
        _, compiled[program], costs = compile_timed(function, *inputs, donated=donated)
        facts |= {f"{program}: {name}": value for name, value in costs.items()}

    # A step donates its state, so the forward pass has its own copy of the parameters.
    host_params, carried = jax.tree.map(jnp.copy, params), [params, state]

    def run_forward():
        jax.block_until_ready(compiled["forward"](host_params, degraded))

    def run_step():
        *carried[:], value = compiled["training step"](*carried, degraded, clean)
        jax.block_until_ready((carried, value))

    return {"forward": run_forward, "training step": run_step}, facts


def programs(model: Any) -> tuple[Callable, Callable, optax.GradientTransformation]:
    """Functions for a forward pass and a training step (L1 and AdamW), and the optimizer."""
    optimizer = optax.adamw(3e-4)

    def forward(params, degraded):
        return model.apply({"params": params}, degraded)

    def step(params, state, degraded, clean):
        def loss(params):
            return jnp.abs(forward(params, degraded) - clean).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    return forward, step, optimizer


def compile_timed(function: Callable, *inputs: Any, donated: tuple[int, ...] = ()) -> Any:
    """Compiles a function for given inputs, and measures the costs.

    Returns:
        The traced and the compiled program; the seconds for tracing (to JAX's and then XLA's
        program) and for compiling; and the memory in megabytes: "temporary" in addition to inputs
        and outputs, "peak" in total.
    """
    start = time.perf_counter()
    lowered = jax.jit(function, donate_argnums=donated).lower(*inputs)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    memory = compiled.memory_analysis()
    peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    peak += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return (
        lowered,
        compiled,
        {
            "trace s": traced - start,
            "compile s": done - traced,
            "temporary MB": memory.temp_size_in_bytes / 1e6,
            "peak MB": peak / 1e6,
        },
    )
