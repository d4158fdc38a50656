"""Layers shared by the networks, and the choice between their formulations.

`LayerNorm`, `Conv`, `scale_channels`, `project_and_split`, `gelu` and `attend_in_windows` take and
return plain arrays. On CPUs they use `dcpt_jax.models.cpu`, elsewhere the operations of XLA and JAX
(see `formulation`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from dcpt_jax.models import cpu
from dcpt_jax.models.arguments import parameter_dtype
from dcpt_jax.models.formulation import by_platform, on_cpu
from dcpt_jax.models.masking import hide


def pad_to_multiple(images: jax.Array, multiple: int) -> jax.Array:
    """Pads [b, h, w, c] at the bottom and right to multiples of `multiple`.

    By reflection (without repeating the edge pixel), repeated if the image is too small for a
    single one; an axis of one pixel repeats that pixel.
    """
    bottom, right = (-size % multiple for size in images.shape[1:3])
    if not bottom and not right:
        return images
    return jnp.pad(images, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="reflect")


def pixel_shuffle(x: jax.Array, factor: int = 2) -> jax.Array:
    """Moves channels to pixels: [b, h, w, c * factor^2] -> [b, h * factor, w * factor, c].

    Ordered as PyTorch's PixelShuffle: the output channel is the slowest index of the input
    channels.
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
    """Uniform in +-1/sqrt(fan_in): PyTorch's default for convolutions, linear layers and biases."""
    bound = 1 / math.sqrt(fan_in)

    def initialise(key, shape, dtype=jnp.float32):
        # Drawn flat, as XLA compiles a generator for four axes about ten times as long.
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


def add_promoted(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`x + bias`, computed in the dtype of the bias and returned in that of x.

    The gradient of the bias, a sum over all pixels, is then computed in float32 even if x is
    bfloat16: a bfloat16 sum of more than a few hundred numbers stagnates.
    """
    return (x.astype(bias.dtype) + bias).astype(x.dtype)


def scale_channels(x: jax.Array, factor: jax.Array) -> jax.Array:
    """`x * factor`, computed in at least float32 and returned in the dtype of x."""

    def compute(x, factor):
        accum_dtype = parameter_dtype(x.dtype)
        if on_cpu() and (folded := cpu.folding.scaled(x, factor)) is not None:
            return folded
        return (x.astype(accum_dtype) * factor.astype(accum_dtype)).astype(x.dtype)

    return by_platform(compute, x, factor)


def plain_conv(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> jax.Array:
    """XLA's convolution, zero padded by `padding` pixels on every side."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def depthwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Depthwise 3x3 convolution, zero padded to the same size, formulated for the platform.

    Args:
        x: [b, h, w, c].
        kernel: [3, 3, 1, c], of the same dtype.

    Returns:
        [b, h, w, c].
    """

    def compute(x, kernel):
        if on_cpu():
            return cpu.convolutions.depthwise_conv(x, kernel)
        return plain_conv(x, kernel, padding=1, groups=x.shape[-1])

    return by_platform(compute, x, kernel)


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """Convolution, zero padded to the same size; without padding if `stride` is the kernel size.

    Args:
        x: [b, h, w, in].
        kernel: [size, size, in, out], of the same dtype.
        stride: of the convolution; if it is the kernel size, h and w must be multiples of it.

    Returns:
        [b, h / stride, w / stride, out], sizes rounded up.
    """
    return by_platform(functools.partial(_convolve, stride=stride), x, kernel)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size = kernel.shape[0]
    if size != stride:
        is_wide = min(kernel.shape[2:]) >= cpu.convolutions.WIDE
        if on_cpu() and (size, stride) == (3, 1) and is_wide:
            return cpu.convolutions.square_conv(x, kernel)
        return plain_conv(x, kernel, stride=stride, padding=size // 2)
    if size > 1:
        x, kernel = space_to_depth(x, size), kernel.reshape(1, 1, -1, kernel.shape[-1])
    return multiply(x, kernel[0, 0])


def multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Matrix product of [..., in] and [in, out], giving [..., out].

    Reshapes to two axes: on four, XLA picks a slower product and a much slower gradient.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def space_to_depth(x: jax.Array, size: int) -> jax.Array:
    """Moves size x size cells to channels: [b, h, w, c] -> [b, h/size, w/size, size * size * c].

    The new channels are ordered row in cell, column in cell, channel, as in a flattened
    [size, size, c, out] kernel; PyTorch's PixelUnshuffle has another order.
    """
    b, h, w, c = x.shape
    cells = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(b, h // size, w // size, size * size * c)


class _Weighted(nn.Module, kw_only=True):
    """A layer with a kernel and a bias, with PyTorch's default initialisation."""

    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer | None = None

    def _kernel_shape(self, channels: int) -> tuple[int, ...]:
        """Shape of the kernel for this number of input channels; its last axis is the output's."""
        raise NotImplementedError

    def _product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The layer without bias; x and kernel have the same dtype."""
        raise NotImplementedError

    @nn.compact
    def weights(self, channels: int) -> tuple[jax.Array, jax.Array | None]:
        """Kernel and bias for this number of input channels."""
        shape, stored = self._kernel_shape(channels), parameter_dtype(self.dtype)
        by_fan_in = uniform_by_fan_in(math.prod(shape[:-1]))
        kernel = self.param("kernel", self.kernel_init or by_fan_in, shape, stored)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", self.bias_init or by_fan_in, shape[-1:], stored)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer, computing in `dtype`."""
        return by_platform(functools.partial(_apply, self), x, *self.weights(x.shape[-1]))


def _apply(layer: _Weighted, x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    folds = on_cpu() and math.prod(kernel.shape[:-2]) == 1
    if folds:
        x, kernel, bias = cpu.folding.fold_norm(x, kernel, bias)
    y = layer._product(x.astype(layer.dtype), kernel.astype(layer.dtype))
    y = y if bias is None else add_promoted(y, bias)
    if folds:

        def scaled_by(factor):
            return _apply(layer, x, kernel * factor, None if bias is None else bias * factor)

        cpu.folding.note_product(y, scaled_by)
    return y


class Conv(_Weighted):
    """Convolution [b, h, w, in] -> [b, h', w', features].

    Sizes 1 and 3 keep the image size (zero padding); with `stride` equal to `size`, patches are not
    padded. Parameters: `kernel` [size, size, in, features], `bias` [features].
    """

    features: int
    size: int = 1
    stride: int = 1

    def _kernel_shape(self, channels: int) -> tuple[int, ...]:
        return self.size, self.size, channels, self.features

    def _product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolve(x, kernel, stride=self.stride)


class DepthwiseConv(_Weighted):
    """Depthwise 3x3 convolution [b, h, w, c] -> [b, h, w, c].

    Parameters: `kernel` [3, 3, 1, c], `bias` [c].
    """

    def _kernel_shape(self, channels: int) -> tuple[int, ...]:
        return 3, 3, 1, channels

    def _product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return depthwise_conv(x, kernel)


class Linear(_Weighted):
    """Linear layer [..., in] -> [..., features].

    Parameters: `kernel` [in, features], `bias` [features].
    """

    features: int

    def _kernel_shape(self, channels: int) -> tuple[int, ...]:
        return channels, self.features

    def _product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return multiply(x, kernel)


def project_and_split(
    x: jax.Array,
    parts: int,
    project: Conv | Linear,
    mix: DepthwiseConv | None = None,
    visible: jax.Array | None = None,
) -> list[jax.Array]:
    """Computes mix(project(x)) and splits its channels, for gates and attention.

    On CPUs each part is computed separately, which avoids copying the map to split it and its
    gradient to join it. Elsewhere one large convolution is faster.

    Args:
        x: [..., in].
        parts: number of parts; must divide `project.features`.
        project: 1x1 convolution or linear layer.
        mix: depthwise convolution of the result, or None.
        visible: mask for the input of `mix`, see `masking`.

    Returns:
        `parts` maps [..., features / parts].
    """
    if not on_cpu():
        y = project(x)
        return jnp.split(y if mix is None else mix(hide(y, visible)), parts, axis=-1)

    def cut(weights: jax.Array | None) -> Sequence[jax.Array | None]:
        return [None] * parts if weights is None else jnp.split(weights, parts, axis=-1)

    x, kernel, bias = cpu.folding.fold_norm(x, *project.weights(x.shape[-1]))
    maps = [_apply(project, x, *part) for part in zip(cut(kernel), cut(bias), strict=True)]
    if mix is None:
        return maps
    kernel, bias = mix.weights(project.features)
    return [
        _apply(mix, hide(y, visible), *part)
        for y, *part in zip(maps, cut(kernel), cut(bias), strict=True)
    ]


class LayerNorm(nn.Module):
    """Layer norm over the channels of each pixel; statistics in float32 or, in float64, float64.

    Parameters: `scale` [c] and, if `centred`, `bias` [c]. Ba et al., Layer Normalization (2016);
    biased variance, `epsilon` inside the root. If not `centred`, it divides by the same deviation
    but does not subtract the mean: the bias-free norm of Restormer.
    """

    epsilon: float = 1e-6
    centred: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., c] -> [..., c] in `dtype`."""
        stored = parameter_dtype(self.dtype)
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), stored)
        bias = None
        if self.centred:
            bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), stored)
        epsilon, centred, dtype = self.epsilon, self.centred, self.dtype

        def compute(x, scale, bias):
            # Rounds first, so that the result does not depend on whether the caller has rounded x.
            normal = normalise(x.astype(dtype).astype(stored), epsilon, centred=centred)
            y = normal * scale
            y = (y if bias is None else y + bias).astype(dtype)
            if on_cpu():
                cpu.folding.note_norm(y, normal, scale, bias)
            return y

        return by_platform(compute, x, scale, bias)


def normalise(x: jax.Array, epsilon: float, *, centred: bool) -> jax.Array:
    """Divides each row by its standard deviation, optionally after subtracting the mean.

    Args:
        x: [..., c] in the dtype of the statistics.
        epsilon: added to the variance.
        centred: whether to subtract the mean.

    Returns:
        [..., c] in the dtype of x.
    """

    def compute(x):
        if on_cpu():
            return cpu.norms.normalise(x, epsilon, centred)
        mean = x.mean(axis=-1, keepdims=True)
        inverse = lax.rsqrt(jnp.square(x - mean).mean(axis=-1, keepdims=True) + epsilon)
        return (x - mean if centred else x) * inverse

    return by_platform(compute, x)


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, computed in float32 at least and returned in the dtype of x."""
    return by_platform(lambda x: cpu.gelu.gelu(x) if on_cpu() else _plain_gelu(x), x)


def gated_gelu(x: jax.Array, factor: jax.Array) -> jax.Array:
    """The product gelu(x) * factor; both of one shape and dtype."""

    def compute(x, factor):
        return cpu.gelu.gated_gelu(x, factor) if on_cpu() else _plain_gelu(x) * factor

    return by_platform(compute, x, factor)


def _plain_gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x.astype(parameter_dtype(x.dtype)), approximate=False).astype(x.dtype)


def attend_in_windows(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    heads: int,
    visible: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention between the pixels of each window; scores and softmax in float32 at least.

    Args:
        query: [b, rows, columns, pixels per window, c].
        key: same shape.
        value: same shape.
        heads: number of attention heads.
        visible: None, or [b, rows, columns, pixels per window], 0 for pixels to exclude. Windows
            without visible pixels become zero.

    Returns:
        [b, rows, columns, pixels per window, c] in the dtype of `value`.
    """
    accum_dtype, bias = parameter_dtype(value.dtype), None
    if visible is not None:
        zero = jnp.zeros((), value.dtype)
        query, key, value = (
            jnp.where(visible[..., None] > 0, x, zero) for x in (query, key, value)
        )
        # Finite, so that the softmax stays finite in windows without visible keys, where all
        # weights are equal.
        bias = jnp.where(visible > 0, 0, jnp.finfo(accum_dtype).min / 2).astype(accum_dtype)

    def compute(query, key, value, bias):
        if on_cpu():
            return cpu.windows.attend(query, key, value, bias, heads, accum_dtype)
        *shape, c = query.shape
        query, key, value = (x.reshape(*shape, heads, c // heads) for x in (query, key, value))
        query = query * query.shape[-1] ** -0.5
        scores = jnp.einsum("...ihd,...jhd->...hij", query, key, preferred_element_type=accum_dtype)
        if bias is not None:
            scores = scores + bias[..., None, None, :]
        weights = nn.softmax(scores).astype(value.dtype)
        return jnp.einsum("...hij,...jhd->...ihd", weights, value).reshape(*shape, c)

    return by_platform(compute, query, key, value, bias)
