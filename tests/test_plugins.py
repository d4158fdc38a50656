"""Modules of a user's own take part in a run: the snippets of docs/extending.md, as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dcpt_jax import degradations, losses, models, plugins
from dcpt_jax.data import spec

ROOT = Path(__file__).resolve().parents[1]
SNIPPETS = re.findall(
    r"```python\n# (\w+\.py)\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S
)


def test_each_snippet_is_short():
    assert len(SNIPPETS) == 5
    for name, text in SNIPPETS:
        assert len([line for line in text.splitlines() if line.strip()]) < 20, name


def test_what_the_snippets_define_is_trained_with(tmp_path, photo_folder):
    """In worker processes, too; each process is given the modules by the config alone."""
    for name, text in SNIPPETS:
        (tmp_path / name).write_text(text)
    flags = ["num_steps=2", "batch_size=4", "data.crop_size=16", "data.num_workers=1"]
    flags += [f"data.root={photo_folder}", "validation.every_steps=0", "log.image_every_steps=0"]
    flags += ["repeats.fading=3"]
    done = subprocess.run(
        [sys.executable, "-m", "dcpt_jax.main", "--config=my_config.py", "--workdir=run"]
        + [f"--config.{flag}" for flag in flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"fading +6 +x 3 .* synthetic fading", done.stdout), done.stdout
    assert re.search(r"noise +12 .* photos of slopes:12", done.stdout), done.stdout
    description = json.loads((tmp_path / "run/weights/model.json").read_text())
    assert description["architecture"] == "plain"
    assert description["arguments"] == {"channels": 8}
    metrics = description["metrics"]
    whole = metrics["loss_l1"] + 0.1 * metrics["loss_edges"]
    assert metrics["loss"] == pytest.approx(whole, rel=1e-5)
    assert metrics["loss_edges"] > 0


def test_a_module_that_is_not_there():
    with pytest.raises(ValueError, match=r"config\.plugins: there is no module 'no_such_module'"):
        plugins.load("no_such_module")


def test_names_that_are_taken_or_unfit_are_refused():
    with pytest.raises(ValueError, match="another degradation 'jpeg'"):
        degradations.register(
            degradations.Degradation(**{**vars(degradations.get("rain")), "name": "jpeg"})
        )
    with pytest.raises(ValueError, match="not 'a:b'"):
        degradations.register(
            degradations.Degradation(**{**vars(degradations.get("rain")), "name": "a:b"})
        )
    with pytest.raises(ValueError, match="another source of data 'pairs'"):
        spec.register("pairs", list)
    with pytest.raises(ValueError, match="another network 'nafnet'"):
        models.register(type("Other", (models.NAFNet,), {}))


@pytest.mark.parametrize("text", ["unheard:1", "squares", "squares:0", "squares:inf"])
def test_terms_of_the_loss_need_a_name_and_a_weight(text, monkeypatch):
    monkeypatch.setattr(losses, "_TERMS", {})
    losses.register("squares", lambda restored, clean: ((restored - clean) ** 2).mean())
    assert losses.registered("squares:0.5")["squares"][0] == 0.5 and not losses.registered("")
    with pytest.raises(ValueError, match=r"config\.loss_terms: "):
        losses.registered(text)
