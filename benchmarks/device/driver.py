"""Tests and measures the package on a GPU within a time budget: see README.md.

    benchmarks/device/run.sh --budget 210 --out results --golden RECORDINGS

All processes start early and compile in parallel, limited by the number of slots. Once all are
compiled, or a share of the budget is spent, each gets the device exclusively for a short turn, in
order of importance; processes that are still compiling are suspended during a turn. Results are
written to results.json in the folder --out as soon as they are available.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.device import job_list, table
from dcpt_jax import files

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("recordings", "operations", "networks", "profile", "pipeline", "commands")
COMPILING = 0.5  # share of the budget after which the first turns start at the latest
_FOR_PIPELINE = 0.15  # share of the budget reserved for the input pipeline


class Process:
    """A running job, with its messages and its state.

    Attributes:
        state: "running", "ready" for its turn, "timing", "done", or "failed".
    """

    def __init__(self, job: job_list.Job, environment: dict[str, str]):
        self.job, self.state, self.began = job, "running", time.monotonic()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", job.module, json.dumps(job.arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=environment,
            start_new_session=True,  # a process group, to be suspended and ended as a whole
        )
        self._messages: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self._halted = False

    def _read(self) -> None:
        for line in self._process.stdout:
            self._messages.put(line)
        self._messages.put(None)

    def poll(self) -> dict[str, Any]:
        """Results sent since the last call."""
        figures: dict[str, Any] = {}
        while not self._messages.empty():
            line = self._messages.get()
            if line is None:
                code = self._process.wait()
                self.state = "done" if code == 0 else "failed"
                if code:
                    figures["error"] = f"exit code {code}: {self.tail()}"
                break
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if "ready" in message:
                self.state = "ready"
                figures |= {"ready after s": time.monotonic() - self.began, **message["ready"]}
            else:
                figures |= message.get("figures", {})
        return figures

    def tail(self) -> str:
        """The end of its standard error."""
        self._log.seek(0)
        return self._log.read()[-1500:]

    def take_turn(self) -> None:
        """Starts its measurement."""
        self.state = "timing"
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except OSError:  # it has ended; `poll` will report it
            pass

    def halt(self, halted: bool) -> None:
        """Suspends it with all its child processes, or resumes it."""
        if halted != self._halted and self.state not in ("done", "failed"):
            self._signal(signal.SIGSTOP if halted else signal.SIGCONT)
            self._halted = halted

    def end(self, reason: str) -> dict[str, Any]:
        """Ends it with all its child processes; returns results with the reason."""
        self.halt(False)
        self._signal(signal.SIGKILL)
        self.state = "failed"
        return {"error": f"{reason}; {self.tail()[-600:]}"}

    def close(self) -> None:
        """Releases all resources."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


class Driver:
    """Runs jobs until all are done or the time is over, and keeps results.json up to date."""

    def __init__(self, options: argparse.Namespace, facts: dict[str, Any]):
        self.began, self.options = time.monotonic(), options
        self.results: dict[str, Any] = {"facts": facts, "parts": {}}
        self.processes: list[Process] = []
        self._environment = environment(options.rehearse)

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def note(self, job: job_list.Job, figures: dict[str, Any]) -> None:
        """Adds results and writes the file."""
        if not figures:
            return
        part = self.results["parts"].setdefault(job.part, {})
        part.setdefault(job.name, {}).update(figures)
        self.results["facts"]["seconds"] = self.spent
        if "error" in figures:
            print(f"{self.spent:5.0f} s  {job.name}: {figures['error'][-200:]}", flush=True)
        files.write_json(self.options.out / "results.json", self.results, indent=1)

    def run(self, jobs: Sequence[job_list.Job]) -> None:
        """Runs all jobs within the budget."""
        waiting = list(jobs)
        try:
            while waiting or any(p.state in ("running", "ready") for p in self.processes):
                if self.spent > self.options.budget:
                    break
                self._poll()
                self._start(waiting)
                self._give_turns(waiting)
                time.sleep(0.1)
            self._poll()
        finally:
            for process in self.processes:
                if process.state in ("running", "ready", "timing"):
                    self.note(process.job, process.end(f"time limit reached while {process.state}"))
                process.close()
            for job in waiting:
                self.note(job, {"error": "not started: time limit reached"})

    def _poll(self) -> None:
        for process in self.processes:
            before = process.state
            if before in ("done", "failed"):
                continue
            self.note(process.job, process.poll())
            if process.state != before:
                print(f"{self.spent:5.0f} s  {process.job.name}: {process.state}", flush=True)

    def _start(self, waiting: list[job_list.Job]) -> None:
        while waiting and sum(p.state == "running" for p in self.processes) < self.options.slots:
            self.processes.append(Process(waiting.pop(0), self._environment))

    def _give_turns(self, waiting: Sequence[job_list.Job]) -> None:
        """Gives turns to all jobs that are ready, if it is time for turns."""
        compiling = any(p.state == "running" and p.job.timed for p in self.processes)
        if self.options.after and not self.options.after.exists():
            return
        early = self.spent < COMPILING * self.options.budget
        if early and (compiling or any(job.timed for job in waiting)):
            return
        while ready := [p for p in self.processes if p.state == "ready"]:
            # The input pipeline needs all cores: it runs last, or when time gets short.
            if self.options.budget - self.spent > _FOR_PIPELINE * self.options.budget:
                ready.sort(key=lambda process: process.job.part == "pipeline")
            else:
                ready.sort(key=lambda process: process.job.part != "pipeline")
            for process in self.processes:
                process.halt(process is not ready[0])
            if not self._turn(ready[0]):
                break
        for process in self.processes:
            process.halt(False)

    def _turn(self, process: Process) -> bool:
        """Gives a process the device exclusively; False if there is no time left."""
        remaining = self.options.budget - self.spent
        if remaining < 2:
            return False
        start, limit = time.monotonic(), min(process.job.seconds, remaining)
        process.take_turn()
        while process.state == "timing":
            self.note(process.job, process.poll())
            if time.monotonic() - start > limit:
                self.note(process.job, process.end(f"exceeded its time limit of {limit:.3g} s"))
            time.sleep(0.02)
        print(f"{self.spent:5.0f} s  {process.job.name}: {process.state}", flush=True)
        return True


def environment(rehearse: bool) -> dict[str, str]:
    """Environment of all processes: device memory settings, and paths of package and tests."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONUNBUFFERED": "1",
    }
    if rehearse:
        variables |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        # As in tests/conftest.py: compiled programs run only briefly.
        variables.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    return variables


def facts_of_machine(options: argparse.Namespace) -> dict[str, Any]:
    """Date, versions and hardware of the results."""
    card = "CPU (rehearsal)"
    if not options.rehearse:
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version",
                 "--format=csv,noheader"]  # fmt: skip
        try:
            card = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
        except (OSError, subprocess.SubprocessError) as error:
            card = f"unknown: {error}"
    return {
        "date": datetime.date.today().isoformat(),
        "card": card,
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "torch")},
        "budget": options.budget,
        "rehearsal": options.rehearse,
    }


def version(name: str) -> str:
    """Version of an installed package; "" if it is missing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def selected_jobs(options: argparse.Namespace) -> list[job_list.Job]:
    """The jobs of the requested parts."""
    jobs = job_list.all_jobs(
        tiny=options.rehearse,
        golden=str(options.golden.resolve()) if options.golden else "",
        photos=str(options.photos.resolve()) if options.photos else "",
        out=str(options.out.resolve()),
    )
    if "profile" not in options.parts:
        for job in jobs:
            job.arguments.pop("profile", None)
    jobs = [job for job in jobs if job.part in options.parts]
    if options.only:
        known = {job.name: job for job in jobs}
        if unknown := set(options.only) - set(known):
            raise SystemExit(
                f"unknown jobs in --only: {', '.join(sorted(unknown))}; known: {', '.join(known)}"
            )
        jobs = [known[name] for name in options.only]
    return jobs


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--budget", type=float, default=210, help="time limit in seconds (default: %(default)s)")
    add("--out", type=Path, required=True, help="folder for results.json and other output")
    add(
        "--parts",
        default=",".join(PARTS),
        help="parts to run, joined by commas (default: %(default)s)",
    )
    add("--golden", type=Path, help="folder of recordings to compare with (default: no comparison)")
    add("--photos", type=Path, help="folder of photos or packed photos (default: bundled photos)")
    add(
        "--slots", type=int, help="number of processes that compile in parallel (default: by cores)"
    )
    add("--after", type=Path, help="start no measurement before this file exists")
    add("--only", nargs="+", metavar="JOB", help="run only the jobs with these names")
    add("--rehearse", action="store_true", help="use tiny sizes on the CPU")
    options = parser.parse_args(arguments)
    options.parts = options.parts.split(",")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(
            f"unknown parts in --parts: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}"
        )
    options.slots = options.slots or max(2, min(14, (os.cpu_count() or 1) - 2))
    return options


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs everything and prints the table."""
    options = parse_options(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its processes are ended too
    driver = Driver(options, facts_of_machine(options))
    driver.run(selected_jobs(options))
    driver.results["facts"]["seconds"] = driver.spent
    driver.results["cost"] = table.costs(driver.results)
    files.write_json(options.out / "results.json", driver.results, indent=1)
    print(table.text(driver.results), flush=True)
    return driver.results


if __name__ == "__main__":
    main()
