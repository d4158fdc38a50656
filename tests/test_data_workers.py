"""Worker processes: deaths, signals, memory and shutdown."""

import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from dcpt_jax.data import pipeline, workers
from dcpt_jax.data.photos import PhotoSource
from tests.test_data_pipeline import assert_same, stream, take

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
PROGRAM = """
import os, signal, sys
from dcpt_jax.data import classes, photos, pipeline, tasks

def main():
    source = photos.PhotoSource(sys.argv[1:])
    batches = pipeline.make_batches(
        classes.synthetic_classes(tasks.resolve_tasks("5d"), source),
        batch_size=2, crop=16, seed=0, num_workers=2,
    )
    next(batches)
    print("running", flush=True)
    signal.pause()

"""

KILLING = """
import logging, sys
import psutil
from dcpt_jax.data import classes, photos, pipeline, tasks

def main():
    logging.basicConfig(stream=sys.stdout)
    pipeline.BATCHES_BETWEEN_DEATHS = 2
    source = photos.PhotoSource(sys.argv[1:])
    with pipeline.make_batches(
        classes.synthetic_classes(tasks.resolve_tasks("5d"), source),
        batch_size=32, crop=64, seed=0, num_workers=2,
    ) as batches:
        for _ in range(3):
            for _ in range(4):
                next(batches)
            for one in psutil.Process().children():
                if "spawn_main" in " ".join(one.cmdline()):
                    one.kill()

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def paths(position_photos):
    return position_photos


@pytest.fixture
def photos(paths):
    return PhotoSource(paths)


def children(pid):
    psutil = pytest.importorskip("psutil")
    found = psutil.Process(pid).children(recursive=True)
    return [p for p in found if "resource_tracker" not in " ".join(p.cmdline())]


def rss(processes):
    return sorted(process.memory_info().rss for process in processes)


# --- deaths ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_worker_is_replaced_unless_it_dies_again_soon(photos, num_workers, caplog):
    before = {p.pid for p in children(os.getpid())}
    with stream(photos, num_workers=num_workers) as batches:
        found = [next(batches)]
        next(p for p in children(os.getpid()) if p.pid not in before).kill()
        found += [next(batches) for _ in range(19)]
        assert "worker process died before batch" in caplog.text
        assert "killed by SIGKILL, exit code -9" in caplog.text
        assert "the batches stay the same" in caplog.text
        assert batches.position == 20
        assert_same(found, take(20, photos))
        next(p for p in children(os.getpid()) if p.pid not in before).kill()
        with pytest.raises(pipeline.DataError, match=r"worker process died before batch .*SIGKILL"):
            for _ in range(100):
                next(batches)
        with pytest.raises(ValueError, match="closed"):
            next(batches)
    assert {p.pid for p in children(os.getpid())} <= before


@pytest.mark.slow
def test_killed_worker_leaves_no_warnings_on_the_terminal(paths, tmp_path):
    """Its half-made batches stay in shared memory until Python's resource tracker removes them."""
    program = tmp_path / "program.py"
    program.write_text(KILLING)
    command = [sys.executable, str(program), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert done.returncode == 0 and "died before batch" in done.stdout, done.stderr
    assert "leaked" not in done.stderr


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (-9, "killed by SIGKILL, exit code -9; the memory"),
        (-7, "SIGBUS.*/dev/shm has 64 MB free.*--shm-size"),
        (-11, "killed by SIGSEGV"),
        (1, "__main__"),
        (3, "exit code 3"),
        (-200, "an unknown signal, exit code -200"),
    ],
)
def test_causes_of_death(code, says, monkeypatch):
    monkeypatch.setattr(workers, "shared_memory_free", lambda: 64_000_000)
    assert re.search(says, workers.cause_of_death(code))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such folder")
def test_missing_shared_memory_counts_as_none(monkeypatch, tmp_path):
    assert workers.shared_memory_free() > 0
    monkeypatch.setattr(workers, "SHARED_MEMORY", str(tmp_path / "shm"))
    assert workers.shared_memory_free() == 0


# --- shared memory --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "fitting"),
    [(None, (4, 2)), (10_000, (4, 2)), (2300, (4, 1)), (1700, (2, 1)), (500, (0, 1))],
)
def test_workers_that_fit_into_shared_memory(monkeypatch, caplog, free, fitting):
    monkeypatch.setattr(workers, "shared_memory_free", lambda: free)
    assert workers.fit_shared_memory(4, 2, 100) == fitting
    assert bool(caplog.records) == (fitting != (4, 2))
    if caplog.records:
        assert "/dev/shm" in caplog.text and "--shm-size" in caplog.text
        assert "--config.data.num_workers" in caplog.text and "--config.batch_size" in caplog.text


def test_little_shared_memory_changes_no_batch(photos, monkeypatch, caplog):
    monkeypatch.setattr(workers, "shared_memory_free", lambda: 1000)
    before = children(os.getpid())
    with stream(photos, num_workers=2) as batches:
        assert_same([next(batches) for _ in range(4)], take(4, photos))
        assert len(children(os.getpid())) == len(before)
    assert "threads of the main process" in caplog.text


# --- signals, memory, ends ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_that_dies_before_its_first_batch_is_reported(photos):
    before = {p.pid for p in children(os.getpid())}
    thread = threading.Thread(target=kill_the_first_child, args=(before,), daemon=True)
    thread.start()
    with stream(photos, num_workers=1) as batches, pytest.raises(pipeline.DataError, match="batch"):
        next(batches)


def kill_the_first_child(before):
    while True:
        for process in children(os.getpid()):
            if process.pid not in before:
                process.kill()
                return
        time.sleep(0.001)


@pytest.mark.slow
def test_workers_outlive_ctrl_c_and_stop_when_closed(photos):
    before = {p.pid for p in children(os.getpid())}
    batches = stream(photos, num_workers=2)
    for _ in range(2):  # one batch from each worker: both have started
        next(batches)
    workers = [p for p in children(os.getpid()) if p.pid not in before]
    assert len(workers) == 2
    for worker in workers:
        worker.send_signal(signal.SIGINT)
        worker.send_signal(signal.SIGTERM)
    for _ in range(20):
        next(batches)
    batches.close()
    assert not [worker for worker in workers if worker.is_running()]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0, 0.05, 0.3])
def test_workers_survive_signals_while_they_start(photos, delay):
    before = {p.pid for p in children(os.getpid())}
    shot = []

    def shoot():
        while True:
            for process in children(os.getpid()):
                if process.pid not in before and process.pid not in shot:
                    time.sleep(delay)
                    process.send_signal(signal.SIGINT)
                    process.send_signal(signal.SIGTERM)
                    shot.append(process.pid)
                    if len(shot) == 2:
                        return
            time.sleep(0.001)

    thread = threading.Thread(target=shoot, daemon=True)
    thread.start()
    with stream(photos, num_workers=2) as batches:
        for _ in range(8):
            next(batches)
        assert len(shot) == 2
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told so")
def test_workers_keep_the_memory_of_batches():
    program = """
import resource, sys
import numpy as np
from dcpt_jax.data import photos, workers

if sys.argv[1] == "keep":
    workers.keep_memory()
samples = [np.zeros((128, 128, 3), np.float32)] * 32

def make_batches(count):
    for _ in range(count):
        batch = np.stack(samples), np.stack(samples)

make_batches(4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
make_batches(200)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {}
    for what in ("keep", "return"):
        command = [sys.executable, "-c", program, what]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True)
        faults[what] = int(done.stdout)
    # Pages got from the system: at most once more what two batches take (the system may back a kept
    # array by small pages where it had no huge one), against again and again.
    assert faults["keep"] * 10 < faults["return"]


@pytest.mark.slow
def test_workers_end_when_the_main_process_is_killed(paths, tmp_path):
    psutil = pytest.importorskip("psutil")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + 'if __name__ == "__main__":\n    main()\n')
    command = [sys.executable, str(program), *map(str, paths)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    ) as main:
        assert main.stdout.readline() == b"running\n"
        workers = children(main.pid)
        assert len(workers) == 2
        main.kill()
    gone, alive = psutil.wait_procs(workers, timeout=10)
    for worker in alive:
        worker.kill()
    assert len(gone) == 2


@pytest.mark.slow
def test_a_program_without_main_guard_gets_advice(paths, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + "main()\n")
    command = [sys.executable, str(program), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
    assert done.returncode == 1
    assert 'the program may lack `if __name__ == "__main__":`' in done.stderr


@pytest.mark.slow
def test_memory_stays_bounded(tmp_path):
    psutil = pytest.importorskip("psutil")
    for i in range(12):  # 2 MB each; the caches keep two
        pixels = np.random.default_rng(i).integers(0, 256, (600 + 50 * i, 800, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), pixels)
    source = PhotoSource(sorted(tmp_path.iterdir()), cache=5)
    before = {p.pid for p in children(os.getpid())}
    sizes = []
    with stream(source, batch_size=4, crop=64, num_workers=2) as batches:
        for step in range(200):
            next(batches)
            if step in (60, 199):
                workers = [p for p in children(os.getpid()) if p.pid not in before]
                sizes.append([psutil.Process().memory_info().rss, *rss(workers)])
    assert len(sizes[0]) == len(sizes[1]) == 3
    for early, late in zip(*sizes, strict=True):
        assert late - early < 30e6
