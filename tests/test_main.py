import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dcpt_jax import main as command

ROOT = Path(__file__).resolve().parents[1]


def main(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "dcpt_jax.main", *map(str, arguments)],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["--config=configs/pretrain.py", "--workdir=/x", "--config.optimizer.rate=1"],
            ["unknown key --config.optimizer.rate", "learning_rate", "weight_decay"],
        ),
        (
            ["--config=configs/pretrain.py", "--workdir=/x", "--config.batchsize=1"],
            ["unknown key --config.batchsize", "batch_size", "num_steps"],
        ),
        (
            ["--config=configs/pretrain.py:resnet", "--workdir=/x"],
            ["unknown preset 'resnet'", "nafnet", "5d", "motion_blur"],
        ),
        (
            ["--config", "configs/pretrain.py:resnet", "--workdir", "/x"],
            ["unknown preset 'resnet'", "nafnet"],
        ),
        (
            ["--config", "configs/pretrain.py", "--workdir=/x", "--config.bogus", "1"],
            ["unknown key --config.bogus", "batch_size"],
        ),
        (
            ["--config=configs/nothing.py", "--workdir=/x", "--config.num_steps=3"],
            ["configs/nothing.py"],
        ),
        (["--config=configs/pretrain.py"], ["--workdir is missing"]),
        (
            ["--config=configs/transfer.py:restormer,rain", "--workdir=/x"],
            ["transfer needs a trained network", "--config.init_from"],
        ),
        (
            ["--config=configs/nothing.py", "--workdir=/x"],
            ["error: no such config file: 'configs/nothing.py'"],
        ),
        (
            ["--config=configs/pretrain.py", "--workdir=/x", "--config.tasks=fog"],
            ["config.tasks", "fog", "haze"],
        ),
        (
            ["--config=configs/pretrain.py", "--workdir=/x", "--config.repeats.fog+haze=2"],
            ["unknown key --config.repeats.fog+haze", "low_light", "mixtures"],
        ),
        (
            ["--config=configs/pretrain.py", "--workdir=/x", "--config.num_steps=many"],
            ["num_steps", "many"],
        ),
    ],
)
def test_errors_of_use_are_explained_without_a_traceback(arguments, parts):
    done = main(*arguments)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in output
    for part in parts:
        assert part in output, output


def test_help_names_stages_presets_and_how_to_list_keys():
    done = main("--help")
    assert done.returncode == 0 and done.stderr == ""
    for path in (ROOT / "configs").glob("*.py"):
        assert f"configs/{path.name}" in done.stdout
    for part in ("nafnet restormer promptir swinir", "5d 10d cdd11", "--workdir", "--help lists"):
        assert part in done.stdout


def test_help_of_a_stage_lists_its_keys():
    done = main("--config=configs/pretrain.py:restormer,10d", "--config.num_steps=7", "--help")
    assert done.returncode == 0
    keys = done.stdout.splitlines()
    assert "--config.num_steps=7" in keys and "--config.model.name=restormer" in keys
    assert "--config.model.num_blocks='(4, 6, 6, 8)'" in keys  # as a shell takes it
    assert all(line.startswith("--config.") for line in keys)


def test_help_of_an_unknown_stage_is_an_error():
    done = main("--config=configs/nothing.py", "--help")
    assert done.returncode == 2 and "configs/nothing.py" in done.stderr


@pytest.mark.parametrize(("stage", "continues"), [("pretrain", True), ("evaluate", False)])
def test_only_an_interrupted_training_is_said_to_continue(stage, continues, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupted)
    assert command.main(["main", f"--config=configs/{stage}.py", "--workdir=w"]) == 130
    shown = capsys.readouterr().err
    assert ("the same command continues" in shown) == continues
    assert shown.endswith("interrupted\n")


def test_the_command_can_run_again_in_a_process(capsys):
    for steps in (3, 4):
        arguments = ["--config=configs/pretrain.py", f"--config.num_steps={steps}", "--help"]
        assert command.main(["main", *arguments]) == 0
        assert f"--config.num_steps={steps}\n" in capsys.readouterr().out


def test_a_folder_without_photos(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("no photo")
    done = main(
        "--config=configs/pretrain.py",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.root={tmp_path / 'photos'}",
    )
    assert done.returncode == 1
    assert "error:" in done.stderr and str(tmp_path / "photos") in done.stderr
    assert "--config.data.root" in done.stderr


def test_evaluating_nothing(tmp_path):
    done = main(
        "--config=configs/evaluate.py",
        f"--workdir={tmp_path / 'run'}",
        f"--config.init_from={tmp_path / 'missing'}",
    )
    assert done.returncode == 1
    assert "no weights in" in done.stderr and "missing" in done.stderr


def test_the_three_commands(tmp_path, photo_folder):
    """Pre-train, fine-tune, evaluate: the commands of a user, in small."""
    small = [
        "--config.model.width=4",
        "--config.model.encoder_blocks=(1,)",
        "--config.model.decoder_blocks=(1,)",
        "--config.classifier.num_blocks=1",
        "--config.num_steps=4",
        "--config.log.every_steps=2",
    ]
    common = [
        f"--config.data.root={photo_folder}",
        "--config.data.crop_size=16",
        "--config.data.num_workers=1",
        "--config.batch_size=8",
    ]
    first, second, third = (tmp_path / name for name in ("pretrain", "restore", "evaluate"))
    done = main("--config=configs/pretrain.py", f"--workdir={first}", *small, *common)
    assert done.returncode == 0, done.stderr
    assert f"workdir: {first}" in done.stdout and "pretrain 4/4" in done.stdout
    done = main(
        "--config=configs/restore.py",
        f"--workdir={second}",
        f"--config.init_from={first}",
        "--config.validation.every_steps=0",
        *small,
        *common,
    )
    assert done.returncode == 0, done.stderr
    assert f"starting from {first}" in done.stdout and "restore 4/4" in done.stdout
    done = main(
        "--config=configs/evaluate.py",
        f"--workdir={third}",
        f"--config.init_from={second}",
        *common,
    )
    assert done.returncode == 0, done.stderr
    assert "motion_blur" in done.stdout and "Classification accuracy" in done.stdout
    assert (third / "sheet.png").is_file() and (third / "evaluation.json").is_file()


@pytest.mark.slow
def test_the_commands_that_build_on_a_trained_network(tmp_path, photo_folder, pretrained):
    """Classify other classes, then transfer to another degradation, guided by that classifier."""
    common = [
        f"--config.init_from={pretrained}",
        f"--config.data.root={photo_folder}",
        "--config.data.crop_size=16",
        "--config.data.num_workers=1",
        "--config.batch_size=8",
        "--config.num_steps=4",
        "--config.log.every_steps=2",
        "--config.accumulate_steps=2",
        "--config.remat=True",
    ]
    first, second = tmp_path / "classify", tmp_path / "transfer"
    done = main(
        "--config=configs/classify.py", f"--workdir={first}", *common, "--config.tasks=haze,noise"
    )
    assert done.returncode == 0, done.stderr
    assert "its head resized from 5 to 2 classes; kept: haze, noise; new: none" in done.stdout
    assert "classify 4/4" in done.stdout
    done = main(
        "--config=configs/transfer.py:nafnet,haze",
        f"--workdir={second}",
        f"--config.classifier_from={first}",
        *common,
    )
    assert done.returncode == 0, done.stderr
    assert f"classifier: taken over from {first}, frozen" in done.stdout
    assert "transfer 4/4" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("label", ["flat", "multi_hot"])
def test_mixtures_from_pretraining_to_tables(tmp_path, photo_folder, label):
    """The eleven mixtures of CDD-11 with each kind of label; then a guide to another mixture."""
    small = [
        "--config.model.width=4",
        "--config.model.encoder_blocks=(1,)",
        "--config.model.decoder_blocks=(1,)",
        "--config.classifier.num_blocks=1",
    ]
    common = [
        f"--config.data.root={photo_folder}",
        "--config.data.crop_size=16",
        "--config.data.num_workers=1",
        "--config.batch_size=8",
    ]
    steps = ["--config.num_steps=4", "--config.log.every_steps=2"]
    names = ("pretrain", "restore", "evaluate", "classify", "transfer")
    folders = {name: tmp_path / name for name in names}

    def run(name, *arguments):
        config, workdir = f"--config=configs/{name}.py", f"--workdir={folders[name]}"
        done = main(config, workdir, *common, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    labels = f"--config.label={label}"
    output = run(
        "pretrain", *small, *steps, "--config.tasks=cdd11", labels, "--config.repeats.l+h=2"
    )
    assert "pretrain 4/4" in output
    assert re.search(r"low_light\+haze +6 +x 2 +16\.7%", output), output
    description = json.loads((folders["pretrain"] / "weights" / "model.json").read_text())
    assert len(description["classes"]) == 11 and description["label"] == label
    multi_hot = label == "multi_hot"
    assert description["classifier"]["num_classes"] == (4 if multi_hot else 11)
    before = f"--config.init_from={folders['pretrain']}"
    output = run("restore", *small, *steps, "--config.tasks=cdd11", before)
    assert "restore 4/4" in output
    output = run("evaluate", f"--config.init_from={folders['restore']}")
    assert "low_light+snow+haze" in output
    saved = json.loads((folders["evaluate"] / "evaluation.json").read_text())
    assert len(saved["classes"]) == 11 and 0 <= saved["accuracy"] <= 1
    if multi_hot:
        assert "all components correct in" in output
        assert saved["components"]["names"] == ["low_light", "haze", "rain", "snow"]
    else:
        assert np.sum(saved["confusion"]) == sum(c["samples"] for c in saved["classes"].values())
    output = run("classify", *steps, before, labels, "--config.tasks=low_light+haze,haze,rain")
    assert "classify 4/4" in output
    kept = "to 3 components; kept: low_light, haze, rain; new: none; dropped: snow"
    assert (kept if multi_hot else "resized from 11 to 3 classes; kept: low_light+haze") in output
    # A classifier of components guides to a mixture that it was never shown.
    guide = f"--config.classifier_from={folders['classify']}"
    mixture = "low_light+rain" if multi_hot else "low_light+haze"
    output = run("transfer", *steps, before, guide, f"--config.tasks={mixture}")
    assert "frozen; it guides the network" in output and "transfer 4/4" in output
    longer = ["--config.num_steps=6", "--config.log.every_steps=2"]
    output = run("transfer", *longer, before, guide, f"--config.tasks={mixture}")
    assert "continuing from step 4" in output and "transfer 6/6" in output
