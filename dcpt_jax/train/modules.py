"""Network and classifier of a run, and whether they fit each other."""

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from dcpt_jax import models, weights
from dcpt_jax.config import ConfigError
from dcpt_jax.models import masking
from dcpt_jax.modes import MODES, Mode


def build_modules(
    config: ml_collections.ConfigDict,
    *,
    num_classes: int,
    taken: weights.ClassifierDescription | None = None,
) -> tuple[nn.Module, nn.Module | None]:
    """Network of a config and, where the mode has one, classifier.

    Args:
        config: of the run.
        num_classes: of the run.
        taken: the classifier that is taken over, see `init_from.Initial`; the one that guides a
            transfer is built as it was.

    Raises:
        ConfigError: if the keyword arguments in `config.model` do not fit the backbone, or the
            network does not fit the classifier.
    """
    arguments = {key: value for key, value in config.model.items() if key != "name"}
    dtype = jnp.dtype(config.dtype)
    try:
        network = models.create_model(
            config.model.name, dtype=dtype, remat=config.remat, **arguments
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.model: {error}") from error
    mode = MODES[config.mode]
    if mode.classifies:
        arguments = {
            "feature_dims": network.feature_dims,
            "num_classes": num_classes,
            "num_blocks": config.classifier.num_blocks,
            "resize_features": network.equal_feature_sizes,
        }
    elif taken is not None:
        arguments = taken.arguments
    else:
        return network, None
    classifier = models.create_classifier(**arguments, dtype=dtype)
    _check_fit(mode, network, taken)
    return network, classifier


def build_reconstruction(
    config: ml_collections.ConfigDict, network: nn.Module
) -> models.ReconstructionHead | None:
    """Head that reconstructs images in a masked pre-training; None in other modes.

    Args:
        config: of the run.
        network: of the run.

    Raises:
        ConfigError: if the patches of the mask do not fit network and crops, or the network takes
            local averages.
    """
    if not MODES[config.mode].masks:
        return None
    if getattr(network, "tlc_size", None) is not None:
        raise ConfigError(
            f"config.model.tlc_size is {network.tlc_size}; it has to be None here, as partly "
            "hidden images have no local averages. Where the weights in config.init_from bring it, "
            f'set "tlc_size" to null in their {weights.DESCRIPTION} and remove its "checksums": '
            "the parameters are the same"
        )
    size = config.data.crop_size
    try:
        masking.check_patch(config.mask_patch, size, size, network.size_multiple)
    except ValueError as error:
        raise ConfigError(f"config.mask_patch: {error}") from error
    return models.ReconstructionHead(
        network.feature_dims,
        patch=config.mask_patch,
        width=config.reconstruction.width,
        dtype=jnp.dtype(config.dtype),
    )


def _check_fit(mode: Mode, network: nn.Module, taken: weights.ClassifierDescription | None) -> None:
    """Raises ConfigError if a classifier that is taken over is of another network's features."""
    if taken is None:
        return
    dims, resize = taken.arguments["feature_dims"], taken.arguments["resize_features"]
    if (dims, resize) != (network.feature_dims, network.equal_feature_sizes):
        theirs, ours = f"of {dims} channels", f"{network.feature_dims}"
        if dims == network.feature_dims:  # then it is their sizes that differ
            theirs, ours = (
                "of one size" if equal else "that halve in size from level to level"
                for equal in (resize, network.equal_feature_sizes)
            )
        raise ConfigError(
            f"the classifier that is taken over is for features {theirs}, but this "
            f"{network.architecture} has {ours}: take one that was trained with "
            "this network (--config.classifier_from), or "
            + ("--config.guidance=0" if mode.is_guided else "--config.classifier_from=scratch")
        )
