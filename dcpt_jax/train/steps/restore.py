"""Restoration training."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import optax

from dcpt_jax import losses
from dcpt_jax.train.state import Metrics, Step
from dcpt_jax.train.steps import terms
from dcpt_jax.train.steps.update import Batch, make_step


def make_restore_step(
    network: nn.Module,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    loss_terms: losses.WeightedTerms | None = None,
    **options: Any,
) -> Step:
    """Restoration training: `L1(network(degraded), clean)`, with a moving average of the network.

    Args:
        network: restoration network.
        optimizers: under "network".
        loss_terms: further terms of the loss, see `losses.weighted_terms`.
        **options: `ema_decay` and `accumulate_steps`, see `update.make_step`.

    Returns:
        A step whose metrics are loss, psnr (dB, of unrounded floats, over the whole batch) and the
        gradient norm before clipping; with several terms also each of them.
    """

    def loss_fn(params: dict[str, Any], batch: Batch) -> tuple[jax.Array, Metrics]:
        restored = network.apply({"params": params["network"]}, batch["degraded"])
        loss, metrics = terms.restoration(restored, batch["clean"], loss_terms)
        return loss, {"loss": loss, **metrics}

    return make_step(loss_fn, optimizers, finish=terms.with_psnr, **options)
