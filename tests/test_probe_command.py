"""`python -m dcpt_jax.probe`: output and refused options."""

import functools
import json
import re
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest

from dcpt_jax import images, models, weights
from dcpt_jax.probe import command, embedding, picture
from dcpt_jax.probe.neighbours import Accuracy
from dcpt_jax.probe.report import LevelResult, NetworkResult, Report
from tests.golden import random_params


def small_network():
    """NAFNet with two levels and random parameters."""
    model = models.create_model(
        "nafnet", width=4, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1)
    )
    return model, random_params(models.parameter_shapes(model))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A weights folder of a small network."""
    model, params = small_network()
    description = weights.describe(model, mode="restore", steps=7)
    folder = tmp_path_factory.mktemp("weights") / "small"
    return weights.save_weights(folder, {"network": params}, description)


def run(*arguments):
    return command.main([str(argument) for argument in arguments])


def small(photo_folder, output):
    options = ["--tasks", "noise,low_light,rain+haze", "--images", 8, "--crop", 16]
    return [*options, "--photos", photo_folder, "--output", output]


@pytest.mark.slow
def test_probing_writes_table_numbers_and_picture(
    saved, photo_folder, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("matplotlib")
    shorter = functools.partial(embedding.tsne_of, iterations=250)
    monkeypatch.setattr(embedding, "tsne_of", shorter)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    output = tmp_path / "out"
    assert run("--random", saved, "--weights", saved, *small(photo_folder, output)) == 0
    found = json.loads((output / "probe.json").read_text())
    assert found["classes"] == ["noise", "low_light", "rain+haze"]
    assert (found["images_per_class"], found["crop"], found["seed"]) == (8, 16, 0)
    assert [one["name"] for one in found["networks"]] == ["random small", "small"]
    assert [one["weights"] for one in found["networks"]] == [None, str(saved)]
    assert found["networks"][1]["steps"] == 7
    model = weights.load(saved)[0]
    for one in found["networks"]:
        assert [level["shape"][-1] for level in one["levels"]] == list(model.feature_dims)
        assert [level["shape"][0] for level in one["levels"]] == [16, 8]
        for level in one["levels"]:
            assert np.shape(level["tsne"]) == (24, 2)
            for kind in ("flattened", "pooled"):
                assert len(level[kind]["splits"]) == 5
                assert level[kind]["mean"] == pytest.approx(np.mean(level[kind]["splits"]))
    # Darkness shows in the mean colour, which even random features carry.
    assert found["networks"][0]["levels"][0]["pooled"]["mean"] > 0.5
    assert found["networks"][0]["levels"] != found["networks"][1]["levels"]
    table = (output / "probe.md").read_text()
    assert "Chance: 33%" in table and "of 6 photos in" in table
    assert sum(line.startswith("| small ") for line in table.splitlines()) == 2
    printed = capsys.readouterr().out
    assert table in printed and f"wrote {output / 'probe.png'}" in printed
    pixels = images.read_image(output / "probe.png")
    assert min(pixels.shape[:2]) > 1000 and pixels.std() > 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no features are left


def a_report(level_counts, classes=3):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 4)
    level = LevelResult(
        (8, 8, 4),
        Accuracy((0.5, 0.52)),
        Accuracy((0.25, 1.0)),
        rng.standard_normal((len(labels), 2)),
    )
    networks = [NetworkResult(f"n{i}", {}, (level,) * n) for i, n in enumerate(level_counts)]
    names = tuple(f"class {i}" for i in range(classes))
    return Report(names, labels, "images", {}, tuple(networks))


def test_the_table_has_a_row_for_each_level():
    table = a_report([2, 1]).to_markdown().splitlines()
    rows = [line for line in table if line.startswith("| n")]
    assert rows == [
        "| network | level | h x w x c | flattened, % |   pooled, % |",
        "| n0      |     1 |     8x8x4 |   51.0 ± 1.0 | 62.5 ± 37.5 |",
        "| n0      |     2 |     8x8x4 |   51.0 ± 1.0 | 62.5 ± 37.5 |",
        "| n1      |     1 |     8x8x4 |   51.0 ± 1.0 | 62.5 ± 37.5 |",
    ]


def test_networks_of_different_depth_share_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    picture.draw(a_report([1, 3]), tmp_path / "x.png")
    height, width = images.read_pixels(tmp_path / "x.png").shape[:2]
    assert width > height  # three columns, two rows


def test_classes_have_a_colour_and_marker_of_their_own():
    styles = [tuple(picture._style(label).values()) for label in range(88)]
    assert len(set(styles)) == 88
    assert len({style[1] for style in styles[:8]}) == 8


def test_help():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "dcpt_jax.probe", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "--random NAME" in done.stdout
    assert "jax._src" not in done.stderr  # help does not wait for JAX


@pytest.fixture
def drawable(monkeypatch):
    """Starts the command without Matplotlib."""
    monkeypatch.setattr(picture, "check_matplotlib", lambda: None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no network to probe: set --weights W, --random NAME"),
        (["--random", "resnet"], "--random resnet: no such folder; .* nafnet, restormer"),
        (["--weights", "missing"], "--weights missing: no such folder"),
        (["--random=~/missing"], "--random /.*/missing: no such folder"),
        (["--random", "nafnet", "--tasks", "6d"], "--tasks: unknown task set or class '6d'"),
        (["--random", "nafnet", "--tasks", "rain"], "--tasks rain: at least two classes"),
        (["--random", "nafnet", "--images", "1"], "--images 1: must be at least 2 for 5"),
        (["--random", "nafnet", "--seed", "-1"], "--seed -1: must be at least 0"),
        (["--random", "nafnet", "--seed", "4294967296"], "--seed 4294967296: must .* below 2"),
        (["--random", "nafnet", "--photos", "missing"], "--photos missing: no such file"),
        (["--random", "nafnet", "--crop", "400"], "--photos: too few photos for 500 different"),
    ],
)
def test_wrong_use_is_explained(drawable, arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "_probe", None)  # nothing is to be computed
    assert run(*arguments, "--output", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error)


def test_weights_that_cannot_be_read_are_named(drawable, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run("--weights", empty, "--output", tmp_path / "out") == 2
    assert f"cannot use {empty}: no weights in" in capsys.readouterr().err


def test_missing_matplotlib_is_reported_with_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run("--random", "nafnet", "--output", tmp_path) == 2
    assert "dcpt_jax[probe]" in capsys.readouterr().err


def test_features_that_are_not_finite_are_refused(
    drawable, saved, photo_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        command, "_networks", lambda *_: iter([command.Network("nan", *nan_network(), {})])
    )
    assert run("--random", "nafnet", *small(photo_folder, tmp_path)) == 2
    assert "error: nan: features contain values that are not finite" in capsys.readouterr().err


def nan_network():
    model, params = small_network()
    return model, jax.tree.map(lambda leaf: leaf * np.nan, params)
