"""Masked images for MaskDCPT's pre-training: the network sees only some patches of its input.

A mask `visible` is [b, h, w, 1] at the full size of the image: 1 for visible and 0 for hidden
pixels, constant on square cells. The cell size is a multiple of the network's `size_multiple`, so
that each pixel of an inner map lies in one cell, and the mask is subsampled for it. None means that
everything is visible, and costs no computation.

As in sparse masked modelling (SparK: Tian et al., Designing BERT for Convolutional Networks, 2023)
visible positions never depend on hidden ones. Inputs of all operations that mix positions are
zeroed where hidden: convolutions see zeros there, averages include only visible positions, and
attention gives hidden ones no weight. All other operations, including the layer norms over
channels, work on single pixels or inside cells. Inside a network, values at hidden positions are
arbitrary; in its features they are zero.

This is `masking` "sparse". With "maskdcpt", NAFNet, PromptIR and SwinIR reproduce the released code
of MaskDCPT, where hidden positions have values that do not depend on the image but are not
excluded: convolutions see the biases there, averages are over all positions, and SwinIR's windows
attend to them. For Restormer both are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

MASKINGS = ("sparse", "maskdcpt")


def hide(x: jax.Array, visible: jax.Array | None) -> jax.Array:
    """Sets the hidden positions of a map to zero.

    Args:
        x: [b, h', w', c].
        visible: [b, h, w, 1], where h and w are the same multiple of h' and w'; None is a no-op.

    Returns:
        [b, h', w', c] in the dtype of x.
    """
    if visible is None:
        return x
    # Not a product, as NaN times zero is NaN.
    return jnp.where(at_size_of(x, visible) > 0, x, jnp.zeros((), x.dtype))


def visible_mean(x: jax.Array, visible: jax.Array | None, *, keepdims: bool = False) -> jax.Array:
    """Mean of a map over the visible positions of each image; zero if it has none.

    Args:
        x: [b, h', w', c].
        visible: see `hide`; None averages over all positions.
        keepdims: whether to keep the two spatial axes.

    Returns:
        [b, c], or [b, 1, 1, c].
    """
    if visible is None:
        return x.mean(axis=(1, 2), keepdims=keepdims)
    count = at_size_of(x, visible).astype(x.dtype).sum(axis=(1, 2), keepdims=keepdims)
    return hide(x, visible).sum(axis=(1, 2), keepdims=keepdims) / jnp.maximum(count, 1)


def at_size_of(x: jax.Array, visible: jax.Array) -> jax.Array:
    """Subsamples a mask to a map [b, h', w', c]: [b, h, w, 1] -> [b, h', w', 1]."""
    rows, columns = visible.shape[1] // x.shape[1], visible.shape[2] // x.shape[2]
    return visible[:, ::rows, ::columns]


def inside_and_outside(
    masking: str, visible: jax.Array | None
) -> tuple[jax.Array | None, jax.Array | None]:
    """The masks for inputs of operations that mix positions ("sparse"), and for outputs of layers.

    One of them is None: "sparse" hides inputs, "maskdcpt" outputs.
    """
    return (visible, None) if masking == "sparse" else (None, visible)


def masked(
    layer: Callable[[jax.Array], jax.Array], x: jax.Array, visible: jax.Array | None, masking: str
) -> jax.Array:
    """`layer(x)` for a convolution, its input or its output hidden; see `inside_and_outside`."""
    inside, outside = inside_and_outside(masking, visible)
    return hide(layer(hide(x, inside)), outside)


def check_visible(visible: Any, images: jax.Array, multiple: int) -> None:
    """Raises ValueError unless a mask is float [b, h, w, 1] and its sizes need no padding."""
    shape = (*images.shape[:3], 1)
    if jnp.shape(visible) != shape or not jnp.issubdtype(jnp.result_type(visible), jnp.floating):
        raise ValueError(
            f"visible must be a float array {shape}, 1 where images {images.shape} are visible "
            f"and 0 elsewhere; got {jnp.result_type(visible)} {jnp.shape(visible)}"
        )
    if any(size % multiple for size in shape[1:3]):
        raise ValueError(
            f"images that are partly hidden are not padded: height and width {shape[1:3]} must "
            f"be multiples of {multiple}"
        )


def check_patch(patch: int, height: int, width: int, multiple: int) -> None:
    """Raises ValueError unless cells of `patch` pixels fit the network and the images."""
    if patch < 1 or patch % multiple:
        raise ValueError(
            f"patches of {patch} pixels; for this network they must be a multiple of {multiple}"
        )
    if height % patch or width % patch:
        raise ValueError(f"patches of {patch} pixels do not divide images of {height}x{width}")


def hidden_count(ratio: float, patch: int, height: int, width: int) -> int:
    """Number of hidden patches in an image: all but `1 - ratio` of them, rounded half to even."""
    count = (height // patch) * (width // patch)
    return count - round((1 - ratio) * count)


def random_mask(
    rng: jax.Array, shape: tuple[int, int, int], *, ratio: float, patch: int, dtype: Any
) -> jax.Array:
    """Hides random patches, exactly `hidden_count` in each image.

    Args:
        rng: key.
        shape: (b, h, w) of the images, h and w multiples of `patch`.
        ratio: share of the patches to hide, in [0, 1).
        patch: height and width of a patch in pixels.
        dtype: of the result.

    Returns:
        [b, h, w, 1], 1 where visible and 0 where hidden.
    """
    b, h, w = shape
    rows, columns = h // patch, w // patch
    order = jax.random.uniform(rng, (b, rows * columns)).argsort(axis=1)
    rank = order.argsort(axis=1)  # a permutation even if random numbers are equal
    cells = (rank >= hidden_count(ratio, patch, h, w)).astype(dtype).reshape(b, rows, columns, 1)
    return cells.repeat(patch, axis=1).repeat(patch, axis=2)
