"""Progressive training: phases with crops and batches of different sizes."""

import json

import jax
import numpy as np
import pytest

from dcpt_jax import weights
from dcpt_jax.train import loop
from dcpt_jax.train.stop_request import StopRequest
from tests.conftest import tiny_config

STEPS = 6
CHANGE = 3


def progressive(photo_folder):
    config = tiny_config("restore", photo_folder)
    config.data.crop_size = 24
    config.update(num_steps=STEPS, progressive=f"{CHANGE}:32x2")
    config.log.every_steps = 2
    config.validation.update(every_steps=STEPS, root=str(photo_folder), photos_per_class=1)
    return config


def leaves(state):
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(state)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, photo_folder):
    """Work directory and final state of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("progressive")
    return workdir, leaves(loop.train(progressive(photo_folder), workdir).state)


def test_a_run_of_two_phases(whole):
    workdir, _ = whole
    log = (workdir / "log.txt").read_text()
    assert "batch 8 of 24x24, 2 of 32x32 from step 3" in log
    assert "compiling the training step for batches of 8 of 24x24 (can" in log
    assert "compiling the training step for batches of 2 of 32x32 (can" in log
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    images = {
        line["step"]: round(line["speed/images_per_second"] / line["speed/steps_per_second"])
        for line in lines
        if "speed/steps_per_second" in line
    }
    assert images == {2: 8, 3: 8, 4: 2, 6: 2}  # reported at the change, too
    assert any("quality/validation/psnr" in line for line in lines)
    description = weights.load_weights(workdir)[1]
    assert description.crop_size == 32


@pytest.mark.parametrize("stop_at", [CHANGE, pytest.param(CHANGE + 1, marks=pytest.mark.slow)])
def test_an_interrupted_run_ends_as_the_whole_one(
    tmp_path, photo_folder, whole, monkeypatch, stop_at
):
    config = progressive(photo_folder)
    with monkeypatch.context() as patch:

        def is_requested(self, step):
            if step == stop_at:
                self.signal = "SIGTERM"
            return self.signal is not None

        patch.setattr(StopRequest, "is_requested", is_requested)
        assert not loop.train(config, tmp_path).finished
    assert weights.checkpoint_steps(tmp_path) == [stop_at]
    data = json.loads((tmp_path / "checkpoints" / str(stop_at) / "data" / "metadata").read_text())
    assert data == {"batches": stop_at}
    state = leaves(loop.train(config, tmp_path).state)
    assert state.keys() == whole[1].keys()
    for key, value in state.items():
        np.testing.assert_array_equal(value, whole[1][key], err_msg=key)
