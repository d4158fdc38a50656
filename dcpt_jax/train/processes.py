"""Several processes that train together, one or more on each host: who does what, and agreeing.

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
    """Makes this process one of several if the flags of these names say that it is."""
    given = (coordinator, num_processes, process_id)
    if not distributed and given == (None, None, None):
        return
    if not distributed and None in given:
        raise ValueError(
            "--coordinator_address, --num_processes and --process_id belong together: set all "
            "three, or --distributed on a cluster that JAX knows"
        )
    initialise(*given)


def initialise(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Makes this process one of several. Call it before anything else asks JAX for its devices.

    On clusters that JAX knows (Slurm, Open MPI, TPU pods, Kubernetes) it finds out by itself what
    is not given here.

    Args:
        coordinator: address and port of process 0, e.g. "10.0.0.1:1234".
        num_processes: how many processes there are.
        process_id: number of this one, counted from 0.

    Raises:
        ValueError: if JAX cannot find out what is not given, or what is given makes no sense.
        RuntimeError: if the processes do not find each other.
    """
    if None not in (num_processes, process_id) and not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id is {process_id}, but must be in 0 .. {num_processes - 1}, as "
            f"--num_processes is {num_processes}"
        )
    # Used on CPUs only, and the default of newer versions: without it they cannot compute together.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except ValueError as error:
        raise ValueError(
            f"the processes cannot be put together: {error} Set --coordinator_address, "
            "--num_processes and --process_id"
        ) from error


def is_main() -> bool:
    """Whether this is the process that prints and writes what is written once."""
    return jax.process_index() == 0


def exchange(text: str) -> list[str]:
    """What each process passes, in their order; all have to call it."""
    if jax.process_count() == 1:
        return [text]
    content = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(content.size, np.int32))
    room = 256 << max(0, int(sizes.max() - 1).bit_length() - 8)  # few sizes, so few programs
    rows = multihost_utils.process_allgather(np.pad(content, (0, room - content.size)))
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def on_main(function: Callable[[], Any]) -> Any:
    """Calls a function in the main process alone and returns its result, JSON values, in all.

    Where it raises, the other processes raise a RuntimeError that says so.
    """
    if jax.process_count() == 1:
        return function()
    error, answer = None, {}
    if is_main():
        try:
            answer = {"value": function()}
        except Exception as caught:
            error, answer = caught, {"error": str(caught) or type(caught).__name__}
    answer = json.loads(exchange(json.dumps(answer))[0])
    if error is not None:
        raise error
    if "error" in answer:
        raise RuntimeError(f"process 0 stopped: {answer['error']}")
    return answer["value"]


def gather(tree: Any) -> Any:
    """Whole host arrays of arrays on any devices, in every process; all have to call it.

    They are fetched one by one, so that a device needs room for one besides its share.
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
    """Prints a line for the user, in the main process alone; it goes to the log file, too."""
    if is_main():
        logs.say(text)


def total(values: np.ndarray) -> np.ndarray:
    """The sum over all processes of a small host array; all have to call it."""
    parts = exchange(json.dumps(values.tolist()))  # as text, as arrays would lose half their digits
    return values if len(parts) == 1 else np.sum([json.loads(part) for part in parts], axis=0)


def local_rows(array: jax.Array) -> np.ndarray:
    """Those rows of an array, split over all devices along its first axis, that are here."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
