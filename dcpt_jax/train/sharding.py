"""Data parallelism: batches are split over a mesh of devices, the state is on all of them."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def data_mesh(batch_size: int, accumulate_steps: int = 1) -> Mesh:
    """A one-dimensional mesh over all devices of all processes.

    Args:
        batch_size: global batch, to be divided among them.
        accumulate_steps: equal parts that each device works its share through in.

    Returns:
        Mesh with the axis "data".

    Raises:
        ValueError: if the batch cannot be divided evenly.
    """
    devices = jax.devices()
    if batch_size % len(devices):
        below = batch_size // len(devices) * len(devices)
        allowed = [str(size) for size in (below, below + len(devices)) if size]
        raise ValueError(
            f"config.batch_size is {batch_size}, which {len(devices)} devices cannot share evenly; "
            f"use --config.batch_size={' or '.join(allowed)}, or fewer devices"
        )
    share = batch_size // len(devices)
    if share % accumulate_steps:
        divisors = [str(n) for n in range(1, share + 1) if share % n == 0]
        raise ValueError(
            f"config.accumulate_steps is {accumulate_steps}, but has to divide the batch of each "
            f"device, {share} (config.batch_size {batch_size} on {len(devices)} devices); use "
            f"--config.accumulate_steps={' or '.join(divisors)}"
        )
    return Mesh(np.array(devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of the state: whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch: the first axis divided among the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays from the part of the batch that this process loaded."""
    sharding = split(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()
    }
