import argparse
import json

import jax
import numpy as np
import pytest

from benchmarks import cases, input_pipeline
from benchmarks import models as benchmarks
from benchmarks import train as training
from dcpt_jax import degradations, images
from dcpt_jax.convert.naming import to_torch
from dcpt_jax.data.photos import TRAIN_PHOTOS
from dcpt_jax.models import create_model, parameter_shapes
from tests.conftest import TINY_BACKBONES
from tests.golden import random_params, run

OPTIONS = argparse.Namespace(
    dtype="float32", remat=False, repetitions=1, threads=1, torch_compile=False
)


def tiny_case(name):
    return cases.Case("tiny", name, TINY_BACKBONES[name], batch=2, size=16)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nafnet", "promptir", "swinir"])  # Restormer is in PromptIR
def test_all_figures_of_a_case_are_measured(name):
    figures = benchmarks.measure(tiny_case(name), OPTIONS)
    for what in benchmarks.WHAT:
        for figure in ("trace s", "compile s", "temporary MB", "peak MB", "dcpt_jax ms"):
            assert figures[f"{what}: {figure}"] > 0, (what, figure)
    assert figures["initialise: trace, compile and run s"] > 0
    if "torch" in figures:
        ratio = figures["training step: dcpt_jax ms"] / figures["training step: torch ms"]
        assert figures["training step: dcpt_jax / torch"] == pytest.approx(ratio)
    assert "tiny, training step" in benchmarks.summary([figures])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("restormer", {}),
        ("restormer", {"attention": "softmax", "norm": "with_bias", "bias": True}),
        ("promptir", {}),
        ("promptir", {"norm": "bias_free", "bias": True}),
        ("nafnet", {}),
    ],
)
def test_pytorch_networks_compute_what_ours_do(name, changes):
    torch = pytest.importorskip("torch")
    from benchmarks import torch_runs

    model = create_model(name, **TINY_BACKBONES[name], **changes)
    params = random_params(parameter_shapes(model))
    try:
        network = torch_runs.network(name, model.arguments(), size=24)
    except ImportError as error:
        pytest.skip(f"without spandrel: {error}")
    layout = "original" if name in ("nafnet", "restormer") else "dcpt"
    state = to_torch(params, model, layout=layout, force=True)
    network.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    image = np.random.default_rng(0).random((2, 16, 24, 3), np.float32)
    with torch.no_grad():
        theirs = network(torch.from_numpy(image.transpose(0, 3, 1, 2).copy())).numpy()
    ours = np.asarray(run(model, {"params": params}, image))
    scale = np.abs(ours - image).max()
    assert scale > 1e-2
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), rtol=0, atol=2e-5 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*cases.SMALL, *cases.FULL], ids=lambda case: case.name)
def test_pytorch_networks_have_our_number_of_parameters(case):
    pytest.importorskip("torch")
    from benchmarks import torch_runs

    model = create_model(case.architecture, **case.arguments)
    try:
        network = torch_runs.network(case.architecture, model.arguments(), case.size)
    except ImportError as error:
        pytest.skip(f"without spandrel: {error}")
    theirs = {
        name: value.numel()
        for name, value in network.named_parameters()
        if "relative_position" not in name  # the published SwinIR's, which ours does not have
    }
    ours = jax.tree.leaves(parameter_shapes(model))
    assert sum(theirs.values()) == sum(leaf.size for leaf in ours)


# --- the input pipeline --------------------------------------------------------------------------


@pytest.mark.slow
def test_figures_of_the_input_pipeline(photo_folder, tmp_path, capsys):
    output = tmp_path / "figures.json"
    command = f"--photos {photo_folder} --classes noise,haze --crop 16 --batch 2 --seconds 0.02"
    figures = input_pipeline.main(
        [*command.split(), "--workers", "0", "1", "--repetitions", "1", "--output", str(output)]
    )
    assert json.loads(output.read_text()) == figures
    for workers in ("0", "1"):
        streams = figures["streams"][workers]
        assert {"packed", "folder PNG", "folder JPEG", "folder PNG, cached"} <= set(streams)
        assert all(value > 0 for rounds in streams.values() for value in rounds[0].values())
        for name, ratio in figures["ratios per core"][workers].items():
            rates = [streams[x][0]["patches/core s"] for x in name.split(" / ")]
            assert ratio == pytest.approx(rates[0] / rates[1])
    for parts in figures["shares"].values():
        assert list(parts) == figures["parts"] and parts["degradation"] > 0
    assert set(figures["classes"]) == set(figures["degradation ms"]) == set(degradations.names())
    text = capsys.readouterr().out
    assert "ms per patch and core" in text and "motion_blur" in text


def test_photos_to_measure_with():
    photos = input_pipeline.photographs(None)
    assert len(photos) == len(TRAIN_PHOTOS)
    for pixels in photos:
        assert pixels.shape == (input_pipeline.HEIGHT, input_pipeline.WIDTH, 3)


def test_pytorch_samples_are_like_ours(tmp_path):
    torch = pytest.importorskip("torch")
    from benchmarks import torch_loader

    y, x = np.mgrid[:30, :40]
    images.write_image(tmp_path / "a.png", np.stack([x, y, np.full_like(x, 9)], axis=-1) / 255)
    paths = [tmp_path / "a.png"]
    options = {"crop": 16, "batch_size": 4, "num_workers": 0}
    batch = next(torch_loader.batches(paths, ["noise:5", "haze"], **options))
    assert batch["clean"].shape == batch["degraded"].shape == (4, 3, 16, 16)
    assert batch["clean"].dtype == torch.float32
    levels = np.rint(batch["clean"].numpy() * 255)
    assert (levels[:, 2] == 9).all()  # RGB
    assert set(batch["task"].tolist()) <= {0, 1}
    assert (batch["clean"] != batch["degraded"]).any()


# --- whole training steps ------------------------------------------------------------------------


@pytest.mark.slow
def test_figures_of_training_steps(tmp_path, capsys):
    output = tmp_path / "figures.json"
    command = ["--batch", "4", "--crop", "32", "--repetitions", "2", "--output", str(output)]
    figures = training.main(command)
    assert json.loads(output.read_text()) == figures
    one = figures["results"]["1 x"]
    assert one["ratio"] == 1.0 and one["ms"] > one["dispatch ms"] > 0
    assert one["images/s"] == pytest.approx(4 * one["steps/s"])
    assert one["teraflops/s"] == pytest.approx(one["gigaflops of a step"] * one["steps/s"] / 1e3)
    assert figures["batch"] == 4 and "share of peak" not in one
    assert "images/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", ["--torch --devices 1 2", "--torch --mode pretrain", "--devices 0"]
)
def test_training_steps_that_cannot_be_timed(command, capsys):
    with pytest.raises(SystemExit):
        training.parse_options(command.split())
    assert "--" in capsys.readouterr().err
