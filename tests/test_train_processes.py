"""Training on several devices and in several processes, and reading each other's files."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dcpt_jax import weights
from dcpt_jax.train import loop, processes
from tests.conftest import tiny_config
from tests.test_train_loop import arrays, assert_equal, scalars

ROOT = Path(__file__).resolve().parents[1]

_TRAIN = """
import os, signal, sys, time
from pathlib import Path
from dcpt_jax.train import loop, processes, sharding
from tests.conftest import tiny_config

photos, workdir, steps, fsdp_devices, stop, port, count, number = sys.argv[1:]
if int(count) > 1:
    processes.join(False, f"127.0.0.1:{port}", int(count), int(number))
sharding.SPLIT_FROM = 64  # so that something of this small network is split
config = tiny_config("pretrain", Path(photos))
config.update(num_steps=int(steps), fsdp_devices=int(fsdp_devices))
config.optimizer.decay_steps = config.classifier_optimizer.decay_steps = 12
config.log.every_steps = 1
after = loop.Monitor.after
def slow(self, step, state, metrics):
    after(self, step, state, metrics)
    if step == 3 and number == "1":
        os.kill(os.getpid(), getattr(signal, stop))
    time.sleep(0.4)  # the signal takes its time to the other process
if stop != "none":
    loop.Monitor.after = slow
try:
    result = loop.train(config, workdir.replace("NUMBER", number))
except (OSError, RuntimeError) as error:
    sys.exit(f"error: {error}")
held = sum(shard.data.nbytes for leaf in __import__("jax").tree.leaves(result.state)
           for shard in leaf.addressable_shards[:1])
print("held", held, flush=True)
"""


def train(photos, workdir, *, count=1, devices=1, steps=4, fsdp_devices=1, stop="none"):
    """Trains in processes of their own; returns their exit codes, output and errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    arguments = (photos, workdir, steps, fsdp_devices, stop, port, count)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _TRAIN, *map(str, arguments), str(number)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    try:
        outputs = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(p.returncode, *output) for p, output in zip(started, outputs, strict=True)]


def succeeded(results):
    for code, _, errors in results:
        assert code == 0, errors
    return [output for _, output, _ in results]


def state_arrays(workdir, step):
    """Every array of a checkpoint, possibly of more devices than available here."""
    handler, folder = ocp.PyTreeCheckpointHandler(), workdir / "checkpoints" / str(step) / "state"
    to_host = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder).tree
    )
    tree = handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=to_host))
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(tree)}


def config_of(photos, steps):
    config = tiny_config("pretrain", photos)
    config.update(num_steps=steps)
    config.optimizer.decay_steps = config.classifier_optimizer.decay_steps = 12
    config.log.every_steps = 1
    return config


@pytest.fixture(scope="module")
def alone(tmp_path_factory, photo_folder):
    """Work directory of four steps on one device."""
    workdir = tmp_path_factory.mktemp("alone")
    loop.train(config_of(photo_folder, 4), workdir)
    return workdir


def assert_trained_alike(workdir, other):
    """Four steps with the losses of the same batches; the order of summation differs."""
    found, expected = scalars(workdir), scalars(other)
    for key in ("loss/loss", "loss/pixel", "loss/class"):
        assert len(found[key]) == len(expected[key]) == 4
        np.testing.assert_allclose(found[key][:3], expected[key][:3], rtol=1e-5)
        # Adam turns a rounding difference in a gradient near zero into one of the learning rate.
        np.testing.assert_allclose(found[key][3], expected[key][3], rtol=1e-4)
    # Of thousands of entries, each a sum over all pixels in another order.
    norm = "schedule/gradient_norm_network"
    np.testing.assert_allclose(found[norm][:2], expected[norm][:2], rtol=1e-4)


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path, photo_folder, alone):
    first, second = succeeded(train(photo_folder, tmp_path, count=2))
    assert "2 x cpu in 2 processes" in first and "weights: " in first
    # Only the main process speaks, and beside the libraries' greetings.
    assert [x for x in second.splitlines() if "Gloo" not in x and not x.startswith("held")] == []
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    assert_trained_alike(tmp_path, alone)
    params, description = weights.load_weights(tmp_path)
    assert description.steps == 4 and set(params) == {"network", "classifier"}


@pytest.mark.slow
def test_eight_devices_that_share_the_state_train_like_one(tmp_path, photo_folder, alone, capsys):
    (output,) = succeeded(train(photo_folder, tmp_path, devices=8, fsdp_devices=4))
    assert "8 x cpu, each with 1/4 of the state" in output
    held = int(re.search(r"held (\d+)", output)[1])
    whole = sum(array.nbytes for array in state_arrays(alone, 4).values())
    assert held < 0.5 * whole  # a few arrays of this network cannot be split
    assert_trained_alike(tmp_path, alone)
    assert loop.train(config_of(photo_folder, 5), tmp_path).finished
    assert "continuing from step 4" in capsys.readouterr().out


@pytest.mark.slow
def test_eight_devices_with_a_copy_each_train_like_one(tmp_path, photo_folder, alone):
    (output,) = succeeded(train(photo_folder, tmp_path, devices=8))
    assert "8 x cpu, batch 8" in output
    assert_trained_alike(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp_devices", [1, 8])
def test_two_processes_of_four_devices_train_like_one_and_one_goes_on(
    tmp_path, photo_folder, alone, fsdp_devices, capsys
):
    """With 8 no process holds the state: each saves its part."""
    succeeded(train(photo_folder, tmp_path, count=2, devices=4, fsdp_devices=fsdp_devices))
    assert_trained_alike(tmp_path, alone)
    assert loop.train(config_of(photo_folder, 5), tmp_path).finished
    assert "continuing from step 4" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("layout", [{"devices": 8, "fsdp_devices": 4}, {"count": 2}])
def test_a_run_of_one_device_goes_on_elsewhere(tmp_path, photo_folder, alone, layout):
    for copy in ("run", "one"):
        shutil.copytree(alone, tmp_path / copy)
    first, *_ = succeeded(train(photo_folder, tmp_path / "run", steps=6, **layout))
    assert "continuing from step 4" in first
    loop.train(config_of(photo_folder, 6), tmp_path / "one")
    losses, expected = (scalars(tmp_path / name)["loss/loss"] for name in ("run", "one"))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_one_process_stops_both_at_the_same_step(tmp_path, photo_folder, name):
    outputs = succeeded(train(photo_folder, tmp_path / "run", count=2, steps=12, stop=name))
    stopped = int(re.search(r"SIGTERM: saved step (\d+) of 12", outputs[0])[1])
    assert 3 <= stopped < 12
    assert weights.checkpoint_steps(tmp_path / "run")[0] == stopped
    assert not (tmp_path / "run" / "weights").exists()
    succeeded(train(photo_folder, tmp_path / "run", count=2, steps=12))
    succeeded(train(photo_folder, tmp_path / "whole", count=2, steps=12))
    assert_equal(arrays(tmp_path / "run"), arrays(tmp_path / "whole"))
    assert_equal(state_arrays(tmp_path / "run", 12), state_arrays(tmp_path / "whole", 12))


@pytest.mark.slow
def test_two_processes_pass_by_a_damaged_checkpoint_together(tmp_path, photo_folder):
    config = config_of(photo_folder, 4)
    config.checkpoint.every_steps = 2
    loop.train(config, tmp_path)
    (tmp_path / "checkpoints" / "4" / "data" / "metadata").write_text("{")
    first, _ = succeeded(train(photo_folder, tmp_path, count=2))
    assert "continuing from step 2" in first
    assert (tmp_path / "damaged" / "4").is_dir()
    assert weights.checkpoint_steps(tmp_path)[0] == 4


@pytest.mark.slow
def test_processes_without_a_common_file_system_are_reported(tmp_path, photo_folder):
    results = train(photo_folder, tmp_path / "NUMBER", count=2)
    for code, _, errors in results:
        assert code and "process 1 on " in errors
        assert "be on a file system that all processes share" in errors


@pytest.mark.slow
def test_a_directory_in_use_stops_all_processes(tmp_path, photo_folder):
    from dcpt_jax.train.checkpoints import Checkpoints

    mine = Checkpoints(tmp_path)
    results = train(photo_folder, tmp_path, count=2)
    mine.close()
    for code, _, errors in results:
        assert code and "another process is training in" in errors


def test_one_process_needs_nothing_of_this(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("one process waits for nobody")

    for name in ("process_allgather", "reached_preemption_sync_point"):
        monkeypatch.setattr(jax.experimental.multihost_utils, name, refuse)
    assert processes.exchange("text") == ["text"] and processes.is_main()
    assert processes.on_main(lambda: [1, "a"]) == [1, "a"]
    with pytest.raises(OSError, match="disk"):
        processes.on_main(lambda: (_ for _ in ()).throw(OSError("disk")))
    gathered = processes.gather({"a": jax.numpy.ones(3), "b": np.zeros(2)})
    assert isinstance(gathered["a"], np.ndarray) and gathered["a"].sum() == 3
    np.testing.assert_array_equal(processes.total(np.array([0.1, 2.0])), [0.1, 2.0])


def test_a_process_beyond_their_number():
    with pytest.raises(ValueError, match=r"--process_id is 2, .* 0 \.\. 1"):
        processes.join(False, "127.0.0.1:1", 2, 2)


def start_commands(photos, workdir, *more):
    """The command in two processes, with pictures and validation."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "dcpt_jax.main", "--config=configs/restore.py"),
        *(f"--workdir={workdir}", f"--config.data.root={photos}", "--config.data.num_workers=0"),
        *("--config.model.width=4", "--config.model.encoder_blocks=(1,)"),
        *("--config.model.decoder_blocks=(1,)", "--config.data.crop_size=16"),
        *(f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2", *more),
    ]
    return [
        subprocess.Popen(
            [*command, f"--process_id={number}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]


@pytest.mark.slow
def test_the_command_in_two_processes_draws_and_validates(tmp_path, photo_folder):
    more = ["--config.num_steps=4", "--config.log.image_every_steps=2"]
    more += ["--config.batch_size=2", "--config.validation.every_steps=2"]
    started = start_commands(photo_folder, tmp_path / "run", *more)
    outputs = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert "restore 4/4  validation: " in outputs[0] and "validation" not in outputs[1]
    config = tiny_config("restore", photo_folder)
    del config.model.middle_blocks
    config.update(num_steps=4, batch_size=2, ema_decay=0.99)
    config.optimizer.update(learning_rate=2e-3, clip_norm=1.0)
    config.synthetic_repeats.motion_blur = 4
    config.validation.every_steps = 2
    loop.train(config, tmp_path / "one")
    # 15 samples, so that one process has one more than the other, from the bundled photos.
    for metric in ("psnr", "psnr_haze", "ssim"):
        found, expected = (
            scalars(tmp_path / name)[f"quality/validation/{metric}"] for name in ("run", "one")
        )
        np.testing.assert_allclose(found, expected, rtol=1e-3)


def until_step(process):
    """Waits until the process has reported a step of a long restoration."""
    for line in process.stdout:
        if re.search(r"restore \d+/100000", line):
            return


@pytest.mark.slow
def test_ctrl_c_in_one_process_ends_both_in_order(tmp_path, photo_folder):
    more = ["--config.num_steps=100000", "--config.validation.every_steps=0"]
    started = start_commands(photo_folder, tmp_path, *more, "--config.log.image_every_steps=0")
    try:
        until_step(started[0])
        started[1].send_signal(signal.SIGINT)
        outputs = [process.communicate(timeout=60)[0] for process in started]
        assert [process.returncode for process in started] == [0, 130], outputs
        assert "the same command continues" in outputs[0]
    finally:
        for process in started:
            process.kill()


@pytest.mark.slow
def test_the_end_of_one_process_ends_the_other(tmp_path, photo_folder):
    more = ["--config.num_steps=100000", "--config.validation.every_steps=0"]
    started = start_commands(photo_folder, tmp_path, *more, "--config.log.image_every_steps=0")
    try:
        until_step(started[0])
        started[1].kill()
        output = started[0].communicate(timeout=60)[0]
        assert started[0].returncode == 1
        assert "error: " in output and "Traceback" not in output
    finally:
        for process in started:
            process.kill()
