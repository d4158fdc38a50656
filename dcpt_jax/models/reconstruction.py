"""The light decoder of MaskDCPT's pre-training: from features of visible patches to the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcpt_jax.models.arguments import (
    check_dtype_is_enabled,
    compute_dtype,
    parameter_dtype,
    positive_count,
    positive_counts,
)
from dcpt_jax.models.layers import Conv, normal, pixel_shuffle
from dcpt_jax.models.masking import at_size_of

# A map is pooled until a mask patch is one pixel, but at most this number of times.
MOST_HALVINGS = 4


class ReconstructionHead(nn.Module):
    """Reconstructs the clean image from a network's features of a partly hidden degraded image.

    The publication (MaskDCPT, 2025) mentions a light reconstruction decoder without details; this
    design is ours. A 1x1 convolution maps each feature to `width` channels, a learned token
    replaces hidden positions, and the maps are enlarged to the size of the finest feature and
    summed. The sum is repeatedly pooled by half until a hidden patch is one pixel; on the way back
    each level adds its own map and applies one 3x3 convolution and GELU (its tanh approximation,
    unlike in the networks). So hidden patches are filled from their surroundings for features of
    all networks; two convolutions at full size would not reach into a patch. A last 3x3 convolution
    and a pixel shuffle give the image, which starts from gray. The degraded image is not an input.

    Attributes:
        feature_dims: channels of the features, finest first: `model.feature_dims`.
        patch: height and width in pixels of the hidden patches.
        width: channels inside the decoder.
        dtype: compute type, float32, bfloat16 or float64. Parameters and the image stay float32
            (float64 in a float64 head).
    """

    feature_dims: tuple[int, ...]
    patch: int = 16
    width: int = 64
    dtype: Any = jnp.float32

    def __post_init__(self):
        """Checks the arguments; raises ValueError."""
        self.feature_dims = positive_counts("feature_dims", self.feature_dims)
        self.patch = positive_count("patch", self.patch)
        self.width = positive_count("width", self.width)
        self.dtype = compute_dtype(self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, features: Sequence[jax.Array], visible: jax.Array) -> jax.Array:
        """Reconstructs a batch.

        Args:
            features: one [b, h_i, w_i, feature_dims[i]] for each entry of `feature_dims`, finest
                first, as `model.apply(..., method="features")` returns them; sizes equal or
                halving. Values at hidden positions are ignored.
            visible: the mask used for the features, [b, h, w, 1], h and w multiples of `patch`.

        Returns:
            [b, h, w, 3] float32 (float64 in a float64 head), not clipped.

        Raises:
            ValueError: if the channels do not match `feature_dims`.
        """
        check_dtype_is_enabled(self.dtype)
        if tuple(feature.shape[-1] for feature in features) != self.feature_dims:
            raise ValueError(
                f"expected features with {self.feature_dims} channels, finest first; got shapes "
                f"{[feature.shape for feature in features]}"
            )
        stored, size = parameter_dtype(self.dtype), features[0].shape[1]
        shape = (len(features), self.width)
        tokens = self.param("tokens", normal(0.02), shape, stored).astype(self.dtype)
        x = 0
        for i, feature in enumerate(features):
            y = Conv(self.width, dtype=self.dtype, name=f"project_{i}")(feature)
            y = jnp.where(at_size_of(y, visible) > 0, y, tokens[i])
            x = x + enlarged(y, size // y.shape[1])
        scale = visible.shape[1] // size  # of the finest feature: 2 for PromptIR
        levels = [x]
        for _ in range(self._halvings(scale)):
            levels.append(halve_by_mean(levels[-1]))
        x = 0
        for i, level in reversed(list(enumerate(levels))):
            x = nn.gelu(Conv(self.width, size=3, dtype=self.dtype, name=f"level_{i}")(level + x))
            x = enlarged(x, 2) if i else x
        gray = nn.initializers.constant(0.5)
        image = Conv(3 * scale**2, size=3, dtype=self.dtype, bias_init=gray, name="output")(x)
        return pixel_shuffle(image, scale).astype(stored)

    def _halvings(self, scale: int) -> int:
        """Number of times that the finest feature can be halved without mixing patches."""
        pixels, count = self.patch // scale, 0
        while pixels % 2 == 0 and count < MOST_HALVINGS:
            pixels, count = pixels // 2, count + 1
        return count


def enlarged(x: jax.Array, factor: int) -> jax.Array:
    """Repeats each pixel: [b, h, w, c] -> [b, h * factor, w * factor, c]."""
    return x if factor == 1 else x.repeat(factor, axis=1).repeat(factor, axis=2)


def halve_by_mean(x: jax.Array) -> jax.Array:
    """Mean over 2x2 pixels: [b, h, w, c] -> [b, h / 2, w / 2, c]."""
    x = (x[:, 0::2] + x[:, 1::2]) / 2
    return (x[:, :, 0::2] + x[:, :, 1::2]) / 2
