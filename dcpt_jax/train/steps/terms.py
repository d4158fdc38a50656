"""Loss terms shared by several steps."""

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

    Without `label_rows`, the logits are of classes (softmax). With them, the logits are of
    components, and the sigmoid of each is the probability that it is present.

    Args:
        classifier: module from a tuple of features to logits.
        params: its parameters.
        features: of the degraded images, finest first.
        labels: [b] integer, the class of each image.
        gamma: exponent of the focal loss; 0 = cross-entropy.
        label_rows: None, or 0/1 [classes, components], the multi-hot label of each class.

    Returns:
        (loss, accuracy: the share of images classified correctly, with multi-hot labels in all
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
    loss_pixel: jax.Array,
    loss_class: jax.Array,
    accuracy: jax.Array,
    *,
    pixel_weight: float = 1.0,
    class_weight: float = 1.0,
) -> tuple[jax.Array, Metrics]:
    """Loss with two terms: `pixel_weight * loss_pixel + class_weight * loss_class`.

    A term of weight 0 is left out of the loss, so its gradient is not computed. It is still in the
    metrics.

    Args:
        loss_pixel: scalar.
        loss_class: scalar.
        accuracy: scalar, passed on to the metrics.
        pixel_weight: finite, >= 0.
        class_weight: finite, >= 0; not both may be 0.

    Returns:
        (loss, its metrics).

    Raises:
        ValueError: if both weights are 0.
    """
    terms = ((pixel_weight, loss_pixel), (class_weight, loss_class))
    weighted = [weight * term for weight, term in terms if weight]
    if not weighted:
        raise ValueError("pixel_weight and class_weight are both 0; one must be larger")
    loss = sum(weighted[1:], start=weighted[0])
    return loss, {
        "loss": loss,
        "loss_pixel": loss_pixel,
        "loss_class": loss_class,
        "accuracy": accuracy,
    }


def restoration(
    restored: jax.Array, clean: jax.Array, loss_terms: losses.WeightedTerms | None = None
) -> tuple[jax.Array, Metrics]:
    """Loss of restored images: L1, and the weighted sum of further terms.

    Args:
        restored: float [b, h, w, c].
        clean: float [b, h, w, c] in [0, 1].
        loss_terms: further terms, see `losses.weighted_terms`.

    Returns:
        (loss, its metrics: `squared_error`; with further terms also each of them, `loss_NAME`, and
        `loss_l1`).
    """
    loss, metrics = losses.l1_loss(restored, clean), {}
    if loss_terms:
        metrics["loss_l1"] = loss
    for name, (weight, term) in (loss_terms or {}).items():
        metrics[f"loss_{name}"] = term(restored, clean)
        loss = loss + weight * metrics[f"loss_{name}"]
    return loss, metrics | {"squared_error": squared_error(restored, clean)}


def squared_error(restored: jax.Array, clean: jax.Array) -> jax.Array:
    """Mean squared error of the restored images, clipped to [0, 1]."""
    return jnp.mean(jnp.square(jnp.clip(restored, 0, 1) - clean))


def with_psnr(metrics: Metrics) -> Metrics:
    """Replaces `squared_error`, the mean over a batch, by its `psnr` in dB."""
    metrics = dict(metrics)
    error = jnp.maximum(metrics.pop("squared_error"), 1e-12)
    return metrics | {"psnr": -10 * jnp.log10(error)}
