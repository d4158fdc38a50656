"""Base class of the restoration networks: padding, global residual, features for the classifier."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcpt_jax.models.arguments import check_dtype_is_enabled, check_images, parameter_dtype
from dcpt_jax.models.layers import pad_to_multiple
from dcpt_jax.models.masking import check_visible, hide


class RestorationNetwork(nn.Module):
    """Base class of networks from degraded to restored images of the same size.

    Input and output: [b, h, w, 3], RGB in [0, 1], of any size from 1x1; the output is not clipped
    and is float32 (float64 in a float64 network). Images are padded by reflection at the bottom and
    right to multiples of `size_multiple` (see `pad_to_multiple` for very small ones). Outputs are
    cropped to the input size, features are not.

    A subclass has the fields `dtype` and `remat` and its own ones, defines `size_multiple` and
    `feature_dims`, and splits its forward pass in two: `body` up to the last feature, and `tail`.

    Attributes:
        architecture: name in `create_model`.
        output_layer: entry of the parameters whose output is added to the image.
        equal_feature_sizes: whether all features have the full size instead of halving from one to
            the next; their classifier needs `resize_features=True`.
    """

    architecture: ClassVar[str]
    output_layer: ClassVar[str]
    equal_feature_sizes: ClassVar[bool] = False

    @property
    def size_multiple(self) -> int:
        """Heights and widths are padded to multiples of this."""
        raise NotImplementedError

    @property
    def feature_dims(self) -> tuple[int, ...]:
        """Channels of the features, in the order of `features`."""
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        """JSON-serialisable arguments that rebuild this network; without `dtype` and `remat`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("dtype", "remat", "parent", "name"):
            del values[name]
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    def body(
        self, padded: jax.Array, visible: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, ...], Any]:
        """The network up to the last feature: (features, input of `tail`).

        With `visible`, [b, h, w, 1], masked as described in `masking`; values of the returned
        features are then arbitrary at hidden positions.
        """
        raise NotImplementedError

    def tail(self, rest: Any) -> jax.Array:
        """The rest of the network: the residual of the padded image, [b, h, w, 3]."""
        raise NotImplementedError

    def __call__(self, degraded: jax.Array) -> jax.Array:
        """Restores images.

        Args:
            degraded: [b, h, w, 3] float, RGB in [0, 1].

        Returns:
            [b, h, w, 3] float32 (float64 in a float64 network), not clipped.

        Raises:
            ValueError: if `degraded` is not a batch of floating-point RGB images.
        """
        return self.restored_and_features(degraded)[0]

    def features(
        self, degraded: jax.Array, visible: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Features for the degradation classifier; the network is not run beyond the last of them.

        Args:
            degraded: [b, h, w, 3] float, RGB in [0, 1].
            visible: None, or a float mask [b, h, w, 1], 1 for visible and 0 for hidden pixels,
                constant on cells whose size is a multiple of `size_multiple` (not checked), as are
                h and w; see `masking`.

        Returns:
            One [b, h', w', feature_dims[i]] in `dtype` for each feature, of the padded image; zero
            where hidden.

        Raises:
            ValueError: if `degraded` is not a batch of floating-point RGB images, or `visible` does
                not match it.
        """
        padded = self._padded(degraded)
        if visible is not None:
            check_visible(visible, degraded, self.size_multiple)
        return tuple(hide(feature, visible) for feature in self.body(padded, visible)[0])

    def restored_and_features(self, degraded: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """The results of `__call__` and `features` from a single forward pass."""
        padded = self._padded(degraded)
        features, rest = self.body(padded)
        # Added in full precision: bfloat16 has fewer levels than 8-bit pixels.
        restored = padded + self.tail(rest).astype(padded.dtype)
        return restored[:, : degraded.shape[1], : degraded.shape[2]], features

    def _padded(self, degraded: jax.Array) -> jax.Array:
        check_dtype_is_enabled(self.dtype)
        check_images(degraded)
        images = jnp.asarray(degraded, parameter_dtype(self.dtype))
        return pad_to_multiple(images, self.size_multiple)
