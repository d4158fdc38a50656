"""Coordinates several processes that train together, one or more on each host.

No-ops in a single process, the usual case.
"""

import json
import socket
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dcpt_jax import logs


def join(
    distributed: bool,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins other processes, if any; to be called before anything else initialises JAX's devices.

    Args:
        distributed: whether to detect the other arguments, on clusters that JAX supports (Slurm,
            Open MPI, TPU pods, Kubernetes).
        coordinator: address and port of process 0, e.g. "10.0.0.1:1234".
        num_processes: number of processes.
        process_id: index of this process.

    Raises:
        ValueError: if an argument is missing and cannot be detected, or is out of range.
        RuntimeError: if the processes cannot connect.
    """
    settings = (coordinator, num_processes, process_id)
    if not distributed and settings == (None, None, None):
        return
    if not distributed and None in settings:
        raise ValueError(
            "--coordinator_address, --num_processes and --process_id belong together: set all "
            "three, or --distributed on a cluster that JAX knows"
        )
    if None not in (num_processes, process_id) and not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id is {process_id}, but must be in 0 .. {num_processes - 1}, as "
            f"--num_processes is {num_processes}"
        )
    # Collectives on CPUs; the default of newer JAX versions. Has no effect on accelerators.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(*settings)
    except ValueError as error:
        raise ValueError(
            f"the processes cannot be connected: {error} Set --coordinator_address, "
            "--num_processes and --process_id"
        ) from error


def is_main() -> bool:
    """Whether this is process 0, which alone prints and writes files."""
    return jax.process_index() == 0


def exchange(text: str) -> list[str]:
    """Gathers a text from every process, in process order; all must call it."""
    if jax.process_count() == 1:
        return [text]
    content = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(content.size, np.int32))
    room = 256 << max(
        0, int(sizes.max() - 1).bit_length() - 8
    )  # few distinct sizes, so few compilations
    rows = multihost_utils.process_allgather(np.pad(content, (0, room - content.size)))
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def on_main(function: Callable[[], Any]) -> Any:
    """Calls a function in the main process only; returns its result (JSON values) in all.

    If it raises, the other processes raise a RuntimeError with the message.
    """
    if jax.process_count() == 1:
        return function()
    error, result = None, {}
    if is_main():
        try:
            result = {"value": function()}
        except Exception as caught:
            error, result = caught, {"error": str(caught) or type(caught).__name__}
    result = json.loads(exchange(json.dumps(result))[0])
    if error is not None:
        raise error
    if "error" in result:
        raise RuntimeError(f"process 0 stopped: {result['error']}")
    return result["value"]


def gather(tree: Any) -> Any:
    """Gathers sharded arrays as whole host arrays in every process; all must call it.

    One array at a time, so that a device needs memory for a single whole array.
    """
    return jax.tree.map(_gather, tree)


def _gather(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def host() -> str:
    """Name of this process in messages."""
    return f"process {jax.process_index()} on {socket.gethostname()}"


def say(text: str) -> None:
    """Prints and logs a line for the user, in the main process only."""
    if is_main():
        logs.say(text)


def total(values: np.ndarray) -> np.ndarray:
    """Sums a small host array over all processes; all must call it."""
    parts = exchange(json.dumps(values.tolist()))  # as text: JAX arrays would round to float32
    return values if len(parts) == 1 else np.sum([json.loads(part) for part in parts], axis=0)


def local_rows(array: jax.Array) -> np.ndarray:
    """The local rows of an array that is split over all devices along its first axis."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
