"""Terms of the losses that several steps share."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dcpt_jax import losses
from dcpt_jax.train.state import Metrics


def classification(
    classifier: nn.Module,
    params: Any,
    features: tuple[jax.Array, ...],
    labels: jax.Array,
    *,
    gamma: float,
    label_rows: np.ndarray | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Focal loss and accuracy of the classifier.

    Without `label_rows` each class has a logit, and the softmax over them is compared with the
    class. With them each component has a logit, and its sigmoid says whether it is there.

    Args:
        classifier: module from a tuple of features to logits.
        params: its parameters.
        features: of the degraded images, finest first.
        labels: [b] integer, the class of each image.
        gamma: exponent of the focal loss; 0 = cross-entropy.
        label_rows: None, or 0/1 [classes, components], the multi-hot label of each class.

    Returns:
        (loss, share of the batch that is classified right: with multi-hot labels, in all
        components).
    """
    logits = classifier.apply({"params": params}, features)
    if label_rows is not None:
        rows = jnp.asarray(label_rows, bool)[labels]
        loss = losses.sigmoid_focal_loss(logits, rows, gamma=gamma)
        return loss, jnp.mean(jnp.all((logits > 0) == rows, axis=-1), dtype=loss.dtype)
    loss = losses.focal_loss(logits, labels, gamma=gamma)
    return loss, jnp.mean(jnp.argmax(logits, axis=-1) == labels, dtype=loss.dtype)


def joint(
    loss_pixel: jax.Array, loss_class: jax.Array, accuracy: jax.Array, *, weight: float = 1.0
) -> tuple[jax.Array, Metrics]:
    """What a step descends that restores and classifies: `loss_pixel + weight * loss_class`.

    Returns:
        (loss, its metrics).
    """
    loss = loss_pixel + weight * loss_class
    return loss, {
        "loss": loss,
        "loss_pixel": loss_pixel,
        "loss_class": loss_class,
        "accuracy": accuracy,
    }


def squared_error(restored: jax.Array, clean: jax.Array) -> jax.Array:
    """Mean squared error of the restored images, clipped to [0, 1]."""
    return jnp.mean(jnp.square(jnp.clip(restored, 0, 1) - clean))


def with_psnr(metrics: Metrics) -> Metrics:
    """Replaces `squared_error`, the mean over a batch, by its `psnr` in dB."""
    metrics = dict(metrics)
    error = jnp.maximum(metrics.pop("squared_error"), 1e-12)
    return metrics | {"psnr": -10 * jnp.log10(error)}
