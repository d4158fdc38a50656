import ast
import subprocess
import sys
from pathlib import Path

import pytest

from dcpt_jax.config import ConfigError, recipes

ROOT = Path(__file__).resolve().parents[1]


def test_the_files_of_the_clone_are_found():
    assert recipes.folder() == ROOT / "configs"
    found = recipes.summaries()
    assert set(found) == {f"configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert found["configs/pretrain.py"].startswith("DCPT pre-training")
    assert all(found.values())


def test_every_recipe_names_command_hardware_and_score():
    for path in recipes.folder().glob("*.py"):
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert f"python -m dcpt_jax.main --config=configs/{path.name}" in text
        assert "hardware" in text.lower() and "score" in text.lower(), path


def test_a_file_is_loaded_by_name():
    assert recipes.load("restore", "nafnet,10d").batch_size == 128
    with pytest.raises(ConfigError, match="unknown config 'resume'; known: bundled, classify"):
        recipes.load("resume")


def test_missing_files_are_those_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = str(ROOT / "configs" / "pretrain.py")
    assert recipes.locate(
        ["main", "--config=configs/pretrain.py:nafnet,5d", "--workdir=configs/restore.py"]
    ) == ["main", f"--config={packaged}:nafnet,5d", "--workdir=configs/restore.py"]
    assert recipes.locate(["main", "--config", "./configs/pretrain.py"]) == [
        *("main", "--config", packaged)
    ]


def test_other_files_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "pretrain.py").write_text("")
    for path in ("configs/pretrain.py", "configs/gone.py", "/gone/pretrain.py", "pretrain.py"):
        assert recipes.locate(["main", f"--config={path}"]) == ["main", f"--config={path}"]


def test_a_config_of_the_package_is_read_in_any_folder(tmp_path):
    """The check of the data is quick and shows that the config was read."""
    arguments = ["--config=configs/restore.py", f"--config.data.root={tmp_path}/gone"]
    done = subprocess.run(
        [sys.executable, "-m", "dcpt_jax.data.check", *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and f"no such folder: {tmp_path}/gone, given by" in done.stdout
