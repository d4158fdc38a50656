"""SwinIR: Liang et al., Image Restoration Using Swin Transformer (ICCV workshops 2021)."""

from __future__ import annotations

import functools
import numbers
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dcpt_jax.models.arguments import (
    check_choice,
    check_divides,
    compute_dtype,
    positive_count,
    positive_counts,
)
from dcpt_jax.models.layers import (
    Conv,
    LayerNorm,
    Linear,
    attend_in_windows,
    gelu,
    normal,
    project_and_split,
)
from dcpt_jax.models.masking import MASKINGS, hide, inside_and_outside
from dcpt_jax.models.network import RestorationNetwork
from dcpt_jax.models.stage import Stage

CONNECTIONS = ("1conv", "3conv")
STAGES = 6
# Mean colour of the DIV2K photos, subtracted from the image before the first convolution. Rounded
# to float32 as in the reference, so that float64 networks agree with it to the last digits.
MEAN = np.float32([0.4488, 0.4371, 0.4040])


class SwinIR(RestorationNetwork):
    """SwinIR as in DCPT, for restoration at the same size.

    Unlike the published network, windows have no relative position bias and shifted windows no
    mask, so that pixels at a border also attend to those at the opposite border.

    Input and output as in `RestorationNetwork`; `size_multiple` is the window size. The defaults
    are the network of the DCPT paper (11.5 million parameters).

    Features for the classifier: the outputs of the last three stages, the last stage first, all of
    the full padded size, embed_dim channels.

    Attributes:
        embed_dim: channels.
        depths: number of blocks in each of the six stages.
        num_heads: attention heads in each stage; must divide `embed_dim`.
        window_size: height and width of the attention windows, in pixels.
        mlp_ratio: hidden channels of the feed-forward networks: int(embed_dim * mlp_ratio).
        qkv_bias: biases of queries, keys and values.
        patch_norm: a norm before the first stage.
        resi_connection: convolutions at the end of each stage: "1conv", or "3conv" (fewer
            channels in between).
        masking: "sparse" or "maskdcpt": treatment of hidden patches, see `masking`.
        dtype: compute type, float32, bfloat16 or float64. Parameters, norm statistics and
            attention weights stay float32 (float64 in a float64 network).
        remat: recompute activations inside blocks in the backward pass instead of keeping them.
    """

    embed_dim: int = 180
    depths: tuple[int, ...] = (6,) * STAGES
    num_heads: tuple[int, ...] = (6,) * STAGES
    window_size: int = 8
    mlp_ratio: float = 2.0
    qkv_bias: bool = True
    patch_norm: bool = True
    resi_connection: str = "1conv"
    masking: str = "sparse"
    dtype: Any = jnp.float32
    remat: bool = False

    architecture: ClassVar[str] = "swinir"
    output_layer: ClassVar[str] = "last"
    equal_feature_sizes: ClassVar[bool] = True

    def __post_init__(self):
        """Checks the arguments; raises ValueError."""
        self.embed_dim = positive_count("embed_dim", self.embed_dim)
        self.window_size = positive_count("window_size", self.window_size)
        for name in ("depths", "num_heads"):
            counts = positive_counts(name, getattr(self, name))
            if len(counts) != STAGES:
                raise ValueError(f"{name} is {counts}, but must have {STAGES} entries, like stages")
            setattr(self, name, counts)
        for stage, heads in enumerate(self.num_heads):
            check_divides(f"num_heads[{stage}]", heads, self.embed_dim)
        ratio = self.mlp_ratio
        if not isinstance(ratio, numbers.Real) or ratio * self.embed_dim < 1:
            raise ValueError(f"mlp_ratio is {ratio!r}, but must give at least one hidden channel")
        self.mlp_ratio = float(ratio)
        for name in ("qkv_bias", "patch_norm"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be True or False")
        check_choice("resi_connection", self.resi_connection, CONNECTIONS)
        if self.resi_connection == "3conv" and self.embed_dim < 4:
            raise ValueError(f"embed_dim is {self.embed_dim}; '3conv' needs at least 4")
        check_choice("masking", self.masking, MASKINGS)
        self.dtype = compute_dtype(self.dtype)
        super().__post_init__()

    @property
    def size_multiple(self) -> int:
        """Heights and widths are padded to multiples of this, the window size."""
        return self.window_size

    @property
    def feature_dims(self) -> tuple[int, ...]:
        """Channels of the features, last stage first."""
        return (self.embed_dim,) * (STAGES // 2)

    def setup(self):
        """Creates the modules; parameters are named after them."""
        half = STAGES // 2

        def stage(index: int) -> ResidualStage:
            block = functools.partial(
                SwinBlock,
                heads=self.num_heads[index],
                window=self.window_size,
                hidden=int(self.embed_dim * self.mlp_ratio),
                qkv_bias=self.qkv_bias,
                masking=self.masking,
                dtype=self.dtype,
            )
            shifts = (0, self.window_size // 2)
            return ResidualStage(
                self.depths[index],
                kinds=tuple(functools.partial(block, shift=shift) for shift in shifts),
                remat=self.remat,
                resi_connection=self.resi_connection,
                masking=self.masking,
                dtype=self.dtype,
            )

        self.first = Conv(self.embed_dim, size=3, dtype=self.dtype)
        if self.patch_norm:
            self.embed_norm = LayerNorm(1e-5, dtype=self.dtype)
        self.encoder = [stage(i) for i in range(half)]
        self.decoder = [stage(i) for i in range(half, STAGES)]
        self.norm = LayerNorm(1e-5, dtype=self.dtype)
        self.after_body = connection(self.resi_connection, self.embed_dim, self.dtype)
        self.last = Conv(3, size=3, dtype=self.dtype)

    def body(
        self, padded: jax.Array, visible: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, ...], Any]:
        """All stages: (outputs of the last three, last first; input of `tail`)."""
        _, outside = inside_and_outside(self.masking, visible)
        mean = 0 if outside is not None else jnp.asarray(MEAN, padded.dtype)
        shallow = hide(self.first(hide(padded - mean, visible)), outside)
        x = hide(self.embed_norm(shallow), outside) if self.patch_norm else shallow
        for stage in self.encoder:
            x = stage(x, visible)
        features = []
        for stage in self.decoder:
            x = stage(x, visible)
            features.append(x)
        return tuple(reversed(features)), (x, shallow)

    def tail(self, rest: Any) -> jax.Array:
        """The convolutions after the stages; the mean colour cancels out in the residual."""
        x, shallow = rest
        return self.last(self.after_body(self.norm(x)) + shallow)


class ResidualStage(Stage):
    """Residual Swin transformer block (RSTB): attention blocks, then convolutions."""

    resi_connection: str = "1conv"
    masking: str = "sparse"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array | None = None) -> jax.Array:
        """[b, h, w, c] -> [b, h, w, c]; for `visible` see `masking`."""
        conv = connection(self.resi_connection, x.shape[-1], self.dtype, name="conv")
        inside, outside = inside_and_outside(self.masking, visible)
        y = hide(self.run(x, visible), visible)
        y = conv(y, inside) if isinstance(conv, ThreeConvs) else conv(y)
        return x + hide(y, outside)


class SwinBlock(nn.Module):
    """Window attention and a feed-forward network, both residual (SwinIR, eqs. 8 and 9).

    Attributes:
        heads: number of attention heads.
        window: height and width of the windows in pixels.
        hidden: channels inside the feed-forward network.
        qkv_bias: biases of queries, keys and values.
        shift: pixels by which the image is rolled up and left before it is cut into windows.
        masking: see `SwinIR`.
    """

    heads: int
    window: int
    hidden: int
    qkv_bias: bool
    shift: int
    masking: str = "sparse"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array | None = None) -> jax.Array:
        """[b, h, w, c] -> [b, h, w, c]; h and w are multiples of the window.

        For `visible` see `masking`.
        """
        _, outside = inside_and_outside(self.masking, visible)
        # Norms work on single pixels, so the one before the attention is applied to its windows.
        windows, visible_windows = cut_windows(x, self.window, self.shift), None
        if visible is not None:
            visible_windows = cut_windows(visible, self.window, self.shift)
        y = LayerNorm(1e-5, dtype=self.dtype, name="norm_1")(windows)
        if outside is not None:  # hidden pixels become zero and are attended to
            y, visible_windows = hide(y, visible_windows), None
        attention = WindowAttention(self.heads, self.qkv_bias, self.dtype, name="attention")
        y = attention(y, None if visible_windows is None else visible_windows[..., 0])
        x = x + join_windows(y, self.window, self.shift)
        y = hide(LayerNorm(1e-5, dtype=self.dtype, name="norm_2")(x), outside)
        return hide(x + FeedForward(self.hidden, self.dtype, name="mlp")(y), outside)


def cut_windows(x: jax.Array, window: int, shift: int) -> jax.Array:
    """Rolls the image by `shift` up and left, and cuts it into windows.

    Returns:
        [b, h / window, w / window, window * window, c] from [b, h, w, c].
    """
    b, h, w, c = x.shape
    cells = jnp.roll(x, (-shift, -shift), axis=(1, 2))
    cells = cells.reshape(b, h // window, window, w // window, window, c).swapaxes(2, 3)
    return cells.reshape(b, h // window, w // window, window * window, c)


def join_windows(windows: jax.Array, window: int, shift: int) -> jax.Array:
    """The inverse of `cut_windows`."""
    b, rows, columns, _, c = windows.shape
    cells = windows.reshape(b, rows, columns, window, window, c).swapaxes(2, 3)
    image = cells.reshape(b, rows * window, columns * window, c)
    return jnp.roll(image, (shift, shift), axis=(1, 2))


class WindowAttention(nn.Module):
    """Attention between the pixels of each window; see `SwinBlock` for the attributes."""

    heads: int
    qkv_bias: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array | None = None) -> jax.Array:
        """[b, rows, columns, n, c] with n pixels per window -> the same shape.

        `visible` is [b, rows, columns, n], see `masking`.
        """
        channels = x.shape[-1]
        project = linear(3 * channels, self.dtype, use_bias=self.qkv_bias, name="qkv")
        query, key, value = project_and_split(x, 3, project)
        y = attend_in_windows(query, key, value, self.heads, visible)
        return linear(channels, self.dtype, name="project_out")(y)


class FeedForward(nn.Module):
    """Feed-forward network: two linear layers with `hidden` channels and a GELU between them."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, h, w, c] -> [b, h, w, c]."""
        y = gelu(linear(self.hidden, self.dtype, name="expand")(x))
        return linear(x.shape[-1], self.dtype, name="project")(y)


class ThreeConvs(nn.Module):
    """Three convolutions with a quarter of the channels between them, leaky ReLUs of slope 0.2."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array | None = None) -> jax.Array:
        """[b, h, w, c] -> [b, h, w, c]; x must be zero where hidden (see `masking`)."""
        channels = x.shape[-1]
        y = Conv(channels // 4, size=3, dtype=self.dtype, name="conv_0")(x)
        y = nn.leaky_relu(y, 0.2)
        y = Conv(channels // 4, dtype=self.dtype, name="conv_1")(y)
        y = nn.leaky_relu(y, 0.2)
        return Conv(channels, size=3, dtype=self.dtype, name="conv_2")(hide(y, visible))


def connection(kind: str, channels: int, dtype: Any, name: str | None = None) -> nn.Module:
    """The convolutions after a stage, of one of the kinds in `CONNECTIONS`."""
    if kind == "3conv":
        return ThreeConvs(dtype, name=name)
    return Conv(channels, size=3, dtype=dtype, name=name)


def linear(features: int, dtype: Any, *, name: str, use_bias: bool = True) -> Linear:
    """Linear layer with SwinIR's initialisation: kernel with standard deviation 0.02, zero bias."""
    return Linear(
        features,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=normal(0.02),
        bias_init=nn.initializers.zeros,
        name=name,
    )
