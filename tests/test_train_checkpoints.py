import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax import weights
from dcpt_jax.config import ConfigError
from dcpt_jax.train.checkpoints import DAMAGED, Checkpoints
from dcpt_jax.train.optimizer import adamw
from dcpt_jax.train.state import create_state

OPTIMIZERS = {"network": adamw(1e-3)}


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
        checkpoints.save(make_state(step), batches=step, config={"seed": 0}, model={"format": 1})
    checkpoints.close()


def restore(workdir, target=None):
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.restore_latest(make_state(0) if target is None else target)
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


def lose_the_state(folder):
    shutil.rmtree(folder / "state")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lose_the_position, lose_the_state])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path, caplog, damage):
    write(tmp_path, 1, 2)
    damage(tmp_path / "checkpoints" / "2")
    assert_is_step(restore(tmp_path), 1)
    assert "checkpoint 2 is damaged" in caplog.text
    assert "continuing from checkpoint 1 instead" in caplog.text
    assert (tmp_path / DAMAGED / "2").is_dir()
    write(tmp_path, 2)  # the step can be written again
    assert_is_step(restore(tmp_path), 2)


def test_a_save_cut_short_is_reported_and_not_used(tmp_path, caplog):
    write(tmp_path, 1)
    unfinished = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "1", unfinished)
    assert_is_step(restore(tmp_path), 1)
    assert "checkpoint 2 was cut short by a crash" in caplog.text
    assert "continuing from checkpoint 1 instead" in caplog.text


def test_if_none_can_be_read_the_run_does_not_start_over_in_silence(tmp_path):
    write(tmp_path, 1)
    truncate(tmp_path / "checkpoints" / "1")
    for _ in range(2):  # nor when the same command is given again
        with pytest.raises(RuntimeError, match=r"no checkpoint .* can be read.*--workdir"):
            restore(tmp_path)
    shutil.rmtree(tmp_path / DAMAGED)
    assert restore(tmp_path) is None


def test_a_state_of_another_shape_is_not_taken(tmp_path):
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


def test_a_state_whose_classifier_was_not_averaged_yet(tmp_path, caplog):
    """As earlier versions wrote: the average of the classifier starts from its parameters."""
    rng = np.random.default_rng(0)
    params = {k: {"kernel": jnp.asarray(rng.random((4, 4)))} for k in ("network", "classifier")}
    optimizers = {name: adamw(1e-3) for name in params}
    state, target = (
        create_state(params, optimizers, rng=jax.random.PRNGKey(0), averaged=averaged)
        for averaged in (("network",), optimizers)
    )
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state.replace(step=jnp.asarray(3)), batches=3, config={}, model={"format": 1})
    checkpoints.close()
    restored = restore(tmp_path, target.replace(ema=jax.tree.map(jnp.zeros_like, target.ema)))
    assert restored.step == 3 and "no moving average of the classifier" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, restored.state.ema, params)
    # Without any average it is of another config.
    with pytest.raises(ConfigError, match="another network or optimiser"):
        restore(tmp_path, state.replace(ema={}))


def test_continuing_is_quiet(tmp_path, caplog):
    write(tmp_path, 1)
    assert_is_step(restore(tmp_path), 1)
    assert not caplog.records


def test_a_want_of_memory_is_no_damage(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Checkpoints, "_restore", fail)
        restore(tmp_path)
    assert_is_step(restore(tmp_path), 1)


def test_one_process_at_a_time(tmp_path):
    first = Checkpoints(tmp_path)
    with pytest.raises(RuntimeError, match="another process is training"):
        Checkpoints(tmp_path)
    first.close()
    Checkpoints(tmp_path).close()
