"""Self-ensemble: the mean over the eight flips and transpositions of an image. NumPy only."""

from collections.abc import Callable

import numpy as np


def self_ensemble(predict: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """Mean of a function's outputs for the eight orientations of an image, each turned back.

    The orientations are those of the reference: identity, left-right flip, up-down flip and both,
    each also transposed (Timofte et al., Seven Ways to Improve Example-Based Single Image Super
    Resolution, 2016, section 3.4). The function receives a non-square image in two shapes.

    Returns:
        [h, w, c] in the dtype of the outputs, not clipped.
    """
    total = None
    for transposed in (False, True):
        for rows in (1, -1):
            for columns in (1, -1):
                # The flip is first in one direction and last in the other, so that each undoes the
                # other.
                turned = image[::rows, ::columns]
                if transposed:
                    turned = turned.swapaxes(0, 1)
                output = np.asarray(predict(np.ascontiguousarray(turned)))
                if transposed:
                    output = output.swapaxes(0, 1)
                output = output[::rows, ::columns]
                # Outputs may be read-only views of device memory, so the sum starts as a copy.
                total = output.copy() if total is None else np.add(total, output, out=total)
    return np.multiply(total, 1 / 8, out=total)
