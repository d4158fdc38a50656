"""Batches are split over all devices; the state is whole on each, or split over groups of them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dcpt_jax.train.state import Metrics, Step, TrainState

AXES = ("data", "fsdp")
# Smaller arrays are replicated: together they are a few hundredths of a state, but most of its
# arrays, and each array that is split must be gathered in every step.
SPLIT_FROM = 2**14  # elements


def make_mesh(
    batch_size: int,
    accumulate_steps: int = 1,
    fsdp_devices: int = 1,
    *,
    devices: Sequence[jax.Device] | None = None,
    key: str = "config.batch_size",
) -> Mesh:
    """A mesh over all devices of all processes, or over some.

    Args:
        batch_size: global batch, to be divided among them.
        accumulate_steps: equal parts that each device works its share through in.
        fsdp_devices: how many devices share one copy of the state; -1: all of them.
        devices: those to use; None for all.
        key: what the error message calls the batch size.

    Returns:
        Mesh with the axes "data" and "fsdp"; devices that share a copy are neighbours, on one host
        where it has enough.

    Raises:
        ValueError: if the batch or the devices cannot be divided evenly.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    held = Counter(device.process_index for device in devices)
    if len(set(held.values())) > 1:
        raise ValueError(
            "the processes have different numbers of devices: "
            + ", ".join(f"process {number} has {count}" for number, count in held.items())
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
    """The devices of a mesh in a few words, e.g. "8 x NVIDIA H100 in 2 processes"."""
    words = f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
    if jax.process_count() > 1:
        words += f" in {jax.process_count()} processes"
    if mesh.shape["fsdp"] > 1:
        words += f", each with 1/{mesh.shape['fsdp']} of the state"
    return words


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of what is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch: the first axis divided among all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """How each array of a state is held by the devices of a mesh.

    Arrays of `SPLIT_FROM` elements or more are split over the axis "fsdp" along their longest axis
    that its size divides (of equal ones the last, the output channels of a kernel); the others are
    whole on every device.
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
    """Puts host arrays, the same in all processes, on the devices, as `state_shardings` says."""

    def put(leaf: np.ndarray, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(put, tree, state_shardings(tree, mesh))


def with_whole_params(step: Step, mesh: Mesh) -> Step:
    """A step that gathers the parameters on every device before it computes.

    Only the batch is then divided among the devices. The compiler updates each part of the split
    state where it is kept.
    """

    def whole(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        params = jax.lax.with_sharding_constraint(state.params, replicated(mesh))
        return step(state.replace(params=params), batch)

    return whole


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays from the part of the batch that this process loaded."""
    sharding = split(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()
    }
