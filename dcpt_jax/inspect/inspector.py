"""A degradation classifier applied to photos of any size.

The classifier was trained on crops of one size, and some networks average features over the whole
input. So a photo is not resized but classified by crops of the training size: at most 4 x 4, evenly
spread. This bounds memory and time for photos of any size, and suffices because a degradation
covers the whole photo. Photos smaller than a crop are padded by reflection at the bottom and right,
as in training.

The logits of the crops are averaged. As the classifier ends with a mean over positions and a linear
layer, this extends the mean over positions to all crops: crops with clear evidence have more
influence than flat ones, whose logits are small.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dcpt_jax import images
from dcpt_jax import weights as weights_folders

GRID = 4  # most crops along each axis
CROP = 128  # pixels; the paper's crop size, for weights without a recorded one


def inspect(image: Any, weights: Path | str | None = None) -> dict[str, float]:
    """Predicts the degradations of an image; this is `dcpt_jax.inspect`.

    Args:
        image: [h, w, 3] floating-point array, RGB in [0, 1], of any size >= 1x1.
        weights: weights folder or work directory with a classifier; None: the bundled network. They
            are read at each call; for many images use `Inspector`.

    Returns:
        Probability of each degradation, the largest first. They sum to 1 for a flat classifier; for
        a multi-hot classifier each is independent, as several degradations may be present.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if the weights have no classifier, or `image` is invalid.
    """
    return Inspector.load(weights)(image)


class Inspector:
    """A classifier and the network that computes its features, ready to inspect images.

    Only one program is compiled for images of any size; see the top of this module.

    Attributes:
        labels: meaning of the logits.
    """

    def __init__(
        self,
        params: weights_folders.Params,
        description: weights_folders.WeightsDescription,
        path: Path | str | None = None,
        *,
        dtype: Any = jnp.float32,
        **changes: Any,
    ):
        """Moves the weights to the device.

        Args:
            params: as returned by `weights.load_weights`.
            description: likewise.
            path: their location, for the ValueError raised if they have no classifier.
            dtype: compute type.
            **changes: keyword arguments of the network that differ from those of the training.
        """
        classifier = description.required_classifier(path)
        self.labels = classifier.labels
        self._network = description.network(dtype=dtype, **changes)
        self._classifier = classifier.module(dtype=dtype)
        self._params = jax.device_put({name: params[name] for name in ("network", "classifier")})
        self._side = description.crop_size or CROP

    @classmethod
    def load(cls, weights: Path | str | None = None) -> "Inspector":
        """Inspector with the classifier of a weights folder or work directory."""
        return cls(*weights_folders.load_weights(weights), weights)

    def __call__(self, image: Any) -> dict[str, float]:
        """Inspects an image; see `inspect` for arguments and result."""
        crops = spread_crops(images.checked_image(image), self._side)
        logits = [self.logits(crop[None])[0] for crop in crops]
        return self.labels.probabilities(np.mean(np.stack(logits), axis=0, dtype=np.float64))

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Logits [b, outputs] of images [b, h, w, 3], as a whole; compiled for each shape."""
        return np.asarray(_classify(self._network, self._classifier, self._params, batch))


def spread_crops(image: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Crops that cover an image, or are evenly spread if the image is too large for that.

    Yields:
        float32 [side, side, 3], at most `GRID` x `GRID` crops; smaller images are padded by
        reflection.
    """
    rows, columns = (_starts(length, side) for length in image.shape[:2])
    for top in rows:
        for left in columns:
            crop = np.asarray(image[top : top + side, left : left + side], np.float32)
            missing = [(0, side - length) for length in crop.shape[:2]]
            yield np.pad(crop, (*missing, (0, 0)), mode="reflect")


def _starts(length: int, side: int) -> list[int]:
    """Start positions of the crops along one axis, from its start to near its end.

    Multiples of 8 pixels, so that the blocks of JPEG files are aligned as in training crops.
    """
    count = min(-(-length // side), GRID)
    return sorted(set((np.linspace(0, max(length - side, 0), count).astype(int) // 8 * 8).tolist()))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _classify(network: nn.Module, classifier: nn.Module, params: Any, degraded: jax.Array):
    features = network.apply({"params": params["network"]}, degraded, method="features")
    inputs = (features, degraded) if classifier.image_input else (features,)
    return classifier.apply({"params": params["classifier"]}, *inputs)
