"""AdamW and learning-rate schedules, as used by the published runs."""

import jax
import jax.numpy as jnp
import optax


def cosine_schedule(
    base: float, *, decay_steps: int, minimum: float = 0.0, warmup_steps: int = 0
) -> optax.Schedule:
    """Cosine decay with linear warm-up.

    The rate of step `k`, counted from 0, is `minimum + (base - minimum) / 2 * (1 + cos(pi k /
    decay_steps))`, and the minimum after `decay_steps`. The first `warmup_steps - 1` steps have the
    rate `base * (k + 1) / warmup_steps` instead (the reference counts iterations from 1).

    Args:
        base: rate at the start, > 0.
        decay_steps: length of the decay, > 0.
        minimum: rate at its end.
        warmup_steps: 0 = no warm-up.
    """

    def schedule(count: jax.Array) -> jax.Array:
        # In the default dtype, float64 where x64 is enabled: an int32 count would give float32.
        fraction = jnp.minimum(count, decay_steps) / jnp.asarray(decay_steps, float)
        rate = minimum + (base - minimum) * 0.5 * (1 + jnp.cos(jnp.pi * fraction))
        return _warmed_up(rate, base, count, warmup_steps)

    return schedule


def constant_schedule(base: float, *, warmup_steps: int = 0) -> optax.Schedule:
    """A constant rate, after the linear warm-up of `cosine_schedule`."""
    return lambda count: _warmed_up(jnp.asarray(base), base, count, warmup_steps)


def _warmed_up(rate: jax.Array, base: float, count: jax.Array, warmup_steps: int) -> jax.Array:
    if not warmup_steps:
        return rate
    return jnp.where(count + 1 < warmup_steps, base * (count + 1) / warmup_steps, rate)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales all gradients by `min(1, max_norm / (norm + 1e-6))` with their global norm.

    This is PyTorch's rule; `optax.clip_by_global_norm` has no 1e-6.
    """

    def update(updates, state, params=None):
        del params
        norm = optax.tree.norm(updates)
        factor = jnp.minimum(1.0, max_norm / (norm + 1e-6))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def adamw(
    schedule: optax.Schedule | float,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """AdamW with decoupled weight decay of all parameters, epsilon 1e-8 outside the root.

    Args:
        schedule: learning rate, or function from step to rate.
        b1: decay of the first moment.
        b2: decay of the second moment.
        weight_decay: multiplied by the learning rate; applied to every parameter.
        clip_norm: bound on the global gradient norm, applied first; 0 = none.
    """
    parts = [clip_by_global_norm(clip_norm)] if clip_norm else []
    parts += [
        optax.scale_by_adam(b1=b1, b2=b2, eps=1e-8),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(schedule),
    ]
    return optax.chain(*parts)
