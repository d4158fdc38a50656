"""Pre-training: the network learns to classify degradations."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from dcpt_jax import losses
from dcpt_jax.train.state import Metrics, Step
from dcpt_jax.train.steps import terms
from dcpt_jax.train.steps.update import Batch, make_step

FIRST_PASSES = ("clean", "degraded")


def make_pretrain_step(
    network: nn.Module,
    classifier: nn.Module,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    pixel_weight: float = 1.0,
    class_weight: float = 1.0,
    focal_gamma: float = 2.0,
    label_rows: np.ndarray | None = None,
    first_pass: str = "clean",
    **options: Any,
) -> Step:
    """Degradation-classification pre-training (DCPT, section 3.2).

    `pixel_weight * L1(network(x), clean) + class_weight * focal(classifier(features(degraded)),
    task)`; both weights are 1 in the paper. With x = clean, as in the paper, the network remains
    able to output a clean image while its features learn to separate degradations. With
    x = degraded ("direct") it learns to restore at the same time; output and features then come
    from one pass. The classifier sees features only, and its gradient flows through them into the
    network.

    Args:
        network: restoration network with the methods `features` and `restored_and_features`.
        classifier: module from a tuple of features to logits.
        optimizers: under "network" and "classifier".
        pixel_weight: of the L1 loss, >= 0.
        class_weight: of the focal loss, >= 0; not both may be 0. With 0 the network's gradients are
            those of the L1 loss alone, and the classifier's are zero: only the weight decay of its
            optimizer moves it. Its loss and accuracy are still reported.
        focal_gamma: exponent of the focal loss; 2 in the paper.
        label_rows: multi-hot labels of the classes, see the package.
        first_pass: x, "clean" or "degraded".
        **options: `ema_decay` and `accumulate_steps`, see `update.make_step`.

    Returns:
        A step whose metrics are loss, loss_pixel, loss_class, accuracy and both gradient norms.

    Raises:
        ValueError: for another `first_pass`.
    """
    if first_pass not in FIRST_PASSES:
        raise ValueError(f"first_pass is {first_pass!r}; known: {', '.join(FIRST_PASSES)}")

    classify = functools.partial(
        terms.classification, classifier, gamma=focal_gamma, label_rows=label_rows
    )

    def loss_fn(params: dict[str, Any], batch: Batch) -> tuple[jax.Array, Metrics]:
        variables, degraded = {"params": params["network"]}, batch["degraded"]
        if first_pass == "clean":
            output = network.apply(variables, batch["clean"])
            features = network.apply(variables, degraded, method="features")
        else:
            output, features = network.apply(variables, degraded, method="restored_and_features")
        return terms.joint(
            losses.l1_loss(output, batch["clean"]),
            *classify(params["classifier"], features, batch["task"]),
            pixel_weight=pixel_weight,
            class_weight=class_weight,
        )

    return make_step(loss_fn, optimizers, **options)
