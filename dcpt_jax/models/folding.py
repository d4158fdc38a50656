"""Factors and offsets of a map's channels, moved into the kernel of the convolution beside them.

A norm ends with a scale and a bias for each channel, and a residual branch of NAFNet with a factor
for each. Both can be applied to the small kernel of the 1x1 convolution behind or before, in place
of the large map: (n * scale + bias) K = n (scale K) + bias K. The map is then read and written once
less forward, and twice less backward, where the gradients of scale and bias are found from the
kernel's. On CPUs, whose time goes by the maps written, NAFNet's steps took a tenth less by this and
by what norms and depthwise convolutions no longer keep.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax

from dcpt_jax.models.convolutions import formulation

# A map is worth less work than the kernel if it has at least so many pixels for each channel: the
# kernel of a 1x1 convolution has about as many numbers for each of them.
_PIXELS_FOR_A_CHANNEL = 4


class Normed(NamedTuple):
    """What a norm gives, with its last step still to be done: map * scale + bias.

    Attributes:
        map: [..., c], in the dtype of scale and bias.
        scale: [c].
        bias: [c], or None for none.
    """

    map: jax.Array
    scale: jax.Array
    bias: jax.Array | None

    def done(self) -> jax.Array:
        """The map with scale and bias applied."""
        scaled = self.map * self.scale
        return scaled if self.bias is None else scaled + self.bias


def is_folded(x: jax.Array, channels: int) -> bool:
    """Whether what acts on the channels of a map goes into a kernel, for the pixels of [..., c].

    On CPUs, where maps are larger than kernels. Elsewhere compilers fuse it into what is beside it.
    """
    pixels = math.prod(x.shape[:-1])
    return formulation() == "slices" and pixels >= _PIXELS_FOR_A_CHANNEL * channels


def fold_norm(
    x: jax.Array | Normed, kernel: jax.Array, bias: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Takes a norm's scale and bias into the kernel behind it, if that is less work.

    Args:
        x: a map [..., in], or what a norm gives.
        kernel: [..., in, out] of a single pixel.
        bias: [out], or None for none.

    Returns:
        The map, and the kernel and bias for it.
    """
    if not isinstance(x, Normed):
        return x, kernel, bias
    if not is_folded(x.map, kernel.shape[-2]):
        return x.done(), kernel, bias
    if x.bias is not None:
        offset = x.bias @ kernel.reshape(kernel.shape[-2:])
        bias = offset if bias is None else bias + offset
    return x.map, kernel * x.scale[:, None], bias
