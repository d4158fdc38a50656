import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax import create_model, weights
from dcpt_jax.config import ConfigError
from dcpt_jax.train import processes, saved_state
from dcpt_jax.train.checkpoints import DAMAGED, Checkpoints
from dcpt_jax.train.optimizer import adamw
from dcpt_jax.train.state import create_state

ROOT = Path(__file__).resolve().parents[1]
OPTIMIZERS = {"network": adamw(1e-3)}
MODEL = weights.describe(create_model("nafnet")).to_json()


def make_state(step):
    values = np.random.default_rng(step).random((64, 64)).astype(np.float32)
    state = create_state(
        {"network": {"layer": {"kernel": jnp.asarray(values)}}},
        OPTIMIZERS,
        rng=jax.random.PRNGKey(step),
        averaged=("network",),
    )
    return state.replace(step=jnp.asarray(step, jnp.int32))


def write(workdir, *steps, keep=3):
    checkpoints = Checkpoints(workdir, keep=keep)
    for step in steps:
        checkpoints.save(make_state(step), batches=step, config={"seed": 0}, model=MODEL)
    checkpoints.close()


def restore(workdir, target=None):
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.read_newest(make_state(0) if target is None else target)
    finally:
        checkpoints.close()


def assert_is_step(restored, step):
    assert restored.step == restored.batches == step
    jax.tree.map(np.testing.assert_array_equal, restored.state, make_state(step))


def test_the_newest_state_comes_back(tmp_path):
    write(tmp_path, 1, 2)
    assert_is_step(restore(tmp_path), 2)


def test_nothing_to_restore(tmp_path):
    assert restore(tmp_path) is None


def test_only_the_last_are_kept(tmp_path):
    write(tmp_path, 1, 2, 3, 4, keep=2)
    assert weights.checkpoint_steps(tmp_path) == [4, 3]


def biggest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder):
    file = biggest_file(folder / "state")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(folder):
    file = biggest_file(folder / "state")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def lose_the_position(folder):
    (folder / "data" / "metadata").write_text("{")


def change_the_position(folder):
    (folder / "data" / "metadata").write_text('{"batches": 7}')


def lose_the_checksums(folder):
    (folder / "checksums.json").unlink()


def lose_the_state(folder):
    shutil.rmtree(folder / "state")


DAMAGES = (
    *(truncate, flip_a_bit, lose_the_position, change_the_position),
    *(lose_the_checksums, lose_the_state),
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_moved_aside_and_the_previous_one_is_used(tmp_path, caplog, damage):
    write(tmp_path, 1, 2)
    damage(tmp_path / "checkpoints" / "2")
    params, _ = weights.load_weights(tmp_path)  # what another run starts from
    intact = damage in (lose_the_position, change_the_position)  # as far as weights are concerned
    expected = make_state(2 if intact else 1).params["network"]
    jax.tree.map(np.testing.assert_array_equal, params["network"], expected)
    assert ("checkpoints/2 cannot be read" in caplog.text) != intact
    assert_is_step(restore(tmp_path), 1)
    assert "checkpoint 2 is damaged" in caplog.text
    assert "continuing from checkpoint 1 instead" in caplog.text
    assert (tmp_path / DAMAGED / "2").is_dir()
    write(tmp_path, 2)  # the step can be written again
    assert_is_step(restore(tmp_path), 2)


def test_damage_found_by_one_process_is_skipped_by_all(tmp_path, monkeypatch):
    write(tmp_path, 1)
    verdicts = []

    def exchange(text):
        verdicts.append(text)
        return [text, "damage:the checksum differs"]

    with monkeypatch.context() as patch:
        patch.setattr(processes, "exchange", exchange)
        found = saved_state.read(tmp_path / "checkpoints" / "1", make_state(0))
    assert verdicts == [""]  # nothing is wrong in this process
    assert found == (None, "the checksum differs")


def test_a_state_that_is_not_finite_is_not_written(tmp_path):
    """The loss that a step reports is of the parameters before its update."""
    checkpoints = Checkpoints(tmp_path)
    state = make_state(3)
    ruined = jax.tree.map(lambda x: x.at[0].set(jnp.nan), state.params)
    with pytest.raises(FloatingPointError, match=r"step 3: .*params.*kernel.* is not finite"):
        checkpoints.save(state.replace(params=ruined), batches=3, config={}, model=MODEL)
    checkpoints.close()
    assert weights.checkpoint_steps(tmp_path) == []


@pytest.mark.parametrize(("item", "file"), [("config", "metadata"), ("model", "metadata")])
def test_a_flipped_bit_in_the_description_of_a_run_is_detected(tmp_path, item, file):
    for step, seed in ((1, 5), (2, 7)):
        checkpoints = Checkpoints(tmp_path)
        described = MODEL | {"classes": [f"class_{seed}"]}
        checkpoints.save(make_state(step), batches=step, config={"seed": seed}, model=described)
        checkpoints.close()
    path = tmp_path / "checkpoints" / "2" / item / file
    assert saved_state.saved_config(tmp_path) == {"seed": 7}
    assert weights.newest_description(tmp_path).classes == ("class_7",)
    path.write_text(path.read_text().replace("7", "3"))  # one bit of the digit
    found = {
        "config": saved_state.saved_config(tmp_path)["seed"],
        "model": int(weights.newest_description(tmp_path).classes[0][-1]),
    }
    assert found == {"config": 7, "model": 7} | {item: 5}  # skipped for the one before


def test_a_save_cut_short_is_reported_and_not_used(tmp_path, caplog):
    write(tmp_path, 1)
    unfinished = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "1", unfinished)
    assert_is_step(restore(tmp_path), 1)
    assert "checkpoint 2 was cut short by a crash" in caplog.text
    assert "continuing from checkpoint 1 instead" in caplog.text


def test_other_files_among_the_checkpoints_are_ignored_and_kept(tmp_path, caplog):
    write(tmp_path, 1, 2)
    folder = tmp_path / "checkpoints"
    for name in ("0/note.txt", "@eaDir/a", "latest copy/a", "\u0665/a", "07/a", "-5/a"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("mine")
    shutil.copytree(folder / "2", folder / "2 (copy)")
    for name in (".DS_Store", "note.txt", "9.orbax-checkpoint-tmp-1"):
        (folder / name).write_text("mine")
    (folder / "latest").symlink_to("2")
    (folder / "8.orbax-checkpoint-tmp-2").symlink_to("2 (copy)")
    mine = {entry.name for entry in folder.iterdir()} - {"1", "2"}
    assert weights.load_weights(tmp_path)[0] and saved_state.saved_config(tmp_path) == {"seed": 0}
    assert_is_step(saved_state.newest_state(tmp_path, make_state(0)), 2)
    assert_is_step(restore(tmp_path), 2)
    assert "is damaged" not in caplog.text and "continuing from" not in caplog.text
    write(tmp_path, 3, 4, keep=2)
    assert {entry.name for entry in folder.iterdir()} == mine | {"3", "4"}
    assert (folder / "0/note.txt").read_text() == "mine"


def test_a_folder_named_like_a_later_checkpoint_is_moved_aside_whole(tmp_path, caplog):
    write(tmp_path, 1)
    for text in ("first", "second"):
        note = tmp_path / "checkpoints" / "500" / "note.txt"
        note.parent.mkdir()
        note.write_text(text)
        assert_is_step(restore(tmp_path), 1)
        assert "checkpoint 500 is damaged" in caplog.text
    kept = sorted((tmp_path / DAMAGED).rglob("note.txt"))
    assert [file.read_text() for file in kept] == ["first", "second"]


def test_a_checkpoint_named_after_another_step_is_reported(tmp_path, caplog):
    write(tmp_path, 1)
    shutil.copytree(tmp_path / "checkpoints" / "1", tmp_path / "checkpoints" / "500")
    assert_is_step(restore(tmp_path), 1)
    assert "checkpoint 500 is damaged (its state is of step 1: a checkpoint's" in caplog.text
    assert (tmp_path / DAMAGED / "500").is_dir()


def test_if_none_can_be_read_the_run_does_not_start_over_in_silence(tmp_path):
    write(tmp_path, 1)
    truncate(tmp_path / "checkpoints" / "1")
    for _ in range(2):  # nor when the same command is given again
        with pytest.raises(RuntimeError, match=r"no checkpoint .* can be read.*--workdir"):
            restore(tmp_path)
    shutil.rmtree(tmp_path / DAMAGED)
    assert restore(tmp_path) is None


def test_a_state_of_another_shape_is_refused(tmp_path):
    write(tmp_path, 1)
    target = create_state(
        {"network": {"layer": {"kernel": jnp.zeros((3, 3))}}},
        OPTIMIZERS,
        rng=jax.random.PRNGKey(0),
        averaged=("network",),
    )
    with pytest.raises(ConfigError, match=r"another network or optimiser.*kernel.*\(64, 64\)"):
        restore(tmp_path, target)
    assert_is_step(restore(tmp_path), 1)  # and it was not taken for damaged


def test_continuing_is_quiet(tmp_path, caplog):
    write(tmp_path, 1)
    assert_is_step(restore(tmp_path), 1)
    assert not caplog.records


def test_a_want_of_memory_is_no_damage(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def fail(*_):
        raise MemoryError

    message = "cannot be read: MemoryError"
    with monkeypatch.context() as patch, pytest.raises(OSError, match=message):
        patch.setattr(saved_state, "_read_arrays", fail)
        restore(tmp_path)
    assert_is_step(restore(tmp_path), 1)


def test_a_file_system_without_locks_causes_a_warning(tmp_path, monkeypatch, caplog):
    def refuses(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuses)
    Checkpoints(tmp_path).close()
    assert f"{tmp_path} cannot be locked (No locks available)" in caplog.text


def test_one_process_at_a_time(tmp_path):
    first = Checkpoints(tmp_path)
    with pytest.raises(RuntimeError, match="another process is training"):
        Checkpoints(tmp_path)
    first.close()
    Checkpoints(tmp_path).close()


def write_measured(workdir, values, **options):
    """Checkpoints 1, 2, ... with these values of a metric; None: nothing was measured."""
    checkpoints = Checkpoints(workdir, best_metric="psnr", **options)
    for step, value in enumerate(values, start=1):
        metrics = None if value is None else {"psnr": value, "ssim": 0.5}
        checkpoints.save(make_state(step), batches=step, config={}, model=MODEL, metrics=metrics)
    best = checkpoints.best()
    checkpoints.close()
    return best


@pytest.mark.parametrize(
    ("values", "options", "kept", "best"),
    [
        ([20.0, 30.0, None, 25.0, None], {"keep": 2, "keep_best": 1}, [5, 4, 2], 2),
        ([20.0, None, None, None], {"keep": 1, "keep_best": 2}, [4, 1], 1),
        ([None, None, None], {"keep": 1, "keep_best": 2}, [3], None),
        ([20.0, float("nan"), None], {"keep": 1, "keep_best": 1}, [3, 1], 1),
        ([20.0, 20.0, 10.0], {"keep": 1, "keep_best": 1}, [3, 2], 2),  # of equals the newer one
        ([20.0, 10.0], {"keep": 1, "keep_best": 0}, [2], 2),
    ],
)
def test_the_best_are_kept_besides_the_newest(tmp_path, values, options, kept, best):
    found = write_measured(tmp_path, values, **options)
    assert weights.checkpoint_steps(tmp_path) == kept
    assert (found and found[0]) == best
    if best:
        assert found[1] == {"psnr": values[best - 1], "ssim": 0.5}


def test_the_best_is_kept_when_the_directory_is_opened_again(tmp_path):
    write_measured(tmp_path, [20.0, 30.0, 25.0], keep=1, keep_best=1)
    checkpoints = Checkpoints(tmp_path, keep=1, keep_best=1, best_metric="psnr")
    assert checkpoints.best() == (2, {"psnr": 30.0, "ssim": 0.5})
    for step in (4, 5):
        checkpoints.save(
            make_state(step), batches=step, config={}, model={}, metrics={"psnr": 28.0}
        )
    checkpoints.close()
    assert weights.checkpoint_steps(tmp_path) == [5, 2]
    other = Checkpoints(tmp_path, keep=1, keep_best=1, best_metric="accuracy")
    assert other.best() is None
    other.close()


def content(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_another_run_is_continued_without_changing_it(tmp_path, caplog):
    write(tmp_path, 1, 2, 3)
    truncate(tmp_path / "checkpoints" / "3")
    before = content(tmp_path)
    first = Checkpoints(tmp_path / "mine")  # which another process may well be training in
    assert_is_step(saved_state.newest_state(tmp_path, make_state(0)), 2)
    assert str(tmp_path / "checkpoints" / "3") in caplog.text and "is skipped" in caplog.text
    assert_is_step(saved_state.newest_state(tmp_path / "checkpoints" / "1", make_state(0)), 1)
    assert saved_state.saved_config(tmp_path) == {"seed": 0}
    assert saved_state.saved_config(tmp_path / "checkpoints" / "1") == {"seed": 0}
    first.close()
    shutil.rmtree(tmp_path / "mine")
    assert content(tmp_path) == before


def test_a_run_in_progress_can_be_continued_elsewhere(tmp_path):
    write(tmp_path, 1)
    running = Checkpoints(tmp_path)
    assert_is_step(saved_state.newest_state(str(tmp_path), make_state(0)), 1)
    running.close()


def test_a_run_that_cannot_be_resumed_names_the_key(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"resume_from: there is no .*missing; name"):
        saved_state.newest_state(tmp_path / "missing", make_state(0))
    with pytest.raises(FileNotFoundError, match=r"resume_from: there is no checkpoint in"):
        saved_state.newest_state(tmp_path, make_state(0))
    write(tmp_path, 1)
    other = make_state(0)
    other = other.replace(params={"network": {"layer": {"kernel": jnp.zeros((3, 3))}}})
    with pytest.raises(ConfigError, match=r"another network.*init_from instead of --config.resume"):
        saved_state.newest_state(tmp_path, other)
    truncate(tmp_path / "checkpoints" / "1")
    for path in (tmp_path, tmp_path / "checkpoints" / "1"):
        with pytest.raises(RuntimeError, match=r"resume_from: no checkpoint in .* can be read"):
            saved_state.newest_state(path, make_state(0))
    assert saved_state.saved_config(tmp_path / "missing") is None


# In a process of its own: no file may grow beyond some size, as on a disk that is full.
_FULL_DISK = """
import resource, sys, tempfile
from pathlib import Path
from dcpt_jax.train.checkpoints import Checkpoints
from tests.test_train_checkpoints import MODEL, make_state

def save(checkpoints, step):
    checkpoints.save(make_state(step), batches=step, config={"seed": 0}, model=MODEL)

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

for number, call in enumerate(("wait", "save", "close")):
    workdir = Path(sys.argv[1]) / call
    checkpoints = Checkpoints(workdir)
    save(checkpoints, 1)
    checkpoints.wait()
    limit(8192)  # the arrays of a state take more
    save(checkpoints, 2)
    try:
        {"wait": checkpoints.wait, "save": lambda: save(checkpoints, 3),
         "close": checkpoints.close}[call]()
    except OSError as error:
        print(call, error)
    if call != "close":
        checkpoints.close()  # what was told is not told again
    limit(resource.RLIM_INFINITY)
"""


def test_a_full_disk_is_reported_and_the_previous_checkpoint_stays(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for call in ("wait", "save", "close"):
        (line,) = (x for x in done.stdout.splitlines() if x.startswith(f"{call} "))
        folder = tmp_path / call / "checkpoints"
        assert f"cannot be written to {folder}: File too large" in line
        assert "the same command continues from checkpoint 1" in line
        assert_is_step(restore(tmp_path / call), 1)
        write(tmp_path / call, 2)
        assert_is_step(restore(tmp_path / call), 2)


@pytest.mark.parametrize("name", ["[run]", "run*", "what?", "a\\b"])
def test_paths_that_orbax_takes_for_patterns_are_refused(tmp_path, name):
    """Orbax would write checkpoints and weights there that cannot be read."""
    with pytest.raises(OSError, match=r"directory .* cannot be written: its path contains .\S*, "):
        Checkpoints(tmp_path / name / "w")
    with pytest.raises(OSError, match=r"cannot be written: its path contains .*rename a folder"):
        description = weights.describe(create_model("nafnet"))
        weights.save_weights(tmp_path / name / "w", {"network": {}}, description)
    assert not list((tmp_path / name).glob("*"))


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"work directory .*file/run cannot be written: Not a dir.*--w"
    ):
        Checkpoints(tmp_path / "file" / "run")
