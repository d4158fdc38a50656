"""One optimisation step of each training mode, as a function of state and batch.

A step builder takes what is static (modules, optimisers, constants) and returns a pure function
`(state, batch) -> (state, metrics)`; the loop jits it with shardings and donates the state. A batch
is `degraded` and `clean`, float [b, h, w, 3], and `task`, int [b].
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dcpt_jax import losses
from dcpt_jax.train.state import Metrics, Step, TrainState, apply_gradients


def make_pretrain_step(
    network: nn.Module,
    classifier: nn.Module,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    focal_gamma: float = 2.0,
) -> Step:
    """Degradation-classification pre-training (DCPT, section 3.2).

    `L1(network(clean), clean) + focal(classifier(features(degraded)), task)`: the network keeps
    being able to put out a clean image while its features learn to tell degradations apart. The
    classifier sees features only, and its gradient flows through them into the network.

    Args:
        network: restoration network with a `features` method.
        classifier: module from a tuple of features to logits.
        optimizers: under "network" and "classifier".
        focal_gamma: exponent of the focal loss; 2 in the paper.

    Returns:
        A step whose metrics are loss, loss_pixel, loss_class, accuracy and both gradient norms.
    """

    def loss_fn(params: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, Metrics]:
        variables = {"params": params["network"]}
        loss_pixel = losses.l1_loss(network.apply(variables, batch["clean"]), batch["clean"])
        features = network.apply(variables, batch["degraded"], method="features")
        logits = classifier.apply({"params": params["classifier"]}, features)
        loss_class = losses.focal_loss(logits, batch["task"], gamma=focal_gamma)
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == batch["task"])
        loss = loss_pixel + loss_class
        return loss, {
            "loss": loss,
            "loss_pixel": loss_pixel,
            "loss_class": loss_class,
            "accuracy": accuracy,
        }

    def step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        gradients, metrics = jax.grad(loss_fn, has_aux=True)(state.params, batch)
        metrics |= {
            f"gradient_norm_{name}": optax.tree.norm(gradients[name]) for name in optimizers
        }
        return apply_gradients(state, gradients, optimizers), metrics

    return step


def make_restore_step(
    network: nn.Module,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    ema_decay: float = 0.0,
) -> Step:
    """Restoration training: `L1(network(degraded), clean)`, with a moving average of the network.

    Args:
        network: restoration network.
        optimizers: under "network".
        ema_decay: of the moving average; 0 where the state holds none.

    Returns:
        A step whose metrics are loss, psnr (dB, of unrounded floats, over the whole batch) and the
        gradient norm before clipping.
    """

    def loss_fn(params: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, Metrics]:
        restored = network.apply({"params": params["network"]}, batch["degraded"])
        loss = losses.l1_loss(restored, batch["clean"])
        error = jnp.mean(jnp.square(jnp.clip(restored, 0, 1) - batch["clean"]))
        return loss, {"loss": loss, "psnr": -10 * jnp.log10(jnp.maximum(error, 1e-12))}

    def step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        gradients, metrics = jax.grad(loss_fn, has_aux=True)(state.params, batch)
        metrics["gradient_norm_network"] = optax.tree.norm(gradients["network"])
        return apply_gradients(state, gradients, optimizers, ema_decay=ema_decay), metrics

    return step
