"""Times functions of several processes, interleaved.

Each side of a comparison has its own process, memory and environment: in one process, memory
allocation of one framework fragments the heap of the other, and settings that help one (huge pages)
may harm the other. The processes wait for each other, so that other load on the machine affects all
equally. A turn has several runs in sequence, as in training: the first one after a pause is slower,
as the system or the host of a virtual machine has reclaimed memory.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

WARM_UP = 2  # rounds that are not counted
RUNS = 4  # runs per turn, in sequence as in training; the first is not counted


class Side:
    """A process that creates functions without arguments, and runs them on request.

    A context manager that ends the process.

    Attributes:
        name: of the side.
        facts: facts returned when the functions were created; empty if `missing`.
        missing: name of a package that could not be imported, or "".
    """

    def __init__(
        self,
        name: str,
        make: str,
        arguments: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ):
        """Starts the process and waits until it is ready.

        Args:
            name: of the side.
            make: "module:function", which returns functions by name, and facts as JSON.
            arguments: its keyword arguments, JSON.
            environment: additional environment variables of the process.

        Raises:
            RuntimeError: if the process ends.
        """
        self.name = name
        paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.interleaved", make, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                **(environment or {}),
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            },
        )
        self.facts, self.missing = self._receive()

    def time(self, function: str) -> float:
        """Milliseconds per run of a function: the median of a turn, without its first run."""
        self._request(function)
        return self._receive()

    def peak_bytes(self) -> int:
        """Peak memory of the process, as seen by the system."""
        self._request("")
        return self._receive()

    def _request(self, function: str) -> None:
        print(function, file=self._process.stdin, flush=True)

    def _receive(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def time_interleaved(
    sides: Sequence[Side], function: str, repetitions: int
) -> dict[str, list[float]]:
    """Milliseconds of each repetition on each side; each round has all sides."""
    rounds = [
        {side.name: side.time(function) for side in sides} for _ in range(repetitions + WARM_UP)
    ]
    return {side.name: [times[side.name] for times in rounds[WARM_UP:]] for side in sides}


def _serve(make: str, arguments: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # redirects the output of libraries

    def send(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    module, function = make.split(":")
    try:
        functions, facts = getattr(importlib.import_module(module), function)(
            **json.loads(arguments)
        )
    except ImportError as error:
        send([{}, str(error)])
        return
    send([facts, ""])
    for line in sys.stdin:
        if requested := line.rstrip("\n"):
            send(median([_milliseconds(functions[requested]) for _ in range(RUNS)][1:]))
        else:
            send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _milliseconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
