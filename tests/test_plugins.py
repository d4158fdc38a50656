"""Modules of users in a run: the snippets of docs/extending.md."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dcpt_jax import degradations, losses, models, plugins, weights
from dcpt_jax.data import registered, spec
from dcpt_jax.weights import description

ROOT = Path(__file__).resolve().parents[1]
SNIPPETS = re.findall(
    r"```python\n# (\w+\.py)\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S
)


def test_each_snippet_is_short():
    assert len(SNIPPETS) == 5
    for name, text in SNIPPETS:
        assert len([line for line in text.splitlines() if line.strip()]) < 20, name


def test_definitions_of_the_snippets_are_used_in_training(tmp_path, photo_folder):
    """In worker processes, too, which get the modules by the config only."""
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


def test_existing_or_invalid_names_are_refused():
    with pytest.raises(ValueError, match="another degradation 'jpeg'"):
        degradations.register(
            degradations.Degradation(**{**vars(degradations.get("rain")), "name": "jpeg"})
        )
    with pytest.raises(ValueError, match="not 'a:b'"):
        degradations.register(
            degradations.Degradation(**{**vars(degradations.get("rain")), "name": "a:b"})
        )
    for strengths in ({"strength_range": (2, 1)}, {"largest": 1}, {"strength_range": (-1, 2)}):
        with pytest.raises(ValueError, match="'mine': its strengths must be 0 <= low <= high"):
            mine = {**vars(degradations.get("rain")), "name": "mine", **strengths}
            degradations.register(degradations.Degradation(**mine))
    with pytest.raises(ValueError, match="not 'a:1'"):
        losses.register("a:1", losses.l1_loss)
    for name in ("fft", "l1", "pixel", "class"):
        with pytest.raises(ValueError, match=f"loss_{name} is logged for another term"):
            losses.register(name, losses.l1_loss)
    with pytest.raises(ValueError, match="another source of data 'pairs'"):
        spec.register("pairs", list)
    with pytest.raises(ValueError, match="another network 'nafnet'"):
        models.register(type("Other", (models.NAFNet,), {}))


def test_a_missing_import_of_a_plugin_is_named(tmp_path, monkeypatch):
    (tmp_path / "my_plugin.py").write_text("import no_such_library\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        plugins.load("my_plugin")
    with pytest.raises(ValueError, match=r"there is no module 'no_such_package\.module'"):
        plugins.load("no_such_package.module")


def test_a_network_may_take_any_arguments(monkeypatch):
    monkeypatch.setattr(models, "BACKBONES", dict(models.BACKBONES))

    class Scaled(models.RestorationNetwork):
        """Arguments of kinds that no network of the package has."""

        architecture, output_layer, size_multiple = "scaled", "last", 1
        scales: tuple[float, ...] = (0.5, -1.0)
        dtype: np.dtype = np.dtype("float32")
        feature_dims = (3,)

        def arguments(self):
            return {"scales": list(self.scales)}

    models.register(Scaled)
    content = weights.WeightsDescription("scaled", {"scales": (0.25, -2.0)}).to_json()
    assert description.parse_description(content, "model.json").network().scales == (0.25, -2.0)


def source_of(monkeypatch, items):
    monkeypatch.setitem(spec.REGISTERED, "mine", lambda place: items)
    return registered.RegisteredSource("mine", "all", on_bad_file="refuse")


def test_pairs_of_a_registered_source_have_one_size(monkeypatch):
    image = np.zeros((4, 6, 3), np.uint8)
    source = source_of(monkeypatch, [[image, image], (image, image[:3])])
    assert source.is_pairs and source.read(0).clean.shape == (4, 6, 3)
    assert image.flags.writeable
    with pytest.raises(ValueError, match=r"item 1 of mine:all: its degraded image is \(4, 6, 3\)"):
        source.read(1)


@pytest.mark.parametrize(
    "text", ["unheard:1", "squares", "squares:0", "squares:inf", "squares:1,squares:2"]
)
def test_terms_of_the_loss_need_a_name_and_a_weight(text, monkeypatch):
    monkeypatch.setattr(losses, "_TERMS", {})
    losses.register("squares", lambda restored, clean: ((restored - clean) ** 2).mean())
    assert losses.weighted_terms("squares:0.5")["squares"][0] == 0.5
    assert not losses.weighted_terms("")
    with pytest.raises(ValueError, match=r"config\.loss_terms: "):
        losses.weighted_terms(text)
