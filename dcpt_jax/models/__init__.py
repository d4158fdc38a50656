"""The restoration networks and the degradation classifier; `create_model` creates them by name."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcpt_jax.models.classifier import DegradationClassifier
from dcpt_jax.models.nafnet import NAFNet
from dcpt_jax.models.network import RestorationNetwork
from dcpt_jax.models.promptir import PromptIR
from dcpt_jax.models.reconstruction import ReconstructionHead
from dcpt_jax.models.restormer import Restormer
from dcpt_jax.models.swinir import SwinIR

BACKBONES: dict[str, type[RestorationNetwork]] = {
    network.architecture: network for network in (NAFNet, Restormer, PromptIR, SwinIR)
}

__all__ = [
    "BACKBONES",
    "DegradationClassifier",
    "NAFNet",
    "PromptIR",
    "ReconstructionHead",
    "RestorationNetwork",
    "Restormer",
    "SwinIR",
    "create_classifier",
    "create_model",
    "parameter_shapes",
    "register",
]


def register(network: type[RestorationNetwork]) -> type[RestorationNetwork]:
    """Registers a user's network under its `architecture`; usable as a decorator.

    Raises:
        ValueError: if the name is taken by another network.
    """
    if BACKBONES.setdefault(network.architecture, network) is not network:
        raise ValueError(f"there is another network {network.architecture!r}: choose a new name")
    return network


def create_model(name: str, *, dtype: Any = jnp.float32, **arguments: Any) -> RestorationNetwork:
    """Creates a restoration network, by default with the DCPT paper's arguments.

    Args:
        name: a key of `BACKBONES`.
        dtype: compute type, float32, bfloat16 or float64 (needs jax_enable_x64).
        **arguments: the network's keyword arguments, see its class.

    Returns:
        A Flax module with `init`, `apply`, the methods `features` and `restored_and_features`, and
        the attributes that `RestorationNetwork` lists.

    Raises:
        ValueError: for an unknown name or an invalid value.
        TypeError: for an unknown keyword argument.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(BACKBONES)}")
    network = BACKBONES[name]
    known = _keyword_arguments(network)
    unknown = [key for key in arguments if key not in known]
    if unknown:
        raise TypeError(
            f"unknown argument {', '.join(map(repr, unknown))} for {name}; "
            f"known: {', '.join(known)}, dtype"
        )
    return network(**arguments | {"dtype": dtype})


def create_classifier(
    feature_dims: tuple[int, ...],
    num_classes: int,
    *,
    num_blocks: int = 2,
    resize_features: bool = False,
    image_input: bool = False,
    dtype: Any = jnp.float32,
) -> DegradationClassifier:
    """Creates a degradation classifier for the features of a network.

    Args:
        feature_dims: channels of the features, finest first: `model.feature_dims`.
        num_classes: number of classes, one logit each.
        num_blocks: bottlenecks at each level.
        resize_features: True if all features have the same size (SwinIR):
            `model.equal_feature_sizes`.
        image_input: True for the reference's classifier that also takes the image.
        dtype: compute type, float32, bfloat16 or float64 (needs jax_enable_x64).

    Raises:
        ValueError: for an invalid value.
    """
    return DegradationClassifier(
        feature_dims=feature_dims,
        num_classes=num_classes,
        num_blocks=num_blocks,
        resize_features=resize_features,
        image_input=image_input,
        dtype=dtype,
    )


def parameter_shapes(model: nn.Module) -> dict[str, Any]:
    """Shapes and dtypes of all parameters, by abstract evaluation.

    Args:
        model: a network or a classifier of this package.

    Returns:
        The nested dict of jax.ShapeDtypeStruct that `init` would return under "params".
    """
    shapes = _parameter_shapes(model, jax.config.jax_enable_x64)
    return jax.tree.map(lambda leaf: leaf, shapes)  # a copy, as the cached dicts are shared


@functools.lru_cache(maxsize=64)  # tracing a large network takes seconds
def _parameter_shapes(model: nn.Module, _x64: bool) -> dict[str, Any]:
    if isinstance(model, DegradationClassifier):
        finest = 2 ** len(model.feature_dims)
        sizes = [
            finest if model.resize_features else finest >> i for i in range(len(model.feature_dims))
        ]
        inputs = tuple(
            jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
            for size, channels in zip(sizes, model.feature_dims, strict=True)
        )
        inputs = (inputs, _image(2 * finest)) if model.image_input else (inputs,)
    else:
        inputs = (_image(model.size_multiple),)
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def _image(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)


def _keyword_arguments(network: type[nn.Module]) -> list[str]:
    fields = (field.name for field in dataclasses.fields(network))
    return [name for name in fields if name not in ("dtype", "parent", "name")]
