"""Building blocks that several networks share: convolution modules, padding, shuffling, checks."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcpt_jax.models.convolutions import (
    cut,
    depthwise_conv,
    patch_conv,
    plain_conv,
    pointwise_conv,
    square_conv,
)
from dcpt_jax.models.folding import Normed, fold_norm, is_folded

COMPUTE_DTYPES = ("float32", "bfloat16", "float64")


def compute_dtype(dtype: Any) -> jnp.dtype:
    """Checks a compute type.

    Args:
        dtype: float32, bfloat16 or float64, as a dtype, scalar type or name.

    Returns:
        The dtype object.

    Raises:
        ValueError: for any other type.
    """
    try:
        known = jnp.dtype(dtype)
    except TypeError:
        known = None
    if dtype is None or known is None or known.name not in COMPUTE_DTYPES:
        raise ValueError(f"dtype is {dtype!r}, but must be one of {', '.join(COMPUTE_DTYPES)}")
    return known


def parameter_dtype(dtype: Any) -> jnp.dtype:
    """Type of the parameters of a network that computes in `dtype`: float32, or float64."""
    return jnp.promote_types(dtype, jnp.float32)


def check_dtype_is_enabled(dtype: Any) -> None:
    """Raises ValueError if JAX would silently compute in float32 in place of float64."""
    if jnp.dtype(dtype) == jnp.float64 and not jax.config.jax_enable_x64:
        raise ValueError(
            "the network has dtype float64, but 64-bit types are switched off in JAX; "
            'call jax.config.update("jax_enable_x64", True) first, or create it with float32'
        )


def check_images(images: Any, channels: int = 3) -> None:
    """Checks that `images` is a batch of floating-point images.

    Raises:
        ValueError: if it is not [b, h, w, channels] with h and w at least 1 and a floating dtype.
    """
    expected = f"expected a batch of floating-point images [b, h, w, {channels}] in [0, 1]"
    shape, dtype = jnp.shape(images), jnp.result_type(images)
    if len(shape) == 3:
        raise ValueError(f"{expected}, got shape {shape}; for a single image pass image[None]")
    if len(shape) != 4 or shape[-1] != channels:
        hint = "; channels come last" if len(shape) == 4 and shape[1] == channels else ""
        raise ValueError(f"{expected}, got shape {shape}{hint}")
    if 0 in shape[1:3]:
        raise ValueError(f"{expected} of at least 1x1 pixel, got shape {shape}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{expected}, got dtype {dtype}; divide 8-bit pixels by 255")


def positive_count(name: str, value: Any) -> int:
    """Returns an integer >= 1 as Python's int; raises ValueError naming the argument otherwise."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}, but must be an integer >= 1")
    return int(value)


def positive_counts(name: str, values: Any) -> tuple[int, ...]:
    """Returns a non-empty sequence of integers >= 1 as a tuple; raises ValueError otherwise."""
    if isinstance(values, str | bytes) or not isinstance(values, Sequence) or not len(values):
        raise ValueError(f"{name} is {values!r}, but must be a sequence of integers >= 1")
    return tuple(positive_count(f"{name}[{i}]", value) for i, value in enumerate(values))


def pad_to_multiple(images: jax.Array, multiple: int) -> jax.Array:
    """Pads [b, h, w, c] at the bottom and right, so that both sizes are multiples of `multiple`.

    By reflection (the edge pixel is not repeated). Where the image is too small for one
    reflection, it is reflected back and forth as often as needed; an axis of one pixel, which has
    nothing to reflect, repeats that pixel.
    """
    bottom, right = (-size % multiple for size in images.shape[1:3])
    if not bottom and not right:
        return images
    return jnp.pad(images, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="reflect")


def pixel_shuffle(x: jax.Array, factor: int = 2) -> jax.Array:
    """Moves channels to pixels: [b, h, w, c * factor^2] -> [b, h * factor, w * factor, c].

    Ordered as PyTorch's PixelShuffle: the target channel is the slowest index of the source's.
    """
    b, h, w, c = x.shape
    target = c // factor**2
    cells = x.reshape(b, h, w, target, factor, factor).transpose(0, 1, 4, 2, 5, 3)
    return cells.reshape(b, h * factor, w * factor, target)


def pixel_unshuffle(x: jax.Array, factor: int = 2) -> jax.Array:
    """The inverse of `pixel_shuffle`: [b, h * factor, w * factor, c] -> [b, h, w, c * factor^2]."""
    b, h, w, c = x.shape
    cells = x.reshape(b, h // factor, factor, w // factor, factor, c).transpose(0, 1, 3, 5, 2, 4)
    return cells.reshape(b, h // factor, w // factor, c * factor**2)


def uniform_by_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """Uniform in +-1/sqrt(fan_in): what PyTorch gives convolutions, linear layers and biases."""
    bound = 1 / math.sqrt(fan_in)

    def initialise(key, shape, dtype=jnp.float32):
        # Drawn flat: XLA compiles a generator for four axes about ten times as long.
        flat = jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound)
        return flat.reshape(shape)

    return initialise


def normal_by_fan_out(fan_out: int) -> nn.initializers.Initializer:
    """Normal with variance 2 / fan_out: He et al., Delving Deep into Rectifiers (2015), eq. 14."""
    return normal(math.sqrt(2 / fan_out))


def normal(deviation: float) -> nn.initializers.Initializer:
    """Normal with mean zero and this standard deviation."""

    def initialise(key, shape, dtype=jnp.float32):
        return deviation * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

    return initialise


def add_wide(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`x + bias`, computed in the dtype of the bias and returned in that of x.

    So the bias's gradient, a sum over all pixels, is summed in float32 also where x is bfloat16: a
    bfloat16 sum of more than a few hundred numbers stalls.
    """
    return (x.astype(bias.dtype) + bias).astype(x.dtype)


def multiply_wide(x: jax.Array, factor: jax.Array) -> jax.Array:
    """`x * factor`, computed in the dtype of the factor; see `add_wide`."""
    return (x.astype(factor.dtype) * factor).astype(x.dtype)


class Conv(nn.Module):
    """Convolution [b, h, w, in] -> [b, h', w', features] with PyTorch's default initialisation.

    Size 1 and 3 keep the image size (zero padding); with `stride` equal to `size` it works on
    patches without padding. Parameters: `kernel` [size, size, in, features], `bias` [features].
    """

    features: int
    size: int = 1
    stride: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer | None = None

    def __call__(self, x: jax.Array | Normed, factor: jax.Array | None = None) -> jax.Array:
        """Applies the convolution in `dtype`.

        Args:
            x: [b, h, w, in]; for size 1 also what `LayerNorm.for_kernel` gives.
            factor: None, or [features], by which the output's channels are multiplied.
        """
        return self.in_parts(x, 1, factor)[0]

    @nn.compact
    def in_parts(
        self, x: jax.Array | Normed, parts: int, factor: jax.Array | None = None
    ) -> list[jax.Array]:
        """The output along its channels in `parts` or in one, see `convolutions.cut`."""
        channels = (x.map if isinstance(x, Normed) else x).shape[-1]
        shape = (self.size, self.size, channels, self.features)
        by_fan_in = uniform_by_fan_in(math.prod(shape[:3]))
        stored = parameter_dtype(self.dtype)
        kernel = self.param("kernel", self.kernel_init or by_fan_in, shape, stored)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init or by_fan_in, (self.features,), stored)
        x, kernel, bias = fold_norm(x, kernel, bias)
        if factor is not None and is_folded(x, self.features):
            kernel, bias = kernel * factor, None if bias is None else bias * factor
            factor = None
        x = x.astype(self.dtype)
        maps = [self._convolve(x, part) for part in cut(kernel.astype(self.dtype), parts)]
        if bias is not None:
            maps = list(map(add_wide, maps, cut(bias, parts)))
        if factor is not None:
            maps = list(map(multiply_wide, maps, cut(factor, parts)))
        return maps

    def _convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        if self.size == 1 and self.stride == 1:
            return pointwise_conv(x, kernel)
        if self.size == self.stride:
            return patch_conv(x, kernel)
        if self.size == 3 and self.stride == 1:
            return square_conv(x, kernel)
        return plain_conv(x, kernel, stride=self.stride, padding=self.size // 2)


class DepthwiseConv(nn.Module):
    """Depthwise 3x3 convolution of the same size, PyTorch's default initialisation.

    Parameters: `kernel` [3, 3, 1, c], `bias` [c].
    """

    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, h, w, c] -> [b, h, w, c] in `dtype`."""
        return self.of_parts([x])[0]

    @nn.compact
    def of_parts(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        """The same for a map whose channels come in equal parts, as `Conv.in_parts` gives them."""
        by_fan_in = uniform_by_fan_in(9)
        channels = sum(part.shape[-1] for part in maps)
        stored = parameter_dtype(self.dtype)
        kernel = self.param("kernel", self.kernel_init or by_fan_in, (3, 3, 1, channels), stored)
        kernels = jnp.split(kernel.astype(self.dtype), len(maps), axis=-1)
        maps = [
            depthwise_conv(x.astype(self.dtype), part)
            for x, part in zip(maps, kernels, strict=True)
        ]
        if self.use_bias:
            bias = self.param("bias", self.bias_init or by_fan_in, (channels,), stored)
            maps = list(map(add_wide, maps, jnp.split(bias, len(maps))))
        return maps


class Linear(nn.Module):
    """Linear layer [..., in] -> [..., features] with PyTorch's default initialisation.

    Parameters: `kernel` [in, features], `bias` [features].
    """

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer | None = None

    def __call__(self, x: jax.Array | Normed) -> jax.Array:
        """Applies the layer in `dtype`, also to what `LayerNorm.for_kernel` gives."""
        return self.in_parts(x, 1)[0]

    @nn.compact
    def in_parts(self, x: jax.Array | Normed, parts: int) -> list[jax.Array]:
        """The output along its channels in `parts` or in one, see `convolutions.cut`."""
        channels = (x.map if isinstance(x, Normed) else x).shape[-1]
        by_fan_in = uniform_by_fan_in(channels)
        shape, stored = (channels, self.features), parameter_dtype(self.dtype)
        kernel = self.param("kernel", self.kernel_init or by_fan_in, shape, stored)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init or by_fan_in, (self.features,), stored)
        x, kernel, bias = fold_norm(x, kernel, bias)
        # On two axes, for the reason given in `pointwise_conv`.
        flat = x.astype(self.dtype).reshape(-1, channels)
        maps = [flat @ part for part in cut(kernel.astype(self.dtype), parts)]
        if bias is not None:
            maps = list(map(add_wide, maps, cut(bias, parts)))
        return [part.reshape(*x.shape[:-1], part.shape[-1]) for part in maps]
