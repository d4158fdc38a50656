"""The transformer block of Restormer and PromptIR, with attention between channels.

Zamir et al., Restormer: Efficient Transformer for High-Resolution Image Restoration (CVPR 2022).
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from dcpt_jax.models.arguments import (
    check_choice,
    check_divides,
    compute_dtype,
    parameter_dtype,
    positive_count,
    positive_counts,
)
from dcpt_jax.models.layers import (
    Conv,
    DepthwiseConv,
    LayerNorm,
    gated_gelu,
    pixel_shuffle,
    pixel_unshuffle,
    project_and_split,
)
from dcpt_jax.models.masking import hide, inside_and_outside, masked
from dcpt_jax.models.network import RestorationNetwork
from dcpt_jax.models.stage import Stage

NORMS = ("bias_free", "with_bias")
ATTENTIONS = ("relu", "softmax")
# Lower bound of the norms of queries and keys, so that zero images have finite gradients.
_SMALLEST_NORM = 1e-12


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """Options shared by all blocks of a network."""

    ffn_expansion: float  # hidden channels: int(channels * ffn_expansion)
    use_bias: bool  # whether the convolutions have biases
    norm: str  # "bias_free" (no mean subtracted, no bias) or "with_bias"
    epsilon: float  # of the norms
    attention: str  # "softmax", or "relu" instead, as in DCPT's Restormer
    # Initialiser of the convolution kernels; None = PyTorch's default
    kernel_init: nn.initializers.Initializer | None
    bias_init: nn.initializers.Initializer | None  # of the biases; None = PyTorch's default
    dtype: Any
    masking: str = "sparse"  # see `masking`

    def conv(self, features: int, name: str) -> Conv:
        """1x1 convolution."""
        return Conv(
            features,
            use_bias=self.use_bias,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            name=name,
        )

    def depthwise(self, name: str) -> DepthwiseConv:
        """Depthwise 3x3 convolution."""
        return DepthwiseConv(
            use_bias=self.use_bias,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            name=name,
        )

    def layer_norm(self, name: str) -> LayerNorm:
        """Norm over the channels."""
        centred = self.norm == "with_bias"
        return LayerNorm(self.epsilon, centred=centred, dtype=self.dtype, name=name)


class TransformerBlock(nn.Module):
    """Channel attention and a gated feed-forward network, both residual (Restormer, section 3)."""

    heads: int
    style: BlockStyle

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array | None = None) -> jax.Array:
        """[b, h, w, c] -> [b, h, w, c]; for `visible` see `masking`."""
        style = self.style
        _, outside = inside_and_outside(style.masking, visible)
        y = hide(style.layer_norm("norm_1")(x), outside)
        x = x + ChannelAttention(self.heads, style, name="attention")(y, visible)
        y = hide(style.layer_norm("norm_2")(x), outside)
        return x + FeedForward(style, name="feed_forward")(y, visible)


class ChannelAttention(nn.Module):
    """Transposed attention of Restormer (MDTA, eq. 1), between the channels of each head."""

    heads: int
    style: BlockStyle

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array | None = None) -> jax.Array:
        """[b, h, w, c] -> [b, h, w, c], c a multiple of `heads`; for `visible` see `masking`."""
        style, channels = self.style, x.shape[-1]
        accum_dtype = parameter_dtype(style.dtype)
        temperature = self.param("temperature", nn.initializers.ones, (self.heads,), accum_dtype)
        project, mix = style.conv(3 * channels, "qkv"), style.depthwise("qkv_depthwise")
        inside, _ = inside_and_outside(style.masking, visible)
        qkv = project_and_split(x, 3, project, mix, inside)
        # Zeros at hidden positions add nothing to the sums over pixels.
        query, key, value = (hide(y, visible) for y in qkv)
        y = attend(query, key, value, temperature, style.attention)
        return style.conv(channels, "project_out")(y)


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, temperature: jax.Array, attention: str
) -> jax.Array:
    """Attention between the channels of each head.

    The reference normalises queries and keys over all pixels before the product. Here the small
    matrix of products is divided by both norms instead, which gives the same result without writing
    normalised maps.

    Args:
        query: [b, h, w, c].
        key: same shape.
        value: same shape.
        temperature: [heads], in the dtype of norms and softmax.
        attention: "relu" or "softmax".

    Returns:
        [b, h, w, c] in the dtype of `value`.
    """
    b, h, w, channels = value.shape
    heads, accum_dtype = temperature.size, temperature.dtype

    def per_head(x: jax.Array) -> jax.Array:  # [b, heads, pixels, channels of a head]
        return x.reshape(b, h * w, heads, -1).transpose(0, 2, 1, 3)

    query, key, value = map(per_head, (query, key, value))
    products = jnp.einsum("bhni,bhnj->bhij", query, key, preferred_element_type=accum_dtype)
    products = products * _inverse_norm(query, accum_dtype)[..., :, None]
    products = products * _inverse_norm(key, accum_dtype)[..., None, :] * temperature[:, None, None]
    weights = nn.relu(products) if attention == "relu" else nn.softmax(products)
    y = jnp.einsum("bhij,bhnj->bhni", weights.astype(value.dtype), value)
    return y.transpose(0, 2, 1, 3).reshape(b, h, w, channels)


def _inverse_norm(x: jax.Array, dtype: Any) -> jax.Array:
    """1 / |x| over all pixels: [b, heads, n, c] -> [b, heads, c]; finite for zeros."""
    squared = jnp.square(x.astype(dtype)).sum(axis=2)
    return lax.rsqrt(jnp.maximum(squared, _SMALLEST_NORM**2))


class FeedForward(nn.Module):
    """Gated-Dconv feed-forward network (GDFN) of Restormer, eq. 2."""

    style: BlockStyle

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array | None = None) -> jax.Array:
        """[b, h, w, c] -> [b, h, w, c]; for `visible` see `masking`."""
        style, channels = self.style, x.shape[-1]
        hidden = int(channels * style.ffn_expansion)
        project, mix = style.conv(2 * hidden, "project_in"), style.depthwise("depthwise")
        inside, outside = inside_and_outside(style.masking, visible)
        y1, y2 = project_and_split(x, 2, project, mix, inside)
        return hide(style.conv(channels, "project_out")(gated_gelu(y1, y2)), outside)


class Levels(RestorationNetwork):
    """Base class of Restormer and PromptIR: four levels of transformer blocks, halving in size.

    A subclass has the fields dim, num_blocks, num_refinement_blocks, heads, ffn_expansion, bias,
    norm, dtype and remat, and sets `style`, a `BlockStyle`, first in `setup`.
    """

    output_layer: ClassVar[str] = "output"

    @property
    def size_multiple(self) -> int:
        """Heights and widths are padded to multiples of this, as they are halved three times."""
        return 8

    def check_arguments(self) -> None:
        """Checks and normalises the common fields; raises ValueError."""
        self.dim = positive_count("dim", self.dim)
        if self.dim % 2:
            raise ValueError(f"dim is {self.dim}, but must be even")
        self.num_refinement_blocks = positive_count(
            "num_refinement_blocks", self.num_refinement_blocks
        )
        for name in ("num_blocks", "heads"):
            counts = positive_counts(name, getattr(self, name))
            if len(counts) != 4:
                raise ValueError(f"{name} is {counts}, but must have 4 entries, one for each level")
            setattr(self, name, counts)
        for level, heads in enumerate(self.heads):
            check_divides(f"heads[{level}]", heads, self.dim * 2**level)
        if not isinstance(self.ffn_expansion, numbers.Real) or self.ffn_expansion * self.dim < 1:
            raise ValueError(
                f"ffn_expansion is {self.ffn_expansion!r}, but must be a number that gives at "
                f"least one hidden channel for dim {self.dim}"
            )
        self.ffn_expansion = float(self.ffn_expansion)
        check_choice("norm", self.norm, NORMS)
        if not isinstance(self.bias, bool):
            raise ValueError(f"bias is {self.bias!r}, but must be True or False")
        self.dtype = compute_dtype(self.dtype)

    def stage(self, blocks: int, heads: int) -> Stage:
        """A sequence of transformer blocks."""
        block = functools.partial(TransformerBlock, heads, self.style)
        return Stage(blocks, kinds=(block,), remat=self.remat)

    def conv(self, features: int, *, size: int = 1, bias: bool = False) -> Conv:
        """A convolution between stages."""
        return Conv(
            features,
            size=size,
            use_bias=bias,
            dtype=self.dtype,
            kernel_init=self.style.kernel_init,
            bias_init=self.style.bias_init,
        )

    def setup_encoder(self) -> None:
        """Creates the encoder, which is the same in both networks."""
        self.patch_embed = self.conv(self.dim, size=3)
        self.encoder_1 = self.stage(self.num_blocks[0], self.heads[0])
        self.down_1 = self.conv(self.dim // 2, size=3)
        self.encoder_2 = self.stage(self.num_blocks[1], self.heads[1])
        self.down_2 = self.conv(self.dim, size=3)
        self.encoder_3 = self.stage(self.num_blocks[2], self.heads[2])
        self.down_3 = self.conv(2 * self.dim, size=3)
        self.latent = self.stage(self.num_blocks[3], self.heads[3])

    def encode(
        self, padded: jax.Array, visible: jax.Array | None, masking: str = "sparse"
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Outputs of the encoder's levels, finest first: dim * 2^i channels at 1/2^i."""
        embedded = masked(self.patch_embed, hide(padded, visible), visible, masking)
        level_1 = self.encoder_1(embedded, visible)
        level_2 = masked(self.down_1, level_1, visible, masking)
        level_2 = self.encoder_2(pixel_unshuffle(level_2), visible)
        level_3 = masked(self.down_2, level_2, visible, masking)
        level_3 = self.encoder_3(pixel_unshuffle(level_3), visible)
        latent = masked(self.down_3, level_3, visible, masking)
        return level_1, level_2, level_3, self.latent(pixel_unshuffle(latent), visible)


def joined(up: jax.Array, skip: jax.Array) -> jax.Array:
    """Concatenates upsampled features and those of the encoder, along the channels."""
    return jnp.concatenate([pixel_shuffle(up), skip], axis=-1)
