"""The training state and its update."""

from collections.abc import Callable, Iterable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

NOT_FINITE_ADVICE = (
    "Training stopped; the last checkpoint is kept. Try a smaller learning_rate, or clip_norm, of "
    "the optimizer, and continue with --config.checkpoint.allow_config_change=True; or look for "
    "values that are not finite in the data"
)


@flax.struct.dataclass
class TrainState:
    """State of a run; every leaf is an array, so it can be checkpointed directly.

    Attributes:
        step: int32 scalar, number of optimisation steps done.
        params: {"network": ..., "classifier": ..., "reconstruction": ...}, the last two if used.
            Parts without an optimiser are frozen.
        optimizer: optimiser state of each trained part, under the same names.
        ema: exponential moving average of the parameters, under the same names; {} without EMA.
        rng: base key of all randomness inside a step; folded with the step number.
    """

    step: jax.Array
    params: dict[str, Any]
    optimizer: dict[str, Any]
    ema: dict[str, Any]
    rng: jax.Array

    def averaged_params(self) -> dict[str, Any]:
        """Parameters for use outside training: the moving average where there is one."""
        return {**self.params, **self.ema}


def create_state(
    params: dict[str, Any],
    optimizers: dict[str, optax.GradientTransformation],
    *,
    rng: jax.Array,
    averaged: Iterable[str] = (),
) -> TrainState:
    """Returns the state at step 0."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer={name: optimizers[name].init(params[name]) for name in optimizers},
        ema={name: jax.tree.map(jnp.copy, params[name]) for name in averaged},
        rng=rng,
    )


def apply_gradients(
    state: TrainState,
    gradients: dict[str, Any],
    optimizers: dict[str, optax.GradientTransformation],
    *,
    ema_decay: float = 0.0,
) -> TrainState:
    """Updates every part that has an optimiser, then the moving average.

    `ema = decay * ema + (1 - decay) * params` after each step, without warm-up or correction.
    """
    params, optimizer_states = dict(state.params), {}
    for name, optimizer in optimizers.items():
        updates, optimizer_states[name] = optimizer.update(
            gradients[name], state.optimizer[name], params[name]
        )
        params[name] = optax.apply_updates(params[name], updates)
    ema = {
        name: jax.tree.map(lambda e, p: ema_decay * e + (1 - ema_decay) * p, average, params[name])
        for name, average in state.ema.items()
    }
    return state.replace(step=state.step + 1, params=params, optimizer=optimizer_states, ema=ema)


Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]
