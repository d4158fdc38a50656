"""A degradation classifier applied to photos of any size.

The classifier learned from crops of one size, and the averages inside the networks are those of
such crops. So a photo is judged by crops of that size, not resized: at most 4 x 4 of them, spread
evenly. That bounds memory and time whatever the photo's size, and as a degradation covers the whole
photo, samples of it are enough. Photos smaller than a crop are padded by reflection at the bottom
and right, as in training.

The logits of the crops are averaged. The classifier ends with a mean over positions and a linear
layer, so the mean of logits extends that mean over all crops: those with clear evidence count more
than flat ones, where the logits are small.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from dcpt_jax import images
from dcpt_jax import weights as weights_folders

GRID = 4  # crops along each axis, at most
CROP = 128  # pixels; of the paper, for weights that do not say the size of their training crops


def inspect(image: Any, weights: Path | str | None = None) -> dict[str, float]:
    """Tells which degradations the classifier sees in an image; this is `dcpt_jax.inspect`.

    Args:
        image: [h, w, 3] floating-point array, RGB in [0, 1], of any size >= 1x1.
        weights: weights folder or work directory that holds a classifier; None: the network that
            comes with this package. They are read anew by every call; for many images see
            `Inspector`.

    Returns:
        Probability of each degradation, the largest first. A flat classifier names one class of
        several: its probabilities add up to 1. For a multi-hot classifier each is the probability
        that this degradation is there, alone or with others.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if the weights hold no classifier, or `image` is something else.
    """
    return Inspector.load(weights)(image)


class Inspector:
    """A classifier ready to inspect images, with the network whose features it takes.

    One program is compiled, for one crop; the module says how photos are judged by crops.

    Attributes:
        labels: what the logits stand for.
    """

    def __init__(
        self,
        params: weights_folders.Params,
        description: weights_folders.WeightsDescription,
        place: Path | str | None = None,
    ):
        """Moves the weights, as `weights.load_weights` returns them, to the device.

        `place` names them in the ValueError that is raised if they hold no classifier.
        """
        classifier = description.required_classifier(place)
        self.labels = classifier.labels
        self._network = description.network()
        self._classifier = classifier.module()
        self._params = jax.device_put({name: params[name] for name in ("network", "classifier")})
        self._side = description.crop_size or CROP

    @classmethod
    def load(cls, weights: Path | str | None = None) -> "Inspector":
        """Inspector with the classifier of a weights folder or work directory."""
        return cls(*weights_folders.load_weights(weights), weights)

    def __call__(self, image: Any) -> dict[str, float]:
        """Inspects an image; see `inspect` for what it takes and returns."""
        crops = spread_crops(images.checked_image(image), self._side)
        logits = [np.asarray(self._logits(crop)) for crop in crops]
        return self.labels.probabilities(np.mean(np.stack(logits), axis=0, dtype=np.float64))

    def _logits(self, crop: np.ndarray) -> jax.Array:
        return _classify(self._network, self._classifier, self._params, crop[None])[0]


def spread_crops(image: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Crops that cover an image, or are spread evenly over one that is too large for that.

    Yields:
        float32 [side, side, 3], `GRID` x `GRID` of them at most; padded by reflection where the
        image is smaller.
    """
    rows, columns = (_starts(length, side) for length in image.shape[:2])
    for top in rows:
        for left in columns:
            crop = np.asarray(image[top : top + side, left : left + side], np.float32)
            missing = [(0, side - length) for length in crop.shape[:2]]
            yield np.pad(crop, (*missing, (0, 0)), mode="reflect")


def _starts(length: int, side: int) -> list[int]:
    """Where crops begin along one axis: the first at its start, the last near its end.

    At multiples of 8 pixels, where the blocks of a JPEG file begin, as they do in training crops.
    """
    count = min(-(-length // side), GRID)
    return sorted(set((np.linspace(0, max(length - side, 0), count).astype(int) // 8 * 8).tolist()))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _classify(network: nn.Module, classifier: nn.Module, params: Any, degraded: jax.Array):
    features = network.apply({"params": params["network"]}, degraded, method="features")
    inputs = (features, degraded) if classifier.image_input else (features,)
    return classifier.apply({"params": params["classifier"]}, *inputs)
