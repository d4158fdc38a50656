"""The benchmarks for GPUs, as far as they can be tested on a CPU."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.device import driver, job_list, kernel_times, table

ROOT = Path(__file__).resolve().parents[1]


def results(**parts):
    facts = {"card": "a card", "machine": "16 cores", "date": "2026-11-27", "seconds": 200.0}
    found = {"facts": facts, "parts": parts}
    return found | {"cost": table.costs(found)}


FAST = {
    "nafnet step bfloat16 torch eager": {"ms": 200.0, "batch": 32, "peak GB": 20.0},
    "nafnet step bfloat16 taps": {"ms": 80.0, "batch": 32, "compile s": 40.0,
                                  "kernels": [{"name": "all kernels", "ms": 79.0, "calls": 900}]},
    "nafnet step bfloat16 convolution": {"ms": 60.0, "batch": 16},
    "nafnet step float32 taps": {"error": "not started: time limit reached"},
}  # fmt: skip


def line_of(text, name):
    (line,) = (line for line in text.splitlines() if line.strip().startswith(f"{name} "))
    return line.split()


def test_the_table_compares_images_not_steps():
    text = table.text(results(networks=FAST))
    assert line_of(text, "nafnet step bfloat16 taps")[-1] == "2.50"
    assert line_of(text, "nafnet step bfloat16 convolution")[-1] == "1.67"
    assert line_of(text, "nafnet step float32 taps")[4:] == [
        "not",
        "started:",
        "time",
        "limit",
        "reached",
    ]
    assert "79.000 ms     900 x all kernels" in text


def test_the_table_reports_failed_and_missing_results():
    text = table.text(
        results(
            recordings={
                "nafnet_small": {
                    "nafnet_small, highest": {"right": False, "relative": 1.0, "of allowed": 9.0},
                    "nafnet_small, default": {"error": "XlaRuntimeError: no such algorithm"},
                    "error": "no time left",
                }
            },
            operations={"operations": {"norm plain": {"both: error": "it does not compile"}}},
        )
    )
    assert line_of(text, "nafnet_small, highest")[2] == "FAILED"
    assert "no such algorithm" in text and "no time left" in text
    assert " ".join(line_of(text, "norm plain")[2:]) == "both: error it does not compile"


def test_costs_are_those_of_the_published_schedule_by_our_fastest_step():
    (hours,) = results(networks=FAST)["cost"].values()  # 750,000 steps of 24 images of 80 ms / 32
    assert hours == pytest.approx(750_000 * 24 * 80e-3 / 32 / 3600)


def test_kernels_are_summed_over_the_streams_of_devices():
    def event(pid, tid, name, dur):
        return {"ph": "X", "pid": pid, "tid": tid, "name": name, "dur": dur, "ts": 0}

    events = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/device:GPU:0"}},
        {"ph": "M", "pid": 2, "name": "process_name", "args": {"name": "/host:CPU"}},
        {"ph": "M", "pid": 1, "tid": 7, "name": "thread_name", "args": {"name": "Stream #7"}},
        {"ph": "M", "pid": 1, "tid": 8, "name": "thread_name", "args": {"name": "XLA Modules"}},
        {"ph": "M", "pid": 2, "tid": 7, "name": "thread_name", "args": {"name": "Stream #7"}},
        *(event(1, 7, "gemm", 3000), event(1, 7, "gemm", 1000), event(1, 7, "copy", 2000)),
        *(event(1, 8, "jit_step", 9000), event(2, 7, "python", 9000)),
    ]
    whole, first, second = kernel_times.summary(events, runs=2)
    assert whole == {"name": "all kernels", "ms": 3.0, "calls": 1.5}
    assert first == {"name": "gemm", "ms": 2.0, "calls": 1.0, "share": pytest.approx(2 / 3)}
    assert second["name"] == "copy"


def driven(tmp_path, jobs, **changes):
    options = argparse.Namespace(budget=30, slots=4, out=tmp_path, rehearse=True, after=None)
    vars(options).update(changes)
    kit = driver.Driver(options, {})
    kit.run(jobs)
    assert json.loads((tmp_path / "results.json").read_text()) == kit.results
    return {job.name: kit.results["parts"]["networks"].get(job.name) for job in jobs}


def job(name, do="measure", timed=True, seconds=20):
    return job_list.Job(
        name, "networks", "tests.device_job", {"do": do, "timed": timed}, timed, seconds
    )


def test_turns_do_not_overlap_and_failures_are_reported(tmp_path):
    found = driven(
        tmp_path,
        [job("a"), job("b"), job("crashing", "crash"), job("hanging", "hang", seconds=0.5)],
    )
    first, second = sorted((found[name]["began"], found[name]["ended"]) for name in "ab")
    assert first[1] <= second[0]
    assert "this went wrong" in found["crashing"]["error"]
    assert found["hanging"]["prepared"] == 1
    assert "exceeded its time limit of 0.5 s" in found["hanging"]["error"]


def test_jobs_beyond_the_budget_are_reported(tmp_path):
    found = driven(
        tmp_path, [job("endless", "hang", timed=False), job("late")], budget=1.5, slots=1
    )
    assert "time limit reached while running" in found["endless"]["error"]
    assert found["late"] == {"error": "not started: time limit reached"}


def test_every_job_of_the_kit_has_a_name_of_its_own():
    jobs = job_list.all_jobs(tiny=False, golden="golden", photos="", out="out")
    assert len({one.name for one in jobs}) == len(jobs)
    assert {one.part for one in jobs} == set(driver.PARTS) - {"profile"}
    assert sum(bool(one.arguments.get("profile")) for one in jobs) == 5


@pytest.mark.slow
def test_the_rehearsal_measures_every_part(tmp_path, shared):
    line = [ROOT / "benchmarks/device/run.sh", "--rehearse", "--budget", "900",
            "--out", tmp_path, "--golden", shared / "golden"]  # fmt: skip
    python = {"PYTHON": sys.executable}
    done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, **python})
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    wrong = {
        name: figures["error"]
        for part in found["parts"].values()
        for name, figures in part.items()
        if "error" in figures and "No module named 'torch'" not in figures["error"]
    }
    assert not wrong
    parts = found["parts"]
    assert parts["networks"]["nafnet step float32 package"]["finite"]
    assert len(parts["networks"]["nafnet step float32 package"]["kernels"]) > 3
    assert parts["operations"]["operations"]["norm plain, 2x16x16x16 float32"]["both us"] > 0
    assert all(one["right"] for one in parts["commands"]["commands"].values() if "right" in one)
    assert all(one["right"] for one in parts["recordings"]["dc_nafnet"].values())
    assert 0 <= parts["pipeline"]["input pipeline"]["data_wait"] <= 1
    assert (tmp_path / "run.tar.gz").stat().st_size < 16e6
    assert "share of peak" in done.stdout


def script(tmp_path, name, python):
    """A copy of a script in another tree, and an environment with another `python3`."""
    folder = tmp_path / "tree/benchmarks/device"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks/device" / name, folder)
    (tmp_path / "tree/constraints.txt").write_text("grain==1.0\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text(f"#!/bin/sh\n{python}\n")
    (tmp_path / "bin/python3").chmod(0o755)
    return folder / name, os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def test_an_experiment_stops_only_its_own_commands(tmp_path):
    waits = "trap 'exit 1' TERM; while true; do sleep 0.05; done"
    path, env = script(tmp_path, "evidence.sh", waits)
    other = ["python3", "-m", "benchmarks.evidence", "--output", f"{tmp_path}/out2"]
    with subprocess.Popen(other, env=env) as running:
        try:
            command = ["bash", path, "--output", f"{tmp_path}/out", "--seconds", "1"]
            subprocess.run(command, env=env, timeout=30, check=True, capture_output=True)
            assert running.poll() is None
        finally:
            running.kill()


def test_recordings_are_found_from_where_the_command_is_given(tmp_path):
    path, env = script(tmp_path, "prepare.sh", "true")
    for name in ("models", "classifiers", "train"):
        (tmp_path / "recorded" / name).mkdir(parents=True)
    command = ["sh", path, "recorded"]
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    golden = tmp_path / "tree/.device/golden"
    assert sorted(os.listdir(golden)) == ["classifiers", "models", "train"]
    command[2] = "gone"
    assert subprocess.run(command, cwd=tmp_path, env=env, capture_output=True).returncode
