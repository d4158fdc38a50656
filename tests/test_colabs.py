import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What is done less of, so that the default tests stay short.
LESS = """
config.update(batch_size=4)
config.model.update(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,))
config.data.crop_size = 32
config.validation.every_steps = 0
"""
SHORTER = {
    "STEPS = 300": "STEPS = 2",
    'configs.load("pretrain")': f'configs.load("pretrain"){LESS}',
    'configs.load("restore")': f'configs.load("restore"){LESS}',
    'configs.load("evaluate")': (
        'configs.load("evaluate")\nconfig.data.update(crop_size=64, crops_per_photo=1)'
    ),
}


@pytest.mark.parametrize("path", sorted((ROOT / "colabs").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """Runs every cell, on less data; only the install cell finds nothing to do."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    assert "%pip install" in notebook.cells[0].source
    shortened = []
    for cell in notebook.cells:
        for text, shorter in SHORTER.items():
            if text in cell.source:
                cell.source = cell.source.replace(text, shorter)
                shortened.append(text)
        assert not cell.get("outputs"), "notebooks are kept without outputs"
    assert shortened == list(SHORTER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.getenv("PYTHONPATH", "")]))
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    images = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(images) == 3  # damaged photos, picture sheet, restored photo
    assert (tmp_path / "runs" / "quickstart" / "restore" / "weights" / "model.json").is_file()
