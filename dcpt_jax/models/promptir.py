"""PromptIR: Potlapalli et al., Prompting for All-in-One Image Restoration (NeurIPS 2023)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dcpt_jax.models.arguments import (
    check_choice,
    check_divides,
    parameter_dtype,
    positive_count,
    positive_counts,
)
from dcpt_jax.models.layers import Conv, Linear
from dcpt_jax.models.masking import MASKINGS, hide, masked, visible_mean
from dcpt_jax.models.stage import block_function, run_block
from dcpt_jax.models.transformer import BlockStyle, Levels, TransformerBlock, joined


class PromptIR(Levels):
    """PromptIR: Restormer's levels, with learned prompts mixed in at each level of the decoder.

    Input and output as in `RestorationNetwork`; `size_multiple` is 8. The defaults are the network
    of the DCPT paper (35.4 million parameters). Attention is softmax attention, and the epsilon of
    the norms is 1e-5.

    Features for the classifier: the three levels with their prompts, after the 1x1 convolutions:
    2 dim, 4 dim and 4 dim channels at 1/2, 1/4 and 1/8 of the padded size. The decoder at full size
    is not run for them.

    Attributes:
        dim: channels at full size, even; they double with each level.
        num_blocks: number of blocks in each of the four levels, finest first.
        num_refinement_blocks: number of blocks after the decoder, at full size.
        heads: attention heads in each level; blocks over prompts use `heads[2]`.
        ffn_expansion: hidden channels of the feed-forward networks, as a multiple of the channels.
        bias: biases in all convolutions except the first, those that change the size and those of
            the prompts; True in MaskDCPT's PromptIR.
        norm: "bias_free", without subtracting the mean, or "with_bias", standard layer norm.
        prompt_dims: channels of the prompts at half, quarter and eighth size.
        prompt_sizes: height and width of these prompts; they are resized to the features.
        prompt_len: number of prompts in each level.
        masking: "sparse" or "maskdcpt": treatment of hidden patches, see `masking`.
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
    norm: str = "with_bias"
    prompt_dims: tuple[int, ...] = (64, 128, 320)
    prompt_sizes: tuple[int, ...] = (64, 32, 16)
    prompt_len: int = 5
    masking: str = "sparse"
    dtype: Any = jnp.float32
    remat: bool = False

    architecture: ClassVar[str] = "promptir"

    def __post_init__(self):
        """Checks the arguments; raises ValueError."""
        self.check_arguments()
        for name in ("prompt_dims", "prompt_sizes"):
            counts = positive_counts(name, getattr(self, name))
            if len(counts) != 3:
                raise ValueError(f"{name} is {counts}, but must have 3 entries, finest first")
            setattr(self, name, counts)
        self.prompt_len = positive_count("prompt_len", self.prompt_len)
        check_choice("masking", self.masking, MASKINGS)
        for level, channels in enumerate(self._prompted_dims()):
            check_divides(f"heads[2] (for prompt_dims[{level}])", self.heads[2], channels)
        super().__post_init__()

    def _prompted_dims(self) -> tuple[int, ...]:
        """Channels of features and prompts together, finest first."""
        features = (2 * self.dim, 4 * self.dim, 8 * self.dim)
        return tuple(map(sum, zip(features, self.prompt_dims, strict=True)))

    @property
    def feature_dims(self) -> tuple[int, ...]:
        """Channels of the features, finest first."""
        return (2 * self.dim, 4 * self.dim, 4 * self.dim)

    def setup(self):
        """Creates the modules; parameters are named after them."""
        dim = self.dim
        self.style = BlockStyle(
            ffn_expansion=self.ffn_expansion,
            use_bias=self.bias,
            norm=self.norm,
            epsilon=1e-5,
            attention="softmax",
            kernel_init=None,
            bias_init=None,
            dtype=self.dtype,
            masking=self.masking,
        )

        def prompts(level: int) -> Prompts:
            return Prompts(
                self.prompt_dims[level],
                self.prompt_sizes[level],
                self.prompt_len,
                self.masking,
                self.dtype,
            )

        self.setup_encoder()
        self.prompt_3, self.prompt_2, self.prompt_1 = prompts(2), prompts(1), prompts(0)
        self.noise_3 = TransformerBlock(self.heads[2], self.style)
        self.reduce_noise_3 = self.conv(4 * dim, bias=self.bias)
        self.up_3 = self.conv(8 * dim, size=3)
        self.reduce_3 = self.conv(4 * dim, bias=self.bias)
        self.decoder_3 = self.stage(self.num_blocks[2], self.heads[2])
        self.noise_2 = TransformerBlock(self.heads[2], self.style)
        self.reduce_noise_2 = self.conv(4 * dim, bias=self.bias)
        self.up_2 = self.conv(8 * dim, size=3)
        self.reduce_2 = self.conv(2 * dim, bias=self.bias)
        self.decoder_2 = self.stage(self.num_blocks[1], self.heads[1])
        self.noise_1 = TransformerBlock(self.heads[2], self.style)
        self.reduce_noise_1 = self.conv(2 * dim, bias=self.bias)
        self.up_1 = self.conv(4 * dim, size=3)
        self.decoder_1 = self.stage(self.num_blocks[0], self.heads[0])
        self.refinement = self.stage(self.num_refinement_blocks, self.heads[0])
        self.output = self.conv(3, size=3, bias=self.bias)

    def body(
        self, padded: jax.Array, visible: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, ...], Any]:
        """Encoder, and decoder down to half size: (levels with prompts, input of `tail`)."""
        level_1, level_2, level_3, latent = self.encode(padded, visible, self.masking)
        prompted_3 = self.mix(self.noise_3, self.prompt_3(latent, visible), visible)
        prompted_3 = self.reduce_noise_3(prompted_3)
        up_3 = masked(self.up_3, prompted_3, visible, self.masking)
        decoded_3 = self.decoder_3(self.reduce_3(joined(up_3, level_3)), visible)
        prompted_2 = self.mix(self.noise_2, self.prompt_2(decoded_3, visible), visible)
        prompted_2 = self.reduce_noise_2(prompted_2)
        up_2 = masked(self.up_2, prompted_2, visible, self.masking)
        decoded_2 = self.decoder_2(self.reduce_2(joined(up_2, level_2)), visible)
        prompted_1 = self.mix(self.noise_1, self.prompt_1(decoded_2, visible), visible)
        prompted_1 = self.reduce_noise_1(prompted_1)
        return (prompted_1, prompted_2, prompted_3), (prompted_1, level_1)

    def mix(self, block: nn.Module, x: jax.Array, visible: jax.Array | None) -> jax.Array:
        """Runs the block after a level's prompts."""
        return run_block(block, x, visible, block_function(block.clone(parent=None), self.remat))

    def tail(self, rest: Any) -> jax.Array:
        """The decoder at full size, the refinement and the last convolution."""
        prompted_1, level_1 = rest
        decoded_1 = self.decoder_1(joined(self.up_1(prompted_1), level_1))
        return self.output(self.refinement(decoded_1))


class Prompts(nn.Module):
    """Learned prompts, weighted by a softmax of the averaged features (PromptIR, eqs. 2 and 3).

    Attributes:
        features: channels of the prompts.
        size: height and width of the prompts; the weighted prompt is resized to the features.
        count: number of prompts.
        masking: see `PromptIR`.
    """

    features: int
    size: int
    count: int
    masking: str = "sparse"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array | None = None) -> jax.Array:
        """[b, h, w, c] -> [b, h, w, c + features]: features and prompt, concatenated.

        With `visible` (see `masking`) the average is over visible positions (for "maskdcpt" over
        all, zero where hidden), and the prompt's convolution sees only visible positions.
        """
        accum_dtype = parameter_dtype(self.dtype)
        shape = (self.count, self.size, self.size, self.features)
        prompts = self.param("prompts", nn.initializers.uniform(1.0), shape, accum_dtype)
        if self.masking == "maskdcpt":
            average = hide(x.astype(accum_dtype), visible).mean(axis=(1, 2))
        else:
            average = visible_mean(x.astype(accum_dtype), visible)
        weights = nn.softmax(Linear(self.count, dtype=accum_dtype, name="mixing")(average))
        prompt = jnp.einsum("bk,kijc->bijc", weights, prompts)
        prompt = resized(prompt, x.shape[1], x.shape[2]).astype(self.dtype)
        conv = Conv(self.features, size=3, use_bias=False, dtype=self.dtype, name="conv")
        prompt = masked(conv, hide(prompt, visible), visible, self.masking)
        return jnp.concatenate([x, prompt], axis=-1)


def resized(x: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear resize [b, h, w, c] -> [b, height, width, c], without antialiasing.

    As PyTorch's `interpolate` with align_corners=False; `jax.image.resize` antialiases or treats
    borders differently. Computed as a matrix product along each axis, as prompts are small.
    """
    rows = jnp.asarray(bilinear_weights(x.shape[1], height), x.dtype)
    columns = jnp.asarray(bilinear_weights(x.shape[2], width), x.dtype)
    return jnp.einsum("hi,wj,bijc->bhwc", rows, columns, x)


def bilinear_weights(size: int, target: int) -> np.ndarray:
    """Weight of each of `size` pixels in each of `target` pixels: float64 [target, size]."""
    position = np.maximum((np.arange(target) + 0.5) * size / target - 0.5, 0)
    lower = np.minimum(position.astype(int), size - 1)
    upper = np.minimum(lower + 1, size - 1)
    weights = np.zeros((target, size))
    np.add.at(weights, (np.arange(target), lower), 1 - (position - lower))
    np.add.at(weights, (np.arange(target), upper), position - lower)
    return weights
