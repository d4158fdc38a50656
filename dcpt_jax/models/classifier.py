"""The degradation classifier of DCPT (`PromptIR_NoImg_DC` in its code): features to logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcpt_jax.models.arguments import (
    check_dtype_is_enabled,
    check_images,
    compute_dtype,
    parameter_dtype,
    positive_count,
    positive_counts,
)
from dcpt_jax.models.layers import (
    Conv,
    LayerNorm,
    normal_by_fan_out,
    scale_channels,
    uniform_by_fan_in,
)


class DegradationClassifier(nn.Module):
    """Classifies the degradation of an image from the features of a restoration network.

    The features are added one after another, finest first, weighted by a softmax over one learned
    number per level; after each, the map passes residual bottlenecks and is halved in size. The
    image is not an input, except with `image_input` (the reference's `PromptIR_DC`). For the
    features of the paper's NAFNet and five classes it has 49.3 million parameters.

    Attributes:
        feature_dims: channels of the features, finest first: `model.feature_dims`.
        num_classes: number of logits.
        num_blocks: bottlenecks at each level, and again at the end.
        resize_features: False for features that halve in size from one to the next (rounding
            down); True for features of equal size (SwinIR): of the i-th, every 2^i-th pixel is
            used.
        image_input: True to add an embedding of the image, for networks whose first feature has
            half its size (PromptIR).
        dtype: compute type, float32, bfloat16 or float64. Parameters, norm statistics and logits
            stay float32 (float64 in a float64 classifier).
    """

    feature_dims: tuple[int, ...]
    num_classes: int
    num_blocks: int = 2
    resize_features: bool = False
    image_input: bool = False
    dtype: Any = jnp.float32

    architecture: ClassVar[str] = "classifier"

    def __post_init__(self):
        """Checks the arguments; raises ValueError."""
        self.feature_dims = positive_counts("feature_dims", self.feature_dims)
        self.num_classes = positive_count("num_classes", self.num_classes)
        self.num_blocks = positive_count("num_blocks", self.num_blocks)
        self.dtype = compute_dtype(self.dtype)
        super().__post_init__()

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this classifier, JSON-serialisable; without the dtype."""
        return {
            "feature_dims": list(self.feature_dims),
            "num_classes": self.num_classes,
            "num_blocks": self.num_blocks,
            "resize_features": self.resize_features,
            **({"image_input": True} if self.image_input else {}),
        }

    @nn.compact
    def __call__(
        self, features: Sequence[jax.Array], degraded: jax.Array | None = None
    ) -> jax.Array:
        """Classifies a batch.

        Args:
            features: one [b, h_i, w_i, feature_dims[i]] float array for each entry of
                `feature_dims`, finest first, as `model.apply(..., method="features")` returns them.
            degraded: the images of these features, [b, h, w, 3]; only with `image_input`.

        Returns:
            Logits [b, num_classes], float32 (float64 in a float64 classifier).

        Raises:
            ValueError: if number, channels or sizes of the features or images do not match.
        """
        check_dtype_is_enabled(self.dtype)
        self._check(features)
        self._check_image(features[0], degraded)
        stored = parameter_dtype(self.dtype)
        numbers = self.param("mixing_weights", nn.initializers.ones, (len(features),), stored)
        weights = nn.softmax(numbers)
        next_dims = (*self.feature_dims[1:], self.feature_dims[-1])
        x = 0
        if self.image_input:
            x = ImageEmbedding(self.feature_dims[0], self.dtype, name="embed")(degraded)
        for i, feature in enumerate(features):
            feature = feature.astype(self.dtype)
            if self.resize_features:
                feature = subsample(feature, 2**i)
            x = x + scale_channels(feature, weights[i])
            x = Bottlenecks(self.num_blocks, self.dtype, name=f"level_{i}")(x)
            x = Conv(next_dims[i], use_bias=False, dtype=self.dtype, name=f"down_{i}")(x)
            x = nn.relu(halve_by_maximum(x))
        x = Bottlenecks(self.num_blocks, self.dtype, name="last")(x)
        by_fan_in = uniform_by_fan_in(self.feature_dims[-1])
        head = nn.Dense(
            self.num_classes,
            dtype=stored,
            param_dtype=stored,
            kernel_init=by_fan_in,
            bias_init=by_fan_in,
            name="head",
        )
        return head(x.astype(stored).mean(axis=(1, 2)))

    def _check(self, features: Sequence[jax.Array]) -> None:
        """Raises ValueError unless the features match `feature_dims` and each other."""
        count = len(self.feature_dims)
        if isinstance(features, jax.Array) or len(features) != count:
            got = "one array" if isinstance(features, jax.Array) else f"{len(features)} features"
            raise ValueError(
                f"expected {count} features, finest first, for feature_dims {self.feature_dims}; "
                f"got {got}"
            )
        shapes = [jnp.shape(feature) for feature in features]
        expected_dims = [len(shape) == 4 for shape in shapes]
        if not all(expected_dims) or tuple(s[-1] for s in shapes) != self.feature_dims:
            raise ValueError(
                f"expected features [b, h, w, c] with {self.feature_dims} channels, finest first; "
                f"got shapes {shapes}"
            )
        if any(not jnp.issubdtype(feature.dtype, jnp.floating) for feature in features):
            raise ValueError(
                f"expected floating-point features, got {[str(f.dtype) for f in features]}"
            )
        b, h, w = shapes[0][:3]
        sizes = [(b, h, w) if self.resize_features else (b, h >> i, w >> i) for i in range(count)]
        if [shape[:3] for shape in shapes] != sizes:
            rule = (
                "of one size (resize_features=True)"
                if self.resize_features
                else "each half the size of the one before (resize_features=True if all are equal)"
            )
            raise ValueError(f"expected features {rule}; got shapes {shapes}")
        if min(h, w) < 2**count:
            raise ValueError(
                f"the first feature is {h}x{w} pixels, but {count} levels of halving need at least "
                f"{2**count}x{2**count}"
            )

    def _check_image(self, first: jax.Array, degraded: jax.Array | None) -> None:
        """Raises ValueError unless images of the right size are given, or none if not expected."""
        if (degraded is not None) != self.image_input:
            expected = "the degraded images too" if self.image_input else "features alone"
            raise ValueError(f"this classifier takes {expected} (image_input={self.image_input})")
        if degraded is None:
            return
        check_images(degraded)
        half = tuple(-(-side // 2) for side in degraded.shape[1:3])
        if (degraded.shape[0], *half) != first.shape[:3]:
            raise ValueError(
                f"expected images of twice the size of the first feature {first.shape}, which "
                f"a classifier with image_input needs; got {degraded.shape}"
            )


class ImageEmbedding(nn.Module):
    """Image embedding at half size: a 7x7 convolution of stride 2, then a norm."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[b, h, w, 3] -> [b, h / 2, w / 2, features], sizes rounded up."""
        x = Conv(self.features, size=7, stride=2, dtype=self.dtype, name="conv")(images)
        return LayerNorm(dtype=self.dtype, name="norm")(x)


def subsample(x: jax.Array, step: int) -> jax.Array:
    """Every `step`-th pixel, sizes rounded down: [b, h, w, c] -> [b, h // step, w // step, c]."""
    h, w = x.shape[1] // step, x.shape[2] // step
    return x[:, ::step, ::step][:, :h, :w]


def halve_by_maximum(x: jax.Array) -> jax.Array:
    """Max pool 2x2 with stride 2, odd edges dropped: [b, h, w, c] -> [b, h // 2, w // 2, c].

    Pairwise, rows then columns: the gradient of XLA's windowed maximum is ten times slower on CPUs.
    """
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = jnp.maximum(x[:, 0:h:2], x[:, 1:h:2])
    return jnp.maximum(x[:, :, 0:w:2], x[:, :, 1:w:2])


class Bottlenecks(nn.Module):
    """A sequence of residual bottlenecks, `block_0`, `block_1`, ..."""

    blocks: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, h, w, c] -> [b, h, w, c]."""
        for i in range(self.blocks):
            x = Bottleneck(self.dtype, name=f"block_{i}")(x)
        return x


class Bottleneck(nn.Module):
    """Widening residual bottleneck: 1x1 to 2c channels, 3x3, 1x1 back to c, each with a norm.

    As He et al., Deep Residual Learning (2016), with layer norms and an expansion of 2.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, h, w, c] -> [b, h, w, c]."""
        channels = x.shape[-1]

        def convolved(y: jax.Array, name: str, features: int, size: int) -> jax.Array:
            conv = Conv(
                features,
                size=size,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=normal_by_fan_out(features * size**2),
                name=f"conv_{name}",
            )
            return LayerNorm(dtype=self.dtype, name=f"norm_{name}")(conv(y))

        y = nn.relu(convolved(x, "1", 2 * channels, 1))
        y = nn.relu(convolved(y, "2", 2 * channels, 3))
        return nn.relu(x + convolved(y, "3", channels, 1))
