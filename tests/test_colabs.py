import base64
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
MACHINE_PATHS = re.compile(r"(?<![\w.])/(home|root|tmp|Users|usr|opt|work|content)/")


def read(path):
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(path, as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures(notebook):
    """The bytes of all pictures in the outputs of cells."""
    return [
        base64.b64decode(content)
        for output in outputs(notebook)
        for kind, content in output.get("data", {}).items()
        if kind.startswith("image/")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """Runs every cell unchanged; the install cell has nothing to do."""
    nbclient = pytest.importorskip("nbclient")
    notebook = read(path)
    stored = len(pictures(notebook))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.getenv("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # t-SNE's threads spin where others use the cores
    client = nbclient.NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    assert len(pictures(notebook)) == stored > 0


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_a_page(path):
    """It installs the package, describes its topic, and has stored outputs."""
    notebook = read(path)
    install, title = notebook.cells[:2]
    assert "%pip install" in install.source
    assert title.cell_type == "markdown" and title.source.startswith("# ")
    assert not any(output.output_type == "error" for output in outputs(notebook))
    assert 0 < sum(map(len, pictures(notebook))) < 150_000
    texts = [output.get("text", "") for output in outputs(notebook)]
    assert not [text for text in texts if MACHINE_PATHS.search(text)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_readme_names_notebook(path):
    assert f"(colabs/{path.name})" in (ROOT / "README.md").read_text(encoding="utf-8")
