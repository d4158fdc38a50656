"""Messages between a process of the kit and the driver.

A process prepares (imports, traces, compiles), reports that it is ready, waits for its turn,
measures alone on the device, and sends its results. Each message is a line of JSON on the original
standard output; output of libraries is redirected to the standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

_stdout = None


def arguments() -> dict[str, Any]:
    """The arguments of this process; afterwards only messages go to its standard output."""
    global _stdout
    _stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return json.loads(sys.argv[1])


def send(kind: str, figures: dict[str, Any]) -> None:
    """Sends results: "figures" at any time, "ready" once."""
    print(json.dumps({kind: figures}), file=_stdout, flush=True)


def wait_for_turn(**facts: Any) -> None:
    """Reports that this process is ready, with preparation costs; returns when its turn starts."""
    send("ready", facts)
    if not sys.stdin.readline():
        sys.exit("the driver has ended")


def milliseconds(
    run: Callable[[], None], *, warm_up: int = 3, least: int = 10, seconds: float = 3.0
) -> dict[str, float]:
    """Times a function that returns when the device is done.

    Args:
        run: the function.
        warm_up: number of runs that are not counted.
        least: minimum number of counted runs, unless they take three times the time.
        seconds: time after which no more runs are started.

    Returns:
        "ms", the median; "fastest ms"; "runs".
    """
    phase_start, times = time.perf_counter(), []
    for _ in range(warm_up):
        run()
        if time.perf_counter() - phase_start > seconds:
            break
    phase_start = time.perf_counter()
    while True:
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
        spent = time.perf_counter() - phase_start
        if (len(times) >= least and spent > seconds) or spent > 3 * seconds or len(times) > 200:
            return {"ms": median(times), "fastest ms": min(times), "runs": len(times)}
