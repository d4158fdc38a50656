"""Masked images: a network that sees some patches of its input only, as MaskDCPT pre-trains it.

A mask `visible` is [b, h, w, 1], 1 where the network may look and 0 elsewhere, at the full size of
the image and constant on cells of some number of pixels. That number is a multiple of the network's
`size_multiple`, so that a pixel of any map inside the network lies in one cell, and the mask of a
map is found by taking every so many-th pixel. Where the mask is None everything is visible, and
nothing is computed for it.

As in sparse masked modelling (SparK: Tian et al., Designing BERT for Convolutional Networks, 2023)
visible positions never depend on hidden ones. For that, whatever mixes positions gets an input
that is zero where it is hidden: convolutions then see visible positions and zeros, sums over an
image count visible ones alone, and attention gives the others no weight. All else works on single
pixels or inside cells. So do the norms: they are over the channels of a pixel, and masked as they
are. Inside a network hidden positions may hold anything; its features are zero there.

All that is the networks' `masking` "sparse". With "maskdcpt" NAFNet, PromptIR and SwinIR compute
what the released code of MaskDCPT does, where hidden positions hold numbers that do not depend on
the image and take part: convolutions see the biases there, averages are over all positions, and
SwinIR's windows attend to them. Restormer is the same in both.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

MASKINGS = ("sparse", "maskdcpt")


def hide(x: jax.Array, visible: jax.Array | None) -> jax.Array:
    """Sets a map to zero where it is hidden, whatever is there.

    Args:
        x: [b, h', w', c].
        visible: [b, h, w, 1], h and w the same multiple of h' and w'; None changes nothing.

    Returns:
        [b, h', w', c] in the dtype of x.
    """
    if visible is None:
        return x
    # No product: NaN times zero is NaN.
    return jnp.where(at_size_of(x, visible) > 0, x, jnp.zeros((), x.dtype))


def visible_mean(x: jax.Array, visible: jax.Array | None, *, keepdims: bool = False) -> jax.Array:
    """Mean of a map over the visible positions of each image; zero where an image has none.

    Args:
        x: [b, h', w', c].
        visible: see `hide`; with None the mean is over all positions.
        keepdims: whether to keep the two axes.

    Returns:
        [b, c], or [b, 1, 1, c].
    """
    if visible is None:
        return x.mean(axis=(1, 2), keepdims=keepdims)
    count = at_size_of(x, visible).astype(x.dtype).sum(axis=(1, 2), keepdims=keepdims)
    return hide(x, visible).sum(axis=(1, 2), keepdims=keepdims) / jnp.maximum(count, 1)


def at_size_of(x: jax.Array, visible: jax.Array) -> jax.Array:
    """The mask of a map [b, h', w', c]: [b, h, w, 1] -> [b, h', w', 1]."""
    rows, columns = visible.shape[1] // x.shape[1], visible.shape[2] // x.shape[2]
    return visible[:, ::rows, ::columns]


def check_masking(masking: Any) -> None:
    """Raises ValueError for a value that is not among the `MASKINGS`."""
    if masking not in MASKINGS:
        raise ValueError(f"masking is {masking!r}, but must be one of {', '.join(MASKINGS)}")


def check_visible(visible: Any, images: jax.Array, multiple: int) -> None:
    """Raises ValueError unless a mask is float [b, h, w, 1], with sizes that need no padding."""
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
    """Number of hidden patches in an image: `ratio` of all of them, rounded."""
    return round(ratio * (height // patch) * (width // patch))


def random_mask(
    rng: jax.Array, shape: tuple[int, int, int], *, ratio: float, patch: int, dtype: Any
) -> jax.Array:
    """Hides patches at random, in each image exactly `hidden_count` of them.

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
    rank = order.argsort(axis=1)  # a permutation also where numbers are equal
    cells = (rank >= hidden_count(ratio, patch, h, w)).astype(dtype).reshape(b, rows, columns, 1)
    return cells.repeat(patch, axis=1).repeat(patch, axis=2)
