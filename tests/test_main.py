import os
import subprocess
import sys
from pathlib import Path

import pytest

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
            ["transfer starts from a trained network", "--config.init_from"],
        ),
        (["--config=configs/nothing.py", "--workdir=/x"], ["configs/nothing.py"]),
        (
            ["--config=configs/pretrain.py", "--workdir=/x", "--config.tasks=fog"],
            ["config.tasks", "fog", "haze"],
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
    """Pre-train, fine-tune, evaluate: what a user types, in small."""
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
    """Learn to classify other classes, then be guided by that to another degradation."""
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
