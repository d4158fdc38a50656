"""Untrained networks, initialised as in the published study."""

import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def untrained_params(model: Any, seed: int = 0) -> Any:
    """Draws the parameters of a network as the published study does.

    Kernels of convolutions and linear layers are uniform in +-sqrt(6 / (5 fan_in)) (Kaiming with
    a = 2) and biases are 0. Everything else is as in `model.init`, so NAFNet's blocks are the
    identity.

    Args:
        model: restoration network of `dcpt_jax.create_model`.
        seed: of the draws.

    Returns:
        The parameters, float32 NumPy arrays.
    """
    size = model.size_multiple
    image = jnp.zeros((1, size, size, 3), jnp.float32)
    drawn = jax.jit(model.init)(jax.random.key(seed), image)["params"]

    def redrawn(path: Any, leaf: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        if name.endswith("['bias']"):
            return np.zeros(leaf.shape, np.float32)
        if not name.endswith("['kernel']"):
            return np.asarray(leaf, np.float32)
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        bound = math.sqrt(6 / (5 * math.prod(leaf.shape[:-1])))
        return rng.uniform(-bound, bound, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(redrawn, drawn)
