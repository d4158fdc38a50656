"""Untrained networks, initialised as in the published study."""

import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dcpt_jax import models

_REDRAWN = ("kernel", "bias")


def untrained_params(model: Any, seed: int = 0) -> Any:
    """Initialises the parameters of a network as the published study does.

    Kernels of convolutions and linear layers are uniform in +-sqrt(6 / (5 fan_in)) (Kaiming with
    a = 2) and biases are 0. Everything else is as in `model.init`, so NAFNet's blocks are the
    identity.

    Args:
        model: restoration network of `dcpt_jax.create_model`.
        seed: of the random numbers.

    Returns:
        The parameters, float32 NumPy arrays.
    """
    image = jnp.zeros((1, model.size_multiple, model.size_multiple, 3), jnp.float32)

    @jax.jit
    def other_params(key: jax.Array) -> dict[str, jax.Array]:
        params = traverse_util.flatten_dict(model.init(key, image)["params"], sep="/")
        return {name: leaf for name, leaf in params.items() if not name.endswith(_REDRAWN)}

    params = {name: np.asarray(leaf) for name, leaf in other_params(jax.random.key(seed)).items()}
    for name, leaf in traverse_util.flatten_dict(models.parameter_shapes(model), sep="/").items():
        if name.endswith("bias"):
            params[name] = np.zeros(leaf.shape, np.float32)
        elif name.endswith("kernel"):
            rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
            bound = math.sqrt(6 / (5 * math.prod(leaf.shape[:-1])))
            params[name] = rng.uniform(-bound, bound, leaf.shape).astype(np.float32)
    return traverse_util.unflatten_dict(params, sep="/")
