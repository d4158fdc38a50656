"""Times of the kernels of a function, from a trace of `jax.profiler`."""

from __future__ import annotations

import collections
import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax


def profile(
    run: Callable[[], None], folder: str, *, runs: int, most: int = 25
) -> list[dict[str, Any]]:
    """Traces some runs of a function.

    Args:
        run: the function; returns when the device is done.
        folder: for the trace files.
        runs: number of runs.
        most: number of kernels to list.

    Returns:
        The kernels with the largest times, each with "name", "ms" and "calls" per run and "share"
        of the total; the first entry is the sum, named "all kernels".
    """
    with jax.profiler.trace(folder):
        for _ in range(runs):
            run()
    traces = sorted(Path(folder).rglob("*.trace.json.gz"))
    if not traces:
        raise FileNotFoundError(f"the profiler wrote no trace.json.gz in {folder}")
    with gzip.open(traces[-1]) as file:
        return summary(json.load(file)["traceEvents"], runs=runs, most=most)


def summary(events: Iterable[dict[str, Any]], *, runs: int, most: int = 25) -> list[dict[str, Any]]:
    """The table that `profile` returns, from the events of a trace in Chrome's format.

    Includes events that have a duration and are on a device stream, or on a CPU, which has none,
    on XLA's threads.
    """
    events = list(events)
    names = {("process_name",): {}, ("thread_name",): {}}
    for event in events:
        if event.get("ph") == "M" and (event.get("name"),) in names:
            key = (event["pid"], event.get("tid") if event["name"] == "thread_name" else None)
            names[(event["name"],)][key] = event["args"]["name"]
    devices = {pid for (pid, _), name in names["process_name",].items() if "/device:" in name}
    streams = {
        key
        for key, name in names["thread_name",].items()
        if (key[0] in devices and "Stream" in name)
        or (not devices and "XLA" in name and "main" not in name)
    }
    time, calls = collections.Counter(), collections.Counter()
    for event in events:
        if event.get("ph") == "X" and (event["pid"], event.get("tid")) in streams:
            time[event["name"]] += event.get("dur", 0)
            calls[event["name"]] += 1
    total = sum(time.values())
    table = [{"name": "all kernels", "ms": total / 1e3 / runs, "calls": sum(calls.values()) / runs}]
    for name, spent in time.most_common(most):
        table.append(
            {
                "name": name,
                "ms": spent / 1e3 / runs,
                "calls": calls[name] / runs,
                "share": spent / max(total, 1e-9),
            }
        )
    return table
