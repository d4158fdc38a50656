"""Sharding: batches over all devices; the state replicated, or split over groups of devices."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dcpt_jax.train.state import Metrics, Step, TrainState

AXES = ("data", "fsdp")
# Smaller arrays are replicated: most arrays are small and together only a few percent of the state,
# but every split array costs a gather in each step.
SPLIT_FROM = 2**14  # elements


def make_mesh(
    batch_size: int,
    accumulate_steps: int = 1,
    fsdp_devices: int = 1,
    *,
    devices: Sequence[jax.Device] | None = None,
    key: str = "config.batch_size",
) -> Mesh:
    """A mesh over the devices of all processes.

    Args:
        batch_size: global batch, divided among all devices.
        accumulate_steps: equal parts in which each device processes its share.
        fsdp_devices: number of devices that share one copy of the state; -1 = all.
        devices: devices to use; None = all.
        key: config key of the batch size, for error messages.

    Returns:
        Mesh with the axes "data" and "fsdp"; devices that share a copy are on one host if possible.

    Raises:
        ValueError: if the batch or the devices cannot be divided evenly.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    devices_of_process = Counter(device.process_index for device in devices)
    if len(set(devices_of_process.values())) > 1:
        raise ValueError(
            "the processes have different numbers of devices: "
            + ", ".join(
                f"process {number} has {count}" for number, count in devices_of_process.items()
            )
        )
    if batch_size % len(devices):
        below = batch_size // len(devices) * len(devices)
        allowed = [str(size) for size in (below, below + len(devices)) if size]
        raise ValueError(
            f"{key} is {batch_size}, which {len(devices)} devices cannot share evenly; "
            f"use {' or '.join(allowed)}, or fewer devices"
        )
    share = batch_size // len(devices)
    if share % accumulate_steps:
        raise ValueError(
            f"config.accumulate_steps is {accumulate_steps}, but must divide the batch of each "
            f"device, {share} ({key} {batch_size} on {len(devices)} devices); use "
            f"--config.accumulate_steps={_divisors(share)}"
        )
    if fsdp_devices == -1:
        fsdp_devices = len(devices)
    if len(devices) % fsdp_devices:
        raise ValueError(
            f"config.fsdp_devices is {fsdp_devices}, but must divide the number of devices, "
            f"{len(devices)}; use --config.fsdp_devices={_divisors(len(devices))}, or -1 for all"
        )
    return Mesh(np.array(devices).reshape(-1, fsdp_devices), AXES)


def _divisors(number: int) -> str:
    return " or ".join(str(n) for n in range(1, number + 1) if number % n == 0)


def describe(mesh: Mesh) -> str:
    """The devices of a mesh for messages, e.g. "8 x NVIDIA H100 in 2 processes"."""
    words = f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
    if jax.process_count() > 1:
        words += f" in {jax.process_count()} processes"
    if mesh.shape["fsdp"] > 1:
        words += f", each with 1/{mesh.shape['fsdp']} of the state"
    return words


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays that are whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch: the first axis divided among all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """The sharding of each array of a state.

    Arrays of `SPLIT_FROM` elements or more are split over the mesh axis "fsdp", along their longest
    axis that it divides (of equally long ones the last: the output channels of a kernel). All
    others are replicated.
    """
    parts = mesh.shape["fsdp"]

    def of(leaf: Any) -> NamedSharding:
        fitting = [axis for axis, length in enumerate(leaf.shape) if length % parts == 0]
        if parts == 1 or not fitting or math.prod(leaf.shape) < SPLIT_FROM:
            return replicated(mesh)
        longest = max(fitting, key=lambda axis: (leaf.shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(of, state)


def place(tree: Any, mesh: Mesh) -> Any:
    """Places host arrays, equal in all processes, on the devices by `state_shardings`."""

    def put(leaf: np.ndarray, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(put, tree, state_shardings(tree, mesh))


def with_gathered_params(step: Step, mesh: Mesh) -> Step:
    """Wraps a step so that it gathers the parameters on every device first.

    The computation is then split over the batch only; the update of the state stays sharded.
    """

    def gathered_step(
        state: TrainState, batch: Mapping[str, jax.Array]
    ) -> tuple[TrainState, Metrics]:
        params = jax.lax.with_sharding_constraint(state.params, replicated(mesh))
        return step(state.replace(params=params), batch)

    return gathered_step


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays from this process's part of the batch."""
    sharding = split(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()
    }
