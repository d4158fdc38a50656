"""A real training process, and the faults that can happen to it.

The command runs as a user would run it and is harmed from outside: by signals, by what happens to
its files, its disk and its data workers. After each harm the same command has to end with the very
bytes of a run that nothing happened to, or to say in one message what to do.
"""

import atexit
import functools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from dcpt_jax import config as configs
from dcpt_jax import weights
from dcpt_jax.train import loop
from tests.conftest import TINY_BACKBONES

ROOT = Path(__file__).resolve().parents[1]
STEPS, EVERY = 30, 5
# Start of the names of this test run's shared memory; other runs on this machine have their own.
SHARED_PREFIX = f"/d{os.getpid() % 16**5:05x}"


class Training:
    """The command, running in its own process group, and its output so far."""

    def __init__(self, workdir, photos, *flags, limit=None, program=("-m", "dcpt_jax.main")):
        self.workdir, self.output = Path(workdir), ""
        command = [sys.executable, *program, "--config=configs/restore.py"]
        command += [f"--workdir={workdir}", f"--config.data.root={photos}"]
        for key, value in TINY_BACKBONES["nafnet"].items():
            command.append(f"--config.model.{key}={value}")
        for key, value in SETTINGS.items():
            command.append(f"--config.{key}={value}")
        self.process = subprocess.Popen(
            [*command, "--config.data.num_workers=1", *flags],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{_names_folder()}:{ROOT}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=None if limit is None else lambda: limit_files(0, limit),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.output += line

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()  # unless it has ended
        self.process.wait()

    def until(self, condition, seconds=120):
        """Waits until something is so, or the process has ended; returns whether it is so."""
        patience = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < patience, f"waited in vain; printed:\n{self.output}"
            time.sleep(0.001)
        return True

    def until_step(self, step):
        """Waits until a step, or a later one, was reported."""
        return self.until(lambda: self.step >= step)

    def until_saving(self):
        """Waits until a checkpoint is being written."""
        folder = self.workdir / "checkpoints"
        return self.until(lambda: any(folder.glob("*.orbax-checkpoint-tmp*")))

    @property
    def step(self):
        """The last step that was reported, 0 before the first."""
        return max((int(n) for n in re.findall(r"^restore (\d+)/", self.output, re.M)), default=0)

    def worker(self):
        """Number of the process that makes the batches."""
        return next(pid for pid, command in children(self.process.pid) if b"spawn_main" in command)

    def end(self, seconds=120):
        """Waits for the end; returns the exit code."""
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code

    def ends_with_a_message(self, *parts):
        """Waits for the end by an error that is told in one line, without a traceback."""
        code, output = self.end(), self.output
        assert code == 1, output
        assert "Traceback" not in output and "Exception ignored" not in output, output
        (line,) = re.findall(r"^ *(error: .*)$", output, re.M)
        for part in parts:
            assert re.search(part, line), output
        return line


SETTINGS = {
    "num_steps": STEPS,
    "batch_size": 7,
    "data.crop_size": 16,
    "optimizer.decay_steps": STEPS,  # also of runs that are made to end before
    "ema_decay": 0.9,
    "log.every_steps": 1,
    "log.image_every_steps": 0,
    "validation.every_steps": 0,
    "checkpoint.every_steps": EVERY,
}


def limit_files(pid, size):
    """Limits the file size of a process, as if its disk were full."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def children(pid):
    """(number, command line) of the processes that one has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                found.append((int(stat.parent.name), (stat.parent / "cmdline").read_bytes()))
        except OSError:
            continue  # it has ended
    return found


@functools.cache
def _names_folder():
    """A folder whose `sitecustomize` gives the shared memory of a process `SHARED_PREFIX`."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    (Path(folder) / "sitecustomize.py").write_text(
        "from multiprocessing import shared_memory\n"
        f"shared_memory._SHM_NAME_PREFIX = {SHARED_PREFIX!r}\n"
    )
    return folder


def left_in_shared_memory():
    """Names of the batches of this test run in shared memory."""
    return [file.name for file in Path("/dev/shm").glob(f"{SHARED_PREFIX[1:]}*")]


def is_running(pid):
    """Whether a process runs and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=20):
    patience = time.monotonic() + seconds
    while not condition() and time.monotonic() < patience:
        time.sleep(0.05)
    return condition()


def run_here(workdir, photos, **changes):
    """The work of the command, in this process: faster if no process is killed."""
    config = configs.load("restore")
    config.model = ConfigDict({"name": "nafnet", **TINY_BACKBONES["nafnet"]})
    config.update_from_flattened_dict({**SETTINGS, "data.root": str(photos), **changes})
    config.data.num_workers = 0
    return loop.train(config, workdir)


def arrays(workdir):
    """Every array of a finished run: its weights and its last checkpoint."""
    import orbax.checkpoint as ocp

    found = weights.load_weights(workdir / "weights")[0]
    last = ocp.PyTreeCheckpointer().restore(workdir / "checkpoints" / str(STEPS) / "state")
    leaves = jax.tree.leaves_with_path({"weights": found, "checkpoint": last})
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, photo_folder):
    """Every array of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    run_here(workdir, photo_folder)
    return arrays(workdir)


@pytest.fixture(scope="module")
def half_way(tmp_path_factory, photo_folder):
    """Work directory of such a run with the checkpoints of steps 10 and 15."""
    workdir = tmp_path_factory.mktemp("half_way") / "run"
    run_here(workdir, photo_folder, num_steps=15)
    shutil.rmtree(workdir / "weights")
    return workdir


def assert_equal(found, expected):
    assert found.keys() == expected.keys() and len(found) > 50
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def assert_continues_to_the_same_end(workdir, photos, uninterrupted, *flags):
    """Runs the command to its end; returns what it printed."""
    with Training(workdir, photos, *flags) as training:
        assert training.end() == 0, training.output
    assert_equal(arrays(workdir), uninterrupted)
    return training.output


@pytest.mark.slow
def test_a_run_that_is_killed_in_a_save_ends_like_an_uninterrupted_one(
    tmp_path, photo_folder, uninterrupted
):
    workdir = tmp_path / "run"
    with Training(workdir, photo_folder) as training:
        assert training.until(left_in_shared_memory)  # so it looks in the right place
        assert training.until((workdir / "checkpoints" / str(EVERY)).exists)
        assert training.until_saving()
        worker = training.worker()
        training.process.kill()
        assert training.end() == -signal.SIGKILL
    assert wait_until(lambda: not is_running(worker))
    assert wait_until(lambda: not left_in_shared_memory())
    assert weights.load(workdir)[0].width == 4  # the checkpoint stands in for the weights
    output = assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)
    assert "continuing from step " in output


@pytest.mark.slow
def test_a_run_that_is_stopped_by_a_scheduler(tmp_path, photo_folder, uninterrupted):
    workdir = tmp_path / "run"
    with Training(workdir, photo_folder) as training:
        assert training.until_step(EVERY + 1)
        os.killpg(training.process.pid, signal.SIGTERM)
        assert training.end() == 0, training.output
    saved = re.search(rf"SIGTERM: saved step (\d+) of {STEPS}; the same", training.output)
    assert saved, training.output
    assert weights.checkpoint_steps(workdir)[0] == int(saved[1]) < STEPS
    assert not (workdir / "weights").exists()
    output = assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)
    assert f"continuing from step {saved[1]}:" in output


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("DCPT_FAULT_SEEDS", "3"))))
def test_a_run_that_is_killed_again_and_again(tmp_path, photo_folder, uninterrupted, seed):
    draw, workdir = random.Random(seed), tmp_path / "run"
    moments = [*draw.choices(("start", "step", "save"), k=3), "save"]
    draw.shuffle(moments)
    print(f"seed {seed}: {moments}")  # shown if the test fails
    for moment in [*moments, "weights"]:
        if moment != "weights" and (workdir / "checkpoints" / str(STEPS)).exists():
            continue  # the weights are all that is left to do
        with Training(workdir, photo_folder) as training:
            if moment == "start":
                time.sleep(draw.uniform(0, 4))
            elif moment == "step":
                assert training.until_step(draw.randint(1, STEPS - EVERY))
                time.sleep(draw.uniform(0, 0.1))
            elif moment == "save":
                assert training.until_saving()
                time.sleep(draw.uniform(0, 0.1))
            else:
                assert training.until(lambda: any(workdir.glob("weights.new*")))
                time.sleep(draw.uniform(0, 0.02))
            workers = [pid for pid, _ in children(training.process.pid)]
            training.process.kill()
            code = training.end()
        print(f"{moment}: exit code {code} at step {training.step}")
        assert code == -signal.SIGKILL, training.output  # it had not ended before
        assert "Traceback" not in training.output, training.output
        assert wait_until(lambda pids=workers: not any(map(is_running, pids)))
        assert wait_until(lambda: not left_in_shared_memory())
    assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)
    leftovers = sorted(entry.name for entry in workdir.iterdir() if ".new-" in entry.name)
    assert not leftovers


@pytest.mark.slow
def test_ctrl_c_saves_and_ends(tmp_path, photo_folder, uninterrupted):
    workdir = tmp_path / "run"
    with Training(workdir, photo_folder) as training:
        assert training.until_step(3)
        os.killpg(training.process.pid, signal.SIGINT)
        assert training.end() == 130, training.output
    assert re.search(rf"SIGINT: saved step \d+ of {STEPS}; the same", training.output)
    assert "Traceback" not in training.output
    assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)


@pytest.mark.slow
def test_ctrl_c_twice_ends_at_once(tmp_path, photo_folder, uninterrupted):
    workdir = tmp_path / "run"
    with Training(workdir, photo_folder) as training:
        assert training.until_step(EVERY + 1)
        worker = training.worker()
        os.kill(worker, signal.SIGSTOP)  # so that the run waits for a batch
        time.sleep(1)
        os.killpg(training.process.pid, signal.SIGINT)
        time.sleep(0.5)
        assert training.process.poll() is None
        os.killpg(training.process.pid, signal.SIGINT)
        time.sleep(0.5)
        os.kill(worker, signal.SIGCONT)
        assert training.end(20) == 130, training.output
    assert "the same command continues" in training.output
    assert "Traceback" not in training.output, training.output
    assert wait_until(lambda: not is_running(worker))
    assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.3, 1.5, 3])
def test_ctrl_c_while_it_starts(tmp_path, photo_folder, uninterrupted, delay):
    workdir = tmp_path / "run"
    with Training(workdir, photo_folder) as training:
        time.sleep(delay)
        os.killpg(training.process.pid, signal.SIGINT)
        assert training.end(30) in (0, 130, -signal.SIGINT), training.output
    assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)


@pytest.mark.slow
def test_a_full_disk_in_a_save(tmp_path, photo_folder, uninterrupted):
    workdir = tmp_path / "run"
    with Training(workdir, photo_folder) as training:
        assert training.until((workdir / "checkpoints" / str(EVERY)).exists)
        limit_files(training.process.pid, 1000)
        training.ends_with_a_message("cannot be written", str(workdir), "File too large", "same")
    output = assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)
    assert "continuing from step" in output


@pytest.mark.slow
def test_a_full_disk_at_the_first_save(tmp_path, photo_folder, uninterrupted):
    workdir = tmp_path / "run"
    with Training(workdir, photo_folder, "--config.log.every_steps=100", limit=22000) as training:
        training.ends_with_a_message("cannot be written", str(workdir), "File too large", "same")
    assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)


@pytest.mark.slow
def test_a_full_disk_while_the_weights_are_written(tmp_path, photo_folder, uninterrupted):
    workdir = tmp_path / "run"
    run_here(workdir, photo_folder)
    shutil.rmtree(workdir / "weights")
    with Training(workdir, photo_folder, limit=1000) as training:
        message = r"weights cannot be written: File too large.* same command writes"
        training.ends_with_a_message(f"the weights {workdir}/{message}")
    assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)


@pytest.mark.slow
def test_a_full_disk_at_the_event_file(tmp_path, photo_folder, uninterrupted):
    """A thread writes it, which must not block the run forever."""
    workdir = tmp_path / "run"
    flags = ("--config.checkpoint.every_steps=1000", "--config.num_steps=100000")
    with Training(workdir, photo_folder, *flags) as training:
        assert training.until_step(3)
        (file,) = workdir.glob("events.*")
        assert training.until(lambda: file.stat().st_size > 60_000)
        limit_files(training.process.pid, 50_000)  # no file of a checkpoint is so large
        training.ends_with_a_message("cannot be written", str(workdir), "File too large", "same")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount file systems")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 8, 40, 120])
def test_a_disk_without_room(small_disk, photo_folder, uninterrupted, free):
    """The free space decides what fails: event file, checkpoint or one of its files."""
    workdir, filler = small_disk / "run", small_disk / "filler"
    with Training(workdir, photo_folder) as training:
        assert training.until_step(2)
        space = os.statvfs(small_disk)
        size = space.f_bavail * space.f_frsize - free * 1024
        filler.write_bytes(bytes(max(0, size)))
        training.ends_with_a_message("cannot be written", str(workdir), "No space left", "same")
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)


@pytest.mark.slow
def test_a_disk_that_is_read_only(small_disk, photo_folder, half_way, uninterrupted):
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    workdir = small_disk / "run"
    shutil.copytree(half_way, workdir)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with Training(workdir, photo_folder) as training:
        training.ends_with_a_message(str(workdir), "cannot be written: Read-only", "--workdir")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)


@pytest.mark.slow
def test_a_file_in_place_of_the_work_directory(tmp_path, photo_folder):
    (tmp_path / "run").touch()
    with Training(tmp_path / "run", photo_folder) as training:
        training.ends_with_a_message(f"{tmp_path}/run cannot be written", "--workdir")


@pytest.mark.slow
def test_a_work_directory_that_may_not_be_written(tmp_path, photo_folder):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o555)
    if os.access(tmp_path / "run", os.W_OK):
        pytest.skip("this user may write everywhere")
    with Training(tmp_path / "run", photo_folder) as training:
        training.ends_with_a_message(f"{tmp_path}/run cannot be written", "--workdir")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["run", "run/checkpoints"])
def test_a_directory_that_is_removed_while_it_runs(tmp_path, photo_folder, uninterrupted, what):
    workdir = tmp_path / "run"
    with Training(workdir, photo_folder) as training:
        assert training.until_step(EVERY + 1)
        while (tmp_path / what).exists():
            shutil.rmtree(tmp_path / what, ignore_errors=True)
        training.ends_with_a_message(str(workdir), "cannot be written", "same command")
    assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)


def kinds_of_files(folder):
    """One file of each kind in a checkpoint, as patterns: data files have random names."""
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    return sorted({re.sub(r"/d/[0-9a-f]+$", "/d/*", name) for name in names})


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "emptied": lambda file: os.truncate(file, 0),
    "flipped": flip,
    "deleted": Path.unlink,
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_checkpoint_damaged(tmp_path, photo_folder, half_way, uninterrupted, damage):
    """One file of each kind: none may change the result unnoticed."""
    newest = half_way / "checkpoints" / "15"
    for number, pattern in enumerate(kinds_of_files(newest)):
        workdir = tmp_path / str(number)
        shutil.copytree(half_way, workdir)
        harmed = [f for f in sorted((workdir / "checkpoints" / "15").glob(pattern))]
        assert harmed
        if damage == "flipped":
            harmed = [file for file in harmed if file.stat().st_size]
        for file in harmed:
            DAMAGES[damage](file)
        print(damage, pattern, len(harmed))
        assert run_here(workdir, photo_folder).finished
        assert_equal(arrays(workdir), uninterrupted)


@pytest.mark.slow
def test_every_bit_of_the_data_position_is_protected(
    tmp_path, photo_folder, half_way, uninterrupted
):
    """A changed digit is still valid JSON."""
    file = Path("checkpoints") / "15" / "data" / "metadata"
    content = (half_way / file).read_bytes()
    place = content.index(b"15")
    for number, bit in enumerate((1, 2, 4)):
        workdir = tmp_path / str(number)
        shutil.copytree(half_way, workdir)
        changed = bytearray(content)
        changed[place + 1] ^= bit
        (workdir / file).write_bytes(changed)
        run_here(workdir, photo_folder)
        assert_equal(arrays(workdir), uninterrupted)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_reported(tmp_path, photo_folder, half_way, uninterrupted):
    workdir = tmp_path / "run"
    shutil.copytree(half_way, workdir)
    (workdir / "checkpoints" / "20").mkdir()  # a number and nothing in it
    for file in (workdir / "checkpoints" / "15" / "state").glob("**/d/*"):
        flip(file)
    output = assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)
    assert "checkpoint 20 is damaged" in output and "checkpoint 15 is damaged" in output
    assert "continuing from checkpoint 10 instead" in output
    assert f"moved to {workdir / 'damaged' / '15'}" in output


@pytest.mark.slow
def test_all_checkpoints_damaged(tmp_path, photo_folder, half_way):
    workdir = tmp_path / "run"
    shutil.copytree(half_way, workdir)
    for file in (workdir / "checkpoints").glob("*/state/**/d/*"):
        os.truncate(file, file.stat().st_size // 2)
    for _ in range(2):  # also the second time
        with Training(workdir, photo_folder) as training:
            training.ends_with_a_message("no checkpoint in .* can be read", "--workdir", "remove")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
@pytest.mark.parametrize("step", [1, EVERY + 2])
def test_a_data_worker_dies(tmp_path, photo_folder, uninterrupted, number, step):
    workdir = tmp_path / "run"
    with Training(workdir, photo_folder) as training:
        assert training.until_step(step)
        worker = training.worker()
        os.kill(worker, number)
        assert training.end() == 0, training.output
    if number != signal.SIGTERM:  # which it outlives for a while
        assert "the batches stay the same" in training.output
    assert_equal(arrays(workdir), uninterrupted)
    assert wait_until(lambda: not is_running(worker))
    assert wait_until(lambda: not left_in_shared_memory())


@pytest.mark.slow
def test_a_loss_that_is_not_finite(tmp_path, photo_folder, half_way, uninterrupted):
    workdir = tmp_path / "run"
    shutil.copytree(half_way, workdir)
    changed = "--config.checkpoint.allow_config_change=True"
    flags = ("--config.optimizer.learning_rate=1e30", changed)
    with Training(workdir, photo_folder, *flags) as training:
        training.ends_with_a_message(r"step 1[67]: .* = (nan|inf)", "smaller learning_rate")
    assert weights.checkpoint_steps(workdir) == [15, 10]
    output = assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)
    assert "continuing from step 15" in output


POISONED = """
import itertools
import sys

import numpy as np

from dcpt_jax import main
from dcpt_jax.train import sharding

put, numbers = sharding.put_batch, itertools.count(1)

def put_poisoned(batch, mesh):
    if next(numbers) == 12:
        batch["degraded"][0, 3, 4, 1] = np.nan
    return put(batch, mesh)

if __name__ == "__main__":
    sharding.put_batch = put_poisoned
    sys.exit(main.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("report_every", [1, 50])
def test_a_nan_in_a_batch(tmp_path, photo_folder, uninterrupted, report_every):
    """The whole state is affected at once; the step is named, even if metrics come later."""
    (tmp_path / "poisoned.py").write_text(POISONED)
    workdir = tmp_path / "run"
    flags = {"program": (tmp_path / "poisoned.py",)}
    report = f"--config.log.every_steps={report_every}"
    with Training(workdir, photo_folder, report, **flags) as training:
        training.ends_with_a_message("step 12: .* = nan", "look for values that are not finite")
    assert weights.checkpoint_steps(workdir) == [10, 5]
    output = assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)
    assert "continuing from step 10" in output


@pytest.mark.slow
def test_two_processes_in_one_work_directory(tmp_path, photo_folder, uninterrupted):
    workdir = tmp_path / "run"
    with Training(workdir, photo_folder) as first:
        assert first.until_step(1)
        os.killpg(first.process.pid, signal.SIGSTOP)  # so that it does not end meanwhile
        with Training(workdir, photo_folder) as second:
            second.ends_with_a_message("another process is training in", str(workdir), "stop it")
        os.killpg(first.process.pid, signal.SIGCONT)
        first.process.kill()
        assert first.end() == -signal.SIGKILL
    assert_continues_to_the_same_end(workdir, photo_folder, uninterrupted)
