"""Restormer: Zamir et al., Efficient Transformer for High-Resolution Image Restoration (2022)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcpt_jax.models.arguments import check_choice
from dcpt_jax.models.layers import normal
from dcpt_jax.models.masking import hide
from dcpt_jax.models.transformer import ATTENTIONS, BlockStyle, Levels, joined


class Restormer(Levels):
    """Restormer as trained by DCPT; options give the original and MaskDCPT's version.

    Input and output as in `RestorationNetwork`; `size_multiple` is 8. The defaults are the network
    of the DCPT paper (26.1 million parameters).

    Features for the classifier: the outputs of the decoder levels 1, 2 and 3: 2 dim, 2 dim and
    4 dim channels at full, half and quarter size. The refinement blocks are not run for them.

    Attributes:
        dim: channels at full size, even; they double with each level.
        num_blocks: number of blocks in each of the four levels, finest first.
        num_refinement_blocks: number of blocks after the decoder, at full size.
        heads: attention heads in each level.
        ffn_expansion: hidden channels of the feed-forward networks, as a multiple of the channels.
        bias: biases in the 1x1 convolutions after concatenations and in the last convolution;
            with `attention` "softmax" also in those of attention and feed-forward networks.
        norm: "bias_free", without subtracting the mean, or "with_bias", standard layer norm.
        attention: "relu" as in DCPT (epsilon of the norms 1e-6), or "softmax" as originally
            published (1e-5). MaskDCPT uses "softmax" with `norm` "with_bias".
        dtype: compute type, float32, bfloat16 or float64. Parameters, norm statistics and
            attention weights stay float32 (float64 in a float64 network).
        remat: recompute activations inside blocks in the backward pass instead of keeping them.
    """

    dim: int = 48
    num_blocks: tuple[int, ...] = (4, 6, 6, 8)
    num_refinement_blocks: int = 4
    heads: tuple[int, ...] = (1, 2, 4, 8)
    ffn_expansion: float = 2.66
    bias: bool = False
    norm: str = "bias_free"
    attention: str = "relu"
    dtype: Any = jnp.float32
    remat: bool = False

    architecture: ClassVar[str] = "restormer"

    def __post_init__(self):
        """Checks the arguments; raises ValueError."""
        self.check_arguments()
        check_choice("attention", self.attention, ATTENTIONS)
        super().__post_init__()

    @property
    def feature_dims(self) -> tuple[int, ...]:
        """Channels of the features, finest first."""
        return (2 * self.dim, 2 * self.dim, 4 * self.dim)

    def setup(self):
        """Creates the modules; parameters are named after them."""
        relu, dim = self.attention == "relu", self.dim
        self.style = BlockStyle(
            ffn_expansion=self.ffn_expansion,
            use_bias=self.bias and not relu,
            norm=self.norm,
            epsilon=1e-6 if relu else 1e-5,
            attention=self.attention,
            kernel_init=normal(0.02) if relu else None,
            bias_init=nn.initializers.zeros if relu else None,
            dtype=self.dtype,
        )
        self.setup_encoder()
        self.up_3 = self.conv(16 * dim, size=3)
        self.reduce_3 = self.conv(4 * dim, bias=self.bias)
        self.decoder_3 = self.stage(self.num_blocks[2], self.heads[2])
        self.up_2 = self.conv(8 * dim, size=3)
        self.reduce_2 = self.conv(2 * dim, bias=self.bias)
        self.decoder_2 = self.stage(self.num_blocks[1], self.heads[1])
        self.up_1 = self.conv(4 * dim, size=3)
        self.decoder_1 = self.stage(self.num_blocks[0], self.heads[0])
        self.refinement = self.stage(self.num_refinement_blocks, self.heads[0])
        self.output = self.conv(3, size=3, bias=self.bias)

    def body(
        self, padded: jax.Array, visible: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, ...], jax.Array]:
        """Encoder and decoder: (decoder outputs finest first, the finest one)."""
        level_1, level_2, level_3, latent = self.encode(padded, visible)
        up_3 = self.up_3(hide(latent, visible))
        decoded_3 = self.decoder_3(self.reduce_3(joined(up_3, level_3)), visible)
        up_2 = self.up_2(hide(decoded_3, visible))
        decoded_2 = self.decoder_2(self.reduce_2(joined(up_2, level_2)), visible)
        up_1 = self.up_1(hide(decoded_2, visible))
        decoded_1 = self.decoder_1(joined(up_1, level_1), visible)
        return (decoded_1, decoded_2, decoded_3), decoded_1

    def tail(self, rest: jax.Array) -> jax.Array:
        """The refinement and the last convolution."""
        return self.output(self.refinement(rest))
