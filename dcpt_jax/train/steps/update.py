"""Builds a training step from a loss function: gradients, accumulation, update."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dcpt_jax.train.state import Metrics, Step, TrainState, apply_gradients

Batch = Mapping[str, jax.Array]
# (batch, random key of the step) -> batch for the loss function.
Prepare = Callable[[Batch, jax.Array], Batch]
LossFunction = Callable[[dict[str, Any], Batch], tuple[jax.Array, Metrics]]


def make_step(
    loss_fn: LossFunction,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    ema_decay: float = 0.0,
    accumulate_steps: int = 1,
    finish: Callable[[Metrics], Metrics] = dict,
    prepare: Prepare | None = None,
) -> Step:
    """Builds the step that minimises a loss.

    With `accumulate_steps` = n > 1 the batch is processed in n equal parts, one after another, and
    their gradients are averaged before a single update. Since loss and metrics are means over the
    batch, the result is that of the whole batch up to rounding, with the activations of only one
    part in memory.

    Args:
        loss_fn: (parameters of all parts, {"network": ..., ...}, batch) -> (loss, metrics), all of
            them means over the batch.
        optimizers: by trained part.
        ema_decay: decay of the moving averages in the state.
        accumulate_steps: n; must divide the batch, and the batch of each device.
        finish: maps the mean metrics of a whole batch to those that the step returns.
        prepare: draws the random inputs of the step for the whole batch, so that they do not depend
            on how the batch is split.

    Returns:
        A step whose metrics are those of `finish` and the norm of each part's gradient, before
        any clipping.
    """

    def gradients_and_metrics(params: dict[str, Any], batch: Batch) -> tuple[Any, Metrics]:
        def loss_of(learning: dict[str, Any]) -> tuple[jax.Array, Metrics]:
            return loss_fn({**params, **learning}, batch)

        return jax.grad(loss_of, has_aux=True)({name: params[name] for name in optimizers})

    def accumulated(params: dict[str, Any], batch: Batch) -> tuple[Any, Metrics]:
        parts = {key: _parts(key, value, accumulate_steps) for key, value in batch.items()}
        first = {key: value[0] for key, value in parts.items()}
        shapes = jax.eval_shape(gradients_and_metrics, params, first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def add(sums: Any, part: Batch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, gradients_and_metrics(params, part)), None

        sums, _ = jax.lax.scan(add, zeros, parts)
        return jax.tree.map(lambda x: x / accumulate_steps, sums)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if prepare is not None:
            batch = prepare(batch, jax.random.fold_in(state.rng, state.step))
        compute = accumulated if accumulate_steps > 1 else gradients_and_metrics
        gradients, metrics = compute(state.params, batch)
        metrics = finish(metrics)
        metrics |= {
            f"gradient_norm_{name}": optax.tree.norm(gradients[name]) for name in optimizers
        }
        return apply_gradients(state, gradients, optimizers, ema_decay=ema_decay), metrics

    return step


def _parts(key: str, value: jax.Array, count: int) -> jax.Array:
    """[b, ...] -> [count, b / count, ...]: entry i goes to part i % count.

    Each device holds a run of consecutive entries, so it has its share of every part and nothing
    has to move between devices.
    """
    size = value.shape[0]
    if size % count:
        raise ValueError(f"accumulate_steps = {count} does not divide {key!r}, a batch of {size}")
    return value.reshape(size // count, count, *value.shape[1:]).swapaxes(0, 1)
