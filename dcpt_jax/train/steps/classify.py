"""Training of the classifier alone, on the features of a frozen network."""

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
    ema_decay: float = 0.0,
    accumulate_steps: int = 1,
) -> Step:
    """Training of the classifier alone: `focal(classifier(features(degraded)), task)`.

    Args:
        network: restoration network with a `features` method; it is frozen.
        classifier: module from a tuple of features to logits.
        optimizers: under "classifier".
        focal_gamma: exponent of the focal loss.
        label_rows: multi-hot labels of the classes, see the package.
        ema_decay: see the package; the average is of the classifier here.
        accumulate_steps: see the package.

    Returns:
        A step whose metrics are loss, accuracy and the gradient norm.
    """

    def loss_fn(params: dict[str, Any], batch: Batch) -> tuple[jax.Array, Metrics]:
        variables = {"params": params["network"]}
        features = network.apply(variables, batch["degraded"], method="features")
        loss, accuracy = terms.classification(
            classifier,
            params["classifier"],
            jax.lax.stop_gradient(features),
            batch["task"],
            gamma=focal_gamma,
            label_rows=label_rows,
        )
        return loss, {"loss": loss, "accuracy": accuracy}

    return make_step(loss_fn, optimizers, ema_decay=ema_decay, accumulate_steps=accumulate_steps)
