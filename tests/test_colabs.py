import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "colabs").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """Runs every cell, with fewer steps; only the install cell finds nothing to do."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    assert "%pip install" in notebook.cells[0].source
    shortened = 0
    for cell in notebook.cells:
        if "STEPS = 300" in cell.source:
            cell.source = cell.source.replace("STEPS = 300", "STEPS = 2")
            shortened += 1
        assert not cell.get("outputs"), "notebooks are kept without outputs"
    assert shortened == 1
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
