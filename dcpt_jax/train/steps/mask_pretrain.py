"""Masked pre-training: the network learns to classify degradations from parts of an image."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from dcpt_jax import losses
from dcpt_jax.models import masking
from dcpt_jax.train.state import Metrics, Step
from dcpt_jax.train.steps import terms
from dcpt_jax.train.steps.update import Batch, make_step


def make_mask_pretrain_step(
    network: nn.Module,
    classifier: nn.Module,
    reconstruction: nn.Module,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    mask_ratio: float = 0.5,
    mask_patch: int = 16,
    pixel_weight: float = 1.0,
    class_weight: float = 1.0,
    focal_gamma: float = 2.0,
    label_rows: np.ndarray | None = None,
    **options: Any,
) -> Step:
    """Masked degradation-classification pre-training (MaskDCPT, 2025).

    `pixel_weight * L1(reconstruction(features), clean) + class_weight * focal(classifier(features),
    task)`, with the features of the degraded image, random patches of which are hidden from the
    network. The restoration tail does not run and is not trained. The publication leaves two points
    open; here the L1 loss covers the whole image, hidden or not, and the classifier takes the
    features as they are, zero where hidden.

    Masks are drawn anew in each step, for the whole batch before it is split: they depend only on
    the state's key and step, not on devices or `accumulate_steps`.

    Args:
        network: restoration network with a method `features` that takes a mask.
        classifier: module from a tuple of features to logits.
        reconstruction: module from a tuple of features and the mask to images.
        optimizers: under "network", "classifier" and "reconstruction".
        mask_ratio: share of the patches that are hidden, in [0, 1).
        mask_patch: height and width of the patches in pixels.
        pixel_weight: of the L1 loss, >= 0.
        class_weight: of the focal loss, >= 0; not both may be 0. With 0 the network's gradients are
            those of the L1 loss alone, and the classifier's are zero: only the weight decay of its
            optimizer moves it. Its loss and accuracy are still reported.
        focal_gamma: exponent of the focal loss.
        label_rows: multi-hot labels of the classes, see the package.
        **options: `ema_decay` and `accumulate_steps`, see `update.make_step`.

    Returns:
        A step whose metrics are loss, loss_pixel, loss_class, accuracy and the gradient norms.
    """

    def with_mask(batch: Batch, rng: jax.Array) -> Batch:
        degraded = batch["degraded"]
        visible = masking.random_mask(
            rng, degraded.shape[:3], ratio=mask_ratio, patch=mask_patch, dtype=degraded.dtype
        )
        return {**batch, "visible": visible}

    classify = functools.partial(
        terms.classification, classifier, gamma=focal_gamma, label_rows=label_rows
    )

    def loss_fn(params: dict[str, Any], batch: Batch) -> tuple[jax.Array, Metrics]:
        visible = batch["visible"]
        features = network.apply(
            {"params": params["network"]}, batch["degraded"], visible, method="features"
        )
        output = reconstruction.apply({"params": params["reconstruction"]}, features, visible)
        return terms.joint(
            losses.l1_loss(output, batch["clean"]),
            *classify(params["classifier"], features, batch["task"]),
            pixel_weight=pixel_weight,
            class_weight=class_weight,
        )

    return make_step(loss_fn, optimizers, prepare=with_mask, **options)
