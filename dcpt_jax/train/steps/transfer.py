"""Cross-degradation transfer: restoration training guided by a frozen classifier."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dcpt_jax import losses
from dcpt_jax.train.state import Metrics, Step
from dcpt_jax.train.steps import terms
from dcpt_jax.train.steps.restore import make_restore_step
from dcpt_jax.train.steps.update import Batch, make_step


def make_transfer_step(
    network: nn.Module,
    classifier: nn.Module | None,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    label_of_task: Sequence[int] | None = None,
    label_rows: np.ndarray | None = None,
    guidance: float = 1.0,
    focal_gamma: float = 0.0,
    loss_terms: losses.WeightedTerms | None = None,
    **options: Any,
) -> Step:
    """Classifier-guided transfer to another degradation (DCPT; DCDist in the reference).

    `L1(network(degraded), clean) + guidance * focal(classifier(features), label)`, with the
    features of the same pass: the network learns to restore a new degradation while its features
    move towards those of the new class. The classifier is frozen.

    Args:
        network: restoration network with the method `restored_and_features`.
        classifier: module from a tuple of features to logits, with parameters under "classifier"
            in the state; None without guidance.
        optimizers: under "network".
        label_of_task: the classifier's label of each task of the run; None where they are the same.
        label_rows: for a classifier of components, the multi-hot label of each task of the run, see
            the package; `label_of_task` is None then.
        guidance: weight of the classification; 0 = plain restoration training.
        focal_gamma: exponent of the focal loss; 0, as in the paper, is cross-entropy.
        loss_terms: further terms beside the L1, see `losses.weighted_terms`.
        **options: `ema_decay` and `accumulate_steps`, see `update.make_step`.

    Returns:
        A step whose metrics are loss, loss_pixel, loss_class, accuracy (all but loss only with
        guidance), psnr and the gradient norm before clipping; with several terms also the parts
        of loss_pixel, loss_l1 and so on.
    """
    if not guidance:
        return make_restore_step(network, optimizers, loss_terms=loss_terms, **options)

    classify = functools.partial(
        terms.classification, classifier, gamma=focal_gamma, label_rows=label_rows
    )

    def loss_fn(params: dict[str, Any], batch: Batch) -> tuple[jax.Array, Metrics]:
        variables = {"params": params["network"]}
        restored, features = network.apply(
            variables, batch["degraded"], method="restored_and_features"
        )
        loss_pixel, pixel_metrics = terms.restoration(restored, batch["clean"], loss_terms)
        label = batch["task"]
        if label_of_task is not None:
            label = jnp.asarray(label_of_task)[label]
        classified = classify(params["classifier"], features, label)
        loss, metrics = terms.joint(loss_pixel, *classified, class_weight=guidance)
        return loss, metrics | pixel_metrics

    return make_step(loss_fn, optimizers, finish=terms.with_psnr, **options)
