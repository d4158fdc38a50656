"""Training of the classifier alone, on the features of a frozen network."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from dcpt_jax.train.state import Metrics, Step
from dcpt_jax.train.steps import terms
from dcpt_jax.train.steps.update import Batch, make_step


def make_classify_step(
    network: nn.Module,
    classifier: nn.Module,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    focal_gamma: float = 2.0,
    label_rows: np.ndarray | None = None,
    **options: Any,
) -> Step:
    """Training of the classifier alone: `focal(classifier(features(degraded)), task)`.

    Args:
        network: restoration network with a `features` method; it is frozen.
        classifier: module from a tuple of features to logits.
        optimizers: under "classifier".
        focal_gamma: exponent of the focal loss.
        label_rows: multi-hot labels of the classes, see the package.
        **options: `ema_decay` and `accumulate_steps`, see `update.make_step`.

    Returns:
        A step whose metrics are loss, accuracy and the gradient norm.
    """

    classify = functools.partial(
        terms.classification, classifier, gamma=focal_gamma, label_rows=label_rows
    )

    def loss_fn(params: dict[str, Any], batch: Batch) -> tuple[jax.Array, Metrics]:
        variables = {"params": params["network"]}
        features = network.apply(variables, batch["degraded"], method="features")
        features = jax.lax.stop_gradient(features)
        loss, accuracy = classify(params["classifier"], features, batch["task"])
        return loss, {"loss": loss, "accuracy": accuracy}

    return make_step(loss_fn, optimizers, **options)
