import contextlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dcpt_jax import config as configs
from dcpt_jax import weights
from dcpt_jax.config import ConfigError
from dcpt_jax.train import begin, loop
from tests.conftest import tiny_config


def arrays(workdir, step=None):
    """Every array of a work directory's weights, or of its checkpoint of a step, as numpy."""
    import orbax.checkpoint as ocp

    if step is None:
        tree = weights.load_weights(Path(workdir) / "weights")[0]
    else:
        tree = ocp.PyTreeCheckpointer().restore(Path(workdir) / "checkpoints" / str(step) / "state")
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(tree)}


def assert_equal(a, b):
    assert a.keys() == b.keys() and a
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_a_run_leaves_weights_checkpoints_and_event_files(pretrained):
    params, description = weights.load_weights(pretrained)
    assert set(params) == {"network", "classifier"}
    assert description.architecture == "nafnet"
    assert description.arguments["width"] == 4
    assert description.classes == ("rain", "noise", "haze", "low_light", "motion_blur")
    assert description.task_set == "5d"
    assert description.steps == 12
    assert np.isfinite(description.metrics["loss"])
    assert weights.checkpoint_steps(pretrained) == [12, 10]
    assert list(pretrained.glob("events.out.tfevents.*"))


def test_the_same_command_again_changes_nothing(pretrained, photo_folder, capsys):
    before = arrays(pretrained)
    result = loop.train(tiny_config("pretrain", photo_folder), pretrained)
    output = capsys.readouterr().out
    assert result.finished and "finished: step 12 of 12; more with --config.num_steps" in output
    assert "compiling" not in output
    assert_equal(before, arrays(pretrained))


def scalars(workdir):
    """Values in a work directory's event files, by tag."""
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(str(workdir), {"tensors": 0})
    events.Reload()
    return {
        tag: [float(event.tensor_proto.float_val[0]) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
        if events.Tensors(tag)[0].tensor_proto.float_val  # and no picture
    }


def test_tensorboard_gets_the_scalars(pretrained):
    found = scalars(pretrained)
    assert {"loss/loss", "loss/pixel", "loss/class", "quality/accuracy"} <= set(found)
    assert {"schedule/learning_rate_network", "schedule/gradient_norm_network"} <= set(found)
    assert {"speed/data_wait", "speed/images_per_second"} <= set(found)
    assert "speed/tflops_per_second" not in found  # not counted correctly on CPUs
    assert {tag.partition("/")[0] for tag in found} == {"loss", "quality", "schedule", "speed"}
    assert found["speed/host_memory_gb"][-1] > 0.1
    assert len(found["loss/loss"]) == 3  # steps 4, 8 and 12
    assert found["loss/loss"][-1] == np.float32(weights.load_weights(pretrained)[1].metrics["loss"])


def test_the_folder_of_a_run_tells_its_story(pretrained):
    config = json.loads((pretrained / "config.json").read_text())
    assert config["mode"] == "pretrain" and config["num_steps"] == 12
    lines = [json.loads(line) for line in (pretrained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss/loss" in line] == [4, 8, 12]
    with Image.open(pretrained / "curves.png") as curves:
        assert curves.width > 500 and len(curves.convert("L").getcolors()) > 3
    log = (pretrained / "log.txt").read_text()
    assert "starting from scratch" in log and "pretrain 12/12" in log and "weights: " in log


def test_the_start_is_reported(pretrained):
    lines = (pretrained / "log.txt").read_text().splitlines()
    line = next(x for x in lines if "pretrain, starting" in x)
    assert "from scratch" in line and "1 x cpu" in line and "batch 8 of 16x16" in line
    assert "network" in line and "classifier" in line
    for name in ("rain", "noise", "haze", "low_light", "motion_blur"):  # one row of a table each
        row = next(x for x in lines if x.split()[:1] == [name])
        assert "20.0%" in row and "6 photos" in row


def test_a_restoration_starts_from_a_pretrained_network_and_continues_without_it(
    tmp_path, photo_folder, pretrained, caplog
):
    start, workdir = tmp_path / "start", tmp_path / "run"
    shutil.copytree(pretrained / "weights", start)
    config = tiny_config("restore", photo_folder)
    config.init_from = str(start)
    config.model.width = 6  # not that of the weights
    config.optimizer.update(learning_rate=1e-12, min_learning_rate=0.0, decay_steps=10)
    config.num_steps = 1
    loop.train(config, workdir)
    assert weights.load(workdir)[0].width == 4
    assert "config.model is ignored" in caplog.text
    params, first = weights.load_weights(workdir)
    assert set(params) == {"network"} and first.classifier is None
    assert first.source == {"init_from": str(start), "mode": "pretrain", "steps": 12}
    jax.tree.map(  # equal but for the rounding of the moving average
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-10), params["network"],
        weights.load_weights(start)[0]["network"],
    )  # fmt: skip
    shutil.rmtree(start)
    config.num_steps = 2
    assert int(loop.train(config, workdir).state.step) == 2
    second = weights.load_weights(workdir)[1]
    assert second.source == first.source and second.arguments["width"] == 4
    config.init_from = str(pretrained)  # another start makes another run
    with pytest.raises(ConfigError, match=r"config\.init_from"):
        loop.train(config, workdir)


def test_another_config_is_refused_unless_allowed_and_a_loss_that_is_not_finite_ends_the_run(
    tmp_path, photo_folder, pretrained
):
    workdir = tmp_path / "run"
    shutil.copytree(pretrained, workdir)
    before = arrays(workdir, step=12)
    config = tiny_config("pretrain", photo_folder)
    config.num_steps = 20
    config.optimizer.learning_rate = 1e30
    config.data.crop_size = 24
    with pytest.raises(ConfigError) as error:
        loop.train(config, workdir)
    assert "config.optimizer.learning_rate: 0.001 -> 1e+30" in str(error.value)
    assert "config.data.crop_size: 16 -> 24" in str(error.value)
    config.checkpoint.allow_config_change = True
    with pytest.raises(FloatingPointError, match=r"step 1[34]: .*(loss|gradient)"):
        loop.train(config, workdir)
    assert weights.checkpoint_steps(workdir)[0] == 12
    assert_equal(before, arrays(workdir, step=12))


def test_two_runs_do_not_write_to_one_directory(tmp_path, photo_folder):
    from dcpt_jax.train.checkpoints import Checkpoints

    first = Checkpoints(tmp_path)
    try:
        with pytest.raises(RuntimeError, match="another process"):
            loop.train(tiny_config("pretrain", photo_folder), tmp_path)
    finally:
        first.close()


@contextlib.contextmanager
def compilations():
    """A list that grows with the number of programs compiled so far, at each step of a run."""
    import jax.monitoring

    compiled, at_steps = [], []
    add = loop.StepLog.add

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    def count(self, metrics):
        at_steps.append(len(compiled))
        add(self, metrics)

    jax.monitoring.register_event_duration_secs_listener(listen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.StepLog, "add", count)
        yield at_steps


def restoration(photo_folder):
    """Config of a run that draws pictures and validates."""
    config = tiny_config("restore", photo_folder)
    config.log.update(every_steps=2, image_every_steps=3)
    config.validation.update(every_steps=4, root=str(photo_folder))
    return config


@pytest.fixture(scope="module")
def restored(tmp_path_factory, photo_folder):
    """Such a run: its directory, its result, and the programs compiled at each step."""
    workdir = tmp_path_factory.mktemp("restored")
    with compilations() as at_steps:
        result = loop.train(restoration(photo_folder), workdir)
    return workdir, result, at_steps


def test_the_weights_are_the_moving_average(restored):
    workdir, result, _ = restored
    params = weights.load_weights(workdir)[0]["network"]
    jax.tree.map(np.testing.assert_array_equal, params, result.state.ema["network"])
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), params, result.state.params["network"]
    )
    assert max(jax.tree.leaves(moved)) > 0


@pytest.mark.slow
def test_the_weights_are_replaced_by_a_new_run(tmp_path, photo_folder, restored):
    workdir = tmp_path / "run"
    shutil.copytree(restored[0], workdir)
    before = arrays(workdir)
    shutil.rmtree(workdir / "checkpoints")
    config = restoration(photo_folder)
    config.update(seed=5, num_steps=1)
    loop.train(config, workdir)
    after = arrays(workdir)
    assert any((before[key] != after[key]).any() for key in before)


def assert_pictures(workdir, *, count):
    """Asserts that the event files contain this number of sheets of five classes."""
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(str(workdir), {"tensors": 0})
    events.Reload()
    found = events.Tensors("pictures")
    assert len(found) == count
    for event in found:
        width, height, png = event.tensor_proto.string_val
        assert int(width) > 3 * 160 and int(height) > 5 * 160  # enlarged
        assert png.startswith(b"\x89PNG")


def test_nothing_is_compiled_after_the_first_step(restored):
    workdir, _, at_steps = restored
    assert len(at_steps) == 12 and at_steps[0] > 0  # it counts
    assert at_steps[1] == at_steps[0]
    # At steps 3 and 4 what draws and validates is compiled, with checksums and metrics of its own.
    assert at_steps[5:] == [at_steps[5]] * 7
    assert_pictures(workdir, count=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nafnet", "restormer"])
def test_the_full_size_step_is_compiled_once(tmp_path, photo_folder, name):
    config = configs.load("pretrain", name)
    config.data.update(root=str(photo_folder), crop_size=32, num_workers=0)
    config.update(batch_size=1, num_steps=4)
    config.log.update(every_steps=4, image_every_steps=0)
    config.validation.every_steps = 0
    with compilations() as at_steps:
        loop.train(config, tmp_path)
    assert at_steps[0] > 0 and at_steps == [at_steps[0]] * 4


def test_nothing_is_copied_to_the_device_inside_a_step(tmp_path, photo_folder, monkeypatch):
    config = restoration(photo_folder)
    monkeypatch.setattr(loop.sharding, "put_batch", lambda batch, mesh: batch)  # still on the host
    with pytest.raises(RuntimeError, match="Disallowed host-to-device transfer"):
        loop.train(config, tmp_path)


def test_a_run_goes_on_in_another_directory(tmp_path, photo_folder, pretrained, capsys):
    """From an earlier checkpoint to the same end, bit for bit; the first run is unchanged."""
    before = sorted(p.stat().st_mtime_ns for p in pretrained.rglob("*"))
    config = tiny_config("pretrain", photo_folder)
    config.resume_from = str(pretrained / "checkpoints" / "10")
    result = loop.train(config, tmp_path / "run")
    assert result.finished
    assert f"continuing {config.resume_from} from step 10" in capsys.readouterr().out
    assert_equal(arrays(pretrained), arrays(tmp_path / "run"))
    assert_equal(arrays(pretrained, step=12), arrays(tmp_path / "run", step=12))
    assert sorted(p.stat().st_mtime_ns for p in pretrained.rglob("*")) == before
    assert weights.checkpoint_steps(tmp_path / "run") == [12, 10]  # 10 was taken over at once
    # From now on its own checkpoint counts.
    config.resume_from = str(tmp_path / "nothing")
    loop.train(config, tmp_path / "run")
    assert "continuing from step 12" in capsys.readouterr().out


def test_where_a_run_that_goes_on_elsewhere_started_is_found(tmp_path, photo_folder):
    def checkpoint(workdir, step, **config):
        folder = tmp_path / workdir / "checkpoints" / str(step)
        (folder / "config").mkdir(parents=True)
        (folder / "config" / "metadata").write_text(json.dumps(config))
        weights.write_checksums(folder)

    def found():
        return begin.with_inherited_init_from(config, tmp_path / "run").init_from

    config = tiny_config("pretrain", photo_folder)
    assert begin.with_inherited_init_from(config, tmp_path / "run") is config
    config.resume_from = str(tmp_path / "first")
    assert found() == ""
    checkpoint("first", 10, init_from="weights of the first")
    assert found() == "weights of the first" and not config.init_from
    checkpoint("run", 10, init_from="weights")  # from now on its own checkpoint counts
    assert found() == "weights"
    config.init_from = "others"
    assert found() == "others"


@pytest.mark.slow
def test_a_run_that_goes_on_elsewhere_can_do_without_the_other_directory(
    tmp_path, photo_folder, pretrained, capsys
):
    """Also if that run started from weights that only its config names."""
    config = tiny_config("pretrain", photo_folder)
    config.init_from = str(pretrained)
    loop.train(config, tmp_path / "first")
    config.init_from = ""
    config.model.width = 6  # the network is that of the weights
    config.resume_from = str(tmp_path / "first" / "checkpoints" / "10")
    loop.train(config, tmp_path / "run")
    assert_equal(arrays(tmp_path / "first", step=12), arrays(tmp_path / "run", step=12))
    (tmp_path / "first").rename(tmp_path / "moved")
    loop.train(config, tmp_path / "run")
    assert "continuing from step 12" in capsys.readouterr().out


def test_going_on_elsewhere_is_refused_with_another_config(tmp_path, photo_folder, pretrained):
    config = tiny_config("pretrain", photo_folder)
    config.resume_from = str(pretrained)
    config.optimizer.learning_rate = 7e-4
    with pytest.raises(ConfigError, match=r"learning_rate: 0\.001 -> 0\.0007") as error:
        loop.train(config, tmp_path)
    assert str(pretrained) in str(error.value)
    other = tiny_config("restore", photo_folder)
    other.resume_from = str(pretrained)
    with pytest.raises(ConfigError, match=r"a run of pretrain, .* as restore; .*init_from"):
        loop.train(other, tmp_path)
    config.resume_from = str(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"config\.resume_from: there is no .*nothing"):
        loop.train(config, tmp_path)


def test_the_saved_config_is_complete(pretrained, photo_folder):
    saved = json.loads((pretrained / "checkpoints" / "12" / "config" / "metadata").read_text())
    from dcpt_jax.config import differences, to_json

    assert differences(saved, to_json(tiny_config("pretrain", photo_folder))) == []
