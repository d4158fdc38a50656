"""NAFNet: Chen et al., Simple Baselines for Image Restoration (ECCV 2022).

With the test-time local converter: Chu et al., Improving Image Restoration by Revisiting Global
Information Aggregation (ECCV 2022).
"""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcpt_jax.models.arguments import (
    check_choice,
    compute_dtype,
    parameter_dtype,
    positive_count,
    positive_counts,
)
from dcpt_jax.models.layers import (
    Conv,
    DepthwiseConv,
    LayerNorm,
    pixel_shuffle,
    project_and_split,
    scale_channels,
)
from dcpt_jax.models.masking import MASKINGS, hide, inside_and_outside, visible_mean
from dcpt_jax.models.network import RestorationNetwork
from dcpt_jax.models.stage import Stage

Window = tuple[int, int]


class NAFNet(RestorationNetwork):
    """NAFNet, a U-Net without activation functions (DCPT's `NAFNetBaseline`).

    Input and output as in `RestorationNetwork`; `size_multiple` is 2^levels. The defaults are the
    network of the DCPT paper (67.9 million parameters).

    Features for the classifier: the outputs of the decoder stages, finest first: width * 2^i
    channels at 1/2^i of the padded size.

    Attributes:
        width: channels at full size; they double with each level.
        encoder_blocks: number of blocks in each encoder stage, finest first.
        middle_blocks: number of blocks at the coarsest level.
        decoder_blocks: number of blocks in each decoder stage, coarsest first.
        norm_epsilon: epsilon of the layer norms; 1e-5 in MaskDCPT's networks.
        tlc_size: None, or the training size in pixels (a number, or height and width; multiples
            of `size_multiple`): replaces each global average pool by a local one whose window is
            1.5 times that size. The parameters are the same with and without.
        masking: "sparse" or "maskdcpt": treatment of hidden patches, see `masking`.
        dtype: compute type, float32, bfloat16 or float64. Parameters, norm statistics and
            average pools stay float32 (float64 in a float64 network).
        remat: recompute activations inside blocks in the backward pass instead of keeping them.
    """

    width: int = 64
    encoder_blocks: tuple[int, ...] = (1, 1, 1, 28)
    middle_blocks: int = 1
    decoder_blocks: tuple[int, ...] = (1, 1, 1, 1)
    norm_epsilon: float = 1e-6
    tlc_size: int | tuple[int, int] | None = None
    masking: str = "sparse"
    dtype: Any = jnp.float32
    remat: bool = False

    architecture: ClassVar[str] = "nafnet"
    output_layer: ClassVar[str] = "ending"  # its output is added to the image

    def __post_init__(self):
        """Checks the arguments; raises ValueError."""
        self.width = positive_count("width", self.width)
        self.encoder_blocks = positive_counts("encoder_blocks", self.encoder_blocks)
        self.middle_blocks = positive_count("middle_blocks", self.middle_blocks)
        self.decoder_blocks = positive_counts("decoder_blocks", self.decoder_blocks)
        if len(self.encoder_blocks) != len(self.decoder_blocks):
            raise ValueError(
                f"encoder_blocks {self.encoder_blocks} and decoder_blocks {self.decoder_blocks} "
                "must have the same length, one entry for each level"
            )
        if not isinstance(self.norm_epsilon, float) or not 0 < self.norm_epsilon < 1:
            raise ValueError(f"norm_epsilon is {self.norm_epsilon!r}, but must be between 0 and 1")
        self.tlc_size = self._checked_tlc_size()
        check_choice("masking", self.masking, MASKINGS)
        self.dtype = compute_dtype(self.dtype)
        super().__post_init__()

    def _checked_tlc_size(self) -> Window | None:
        if self.tlc_size is None:
            return None
        size = self.tlc_size
        size = positive_counts("tlc_size", size if isinstance(size, list | tuple) else (size,) * 2)
        if len(size) != 2 or any(side % self.size_multiple for side in size):
            raise ValueError(
                f"tlc_size is {self.tlc_size!r}, but must be one number or (height, width), "
                f"multiples of {self.size_multiple} for {len(self.encoder_blocks)} levels"
            )
        return size

    @property
    def size_multiple(self) -> int:
        """Heights and widths are padded to multiples of this, 2^levels."""
        return 2 ** len(self.encoder_blocks)

    @property
    def feature_dims(self) -> tuple[int, ...]:
        """Channels of the features, finest first."""
        return tuple(self.width * 2**level for level in range(len(self.encoder_blocks)))

    def setup(self):
        """Creates the modules; parameters are named after them."""
        levels = len(self.encoder_blocks)

        def stage(blocks: int, level: int) -> Stage:
            window = self._pooling_window(level)
            block = functools.partial(
                NAFBlock, window, self.norm_epsilon, self.masking, dtype=self.dtype
            )
            return Stage(blocks, kinds=(block,), remat=self.remat)

        self.intro = Conv(self.width, size=3, dtype=self.dtype)
        self.encoder = [stage(blocks, level) for level, blocks in enumerate(self.encoder_blocks)]
        self.down = [
            Conv(2 * channels, size=2, stride=2, dtype=self.dtype) for channels in self.feature_dims
        ]
        self.middle = stage(self.middle_blocks, levels)
        # 1x1 convolutions double the channels, and pixel shuffles divide them by four.
        self.up = [
            Conv(4 * channels, use_bias=False, dtype=self.dtype)
            for channels in reversed(self.feature_dims)
        ]
        self.decoder = [
            stage(blocks, levels - 1 - i) for i, blocks in enumerate(self.decoder_blocks)
        ]
        self.ending = Conv(3, size=3, dtype=self.dtype)

    def _pooling_window(self, level: int) -> Window | None:
        """Window of the local average pool at a level, in pixels of that level; None = global."""
        if self.tlc_size is None:
            return None
        return tuple((side // 2**level) * int(1.5 * side) // side for side in self.tlc_size)

    def body(
        self, padded: jax.Array, visible: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, ...], jax.Array]:
        """Everything but the last convolution: (decoder outputs, the finest one)."""
        if visible is not None and self.tlc_size is not None:
            raise ValueError(
                f"tlc_size is {self.tlc_size}, but local averages are for whole images: partly "
                "hidden ones need a network with tlc_size None"
            )
        x, skips, outputs = self.intro(hide(padded, visible)), [], []
        x = hide(x, inside_and_outside(self.masking, visible)[1])
        for encoder, down in zip(self.encoder, self.down, strict=True):
            x = encoder(x, visible)
            skips.append(x)
            x = down(x)
        x = self.middle(x, visible)
        for up, skip, decoder in zip(self.up, reversed(skips), self.decoder, strict=True):
            x = decoder(pixel_shuffle(up(x)) + skip, visible)
            outputs.append(x)
        return tuple(reversed(outputs)), x

    def tail(self, rest: jax.Array) -> jax.Array:
        """The last convolution."""
        return self.ending(rest)


class NAFBlock(nn.Module):
    """Block of NAFNet (section 4 of its paper); at first the identity, as `beta` and `gamma` are 0.

    `window`: None for the global average pool, or the (height, width) of a local one.
    `masking`: see `NAFNet`.
    """

    window: Window | None = None
    norm_epsilon: float = 1e-6
    masking: str = "sparse"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array | None = None) -> jax.Array:
        """[b, h, w, c] -> [b, h, w, c] in `dtype`; `visible` as in the `masking` module."""
        channels = x.shape[-1]
        zeros, scale_shape = nn.initializers.zeros, ((channels,), parameter_dtype(self.dtype))
        beta = self.param("beta", zeros, *scale_shape)
        gamma = self.param("gamma", zeros, *scale_shape)
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = functools.partial(LayerNorm, self.norm_epsilon, dtype=self.dtype)
        # maskdcpt: zero the outputs of both norms and of the attention branch; sparse: zero the
        # input of the depthwise convolution, and average over visible pixels.
        inside, outside = inside_and_outside(self.masking, visible)

        y = hide(norm(name="norm_1")(x), outside)
        mix = DepthwiseConv(dtype=self.dtype, name="conv_2")
        y1, y2 = project_and_split(y, 2, conv(2 * channels, name="conv_1"), mix, inside)
        y = y1 * y2  # SimpleGate
        attention = pooled(y, conv(channels, name="attention"), self.window, inside)
        y = conv(channels, name="conv_3")(scale_channels(y, attention))
        x = x + hide(scale_channels(y, beta), outside)

        y = hide(norm(name="norm_2")(x), outside)
        y1, y2 = project_and_split(y, 2, conv(2 * channels, name="conv_4"))
        y = conv(channels, name="conv_5")(y1 * y2)
        return x + scale_channels(y, gamma)


def pooled(
    x: jax.Array, pointwise, window: Window | None, visible: jax.Array | None = None
) -> jax.Array:
    """Applies `pointwise` to global or local averages of an image.

    Args:
        x: [b, h, w, c].
        pointwise: function of single pixels, [b, h', w', c] -> [b, h', w', c].
        window: None for the global average; otherwise (height, width) of a local average as in the
            test-time local converter: over each window inside the image, and at the borders over
            the nearest such window.
        visible: None, or the mask for an average over visible positions, see `masking`; requires
            the global average.

    Returns:
        [b, 1, 1, c] if the window is None or covers the image, otherwise [b, h, w, c].
    """
    h, w = x.shape[1:3]
    promoted = x.astype(parameter_dtype(x.dtype))
    if window is None or (window[0] >= h and window[1] >= w):
        return pointwise(visible_mean(promoted, visible, keepdims=True))
    # Running sums of a large map lose precision; sums of deviations from the mean do not.
    centre = promoted.mean(axis=(1, 2), keepdims=True)
    means = (
        moving_mean(moving_mean(promoted - centre, window[0], axis=1), window[1], axis=2) + centre
    )
    # Repeating border values commutes with a function of single pixels, so it comes last.
    missing = [(size - present) for size, present in zip((h, w), means.shape[1:3], strict=True)]
    margins = [(count // 2, math.ceil(count / 2)) for count in missing]
    return jnp.pad(pointwise(means), ((0, 0), *margins, (0, 0)), mode="edge")


def moving_mean(x: jax.Array, window: int, axis: int) -> jax.Array:
    """Mean over each run of `window` entries along an axis (over all if there are fewer)."""
    size = x.shape[axis]
    if window >= size:
        return x.mean(axis=axis, keepdims=True)
    sums = jnp.cumsum(x, axis=axis)
    first = jax.lax.slice_in_dim(sums, window - 1, window, axis=axis)
    later = jax.lax.slice_in_dim(sums, window, size, axis=axis)
    earlier = jax.lax.slice_in_dim(sums, 0, size - window, axis=axis)
    return jnp.concatenate([first, later - earlier], axis=axis) / window
