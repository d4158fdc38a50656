"""Builds network, classifier and reconstruction head of a run, and checks that they fit."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from dcpt_jax import models, weights
from dcpt_jax.config import ConfigError
from dcpt_jax.models import masking
from dcpt_jax.modes import Mode


def build_network(
    model: Mapping[str, Any], *, dtype: str, remat: bool
) -> models.RestorationNetwork:
    """The network that `config.model` describes.

    Raises:
        ConfigError: if its keyword arguments do not fit the backbone.
    """
    arguments = {key: value for key, value in model.items() if key != "name"}
    try:
        return models.create_model(model["name"], dtype=jnp.dtype(dtype), remat=remat, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.model: {error}") from error


def build_classifier(
    network: models.RestorationNetwork,
    mode: Mode,
    *,
    num_classes: int,
    num_blocks: int,
    dtype: str,
    inherited: weights.ClassifierDescription | None = None,
) -> models.DegradationClassifier | None:
    """The classifier to train, or the frozen one that guides a transfer; None without one.

    Args:
        network: the network whose features it takes.
        mode: of the run.
        num_classes: outputs of a classifier to train.
        num_blocks: blocks of a classifier to train.
        dtype: compute type.
        inherited: the classifier taken over, see `init_from.Initial`; one that guides is rebuilt
            unchanged.

    Raises:
        ConfigError: if the classifier taken over does not fit the network.
    """
    if mode.classifies:
        arguments = {
            "feature_dims": network.feature_dims,
            "num_classes": num_classes,
            "num_blocks": num_blocks,
            "resize_features": network.equal_feature_sizes,
        }
    elif inherited is not None:
        arguments = inherited.arguments
    else:
        return None
    if inherited is not None:
        _check_fit(mode, network, inherited.arguments)
    return models.create_classifier(**arguments, dtype=jnp.dtype(dtype))


def build_reconstruction(
    network: models.RestorationNetwork, *, patch: int, width: int, crop_size: int, dtype: str
) -> models.ReconstructionHead:
    """The head that reconstructs images in masked pre-training.

    Raises:
        ConfigError: if the mask's patches do not fit the network and the crops, or the network uses
            local averages (TLC).
    """
    if getattr(network, "tlc_size", None) is not None:
        raise ConfigError(
            f"config.model.tlc_size is {network.tlc_size}; masked pre-training needs None, because "
            "partly hidden images have no local averages. If the weights in config.init_from "
            f'contain it, set "tlc_size" to null in their {weights.DESCRIPTION} and remove its '
            '"checksums": the parameters are the same'
        )
    try:
        masking.check_patch(patch, crop_size, crop_size, network.size_multiple)
    except ValueError as error:
        raise ConfigError(f"config.mask_patch: {error}") from error
    return models.ReconstructionHead(
        network.feature_dims, patch=patch, width=width, dtype=jnp.dtype(dtype)
    )


def _check_fit(
    mode: Mode, network: models.RestorationNetwork, arguments: Mapping[str, Any]
) -> None:
    """Raises ConfigError if the classifier taken over needs features of another network."""
    dims, resize = arguments["feature_dims"], arguments["resize_features"]
    if (dims, resize) != (network.feature_dims, network.equal_feature_sizes):
        needed, available = f"of {dims} channels", f"{network.feature_dims}"
        if dims == network.feature_dims:  # then their sizes differ
            needed, available = (
                "of one size" if equal else "that halve in size from level to level"
                for equal in (resize, network.equal_feature_sizes)
            )
        raise ConfigError(
            f"the inherited classifier needs features {needed}, but this "
            f"{network.architecture} has {available}: use a classifier trained with this "
            "network (--config.classifier_from), or "
            + ("--config.guidance=0" if mode.is_guided else "--config.classifier_from=scratch")
        )
