"""`python -m dcpt_jax.tables`, and the page of results."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from dcpt_jax import tables
from dcpt_jax.evaluate import comparison, results_page
from dcpt_jax.evaluate.evaluation import ClassScores, Evaluation
from dcpt_jax.metrics import Convention

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def workdir(tmp_path):
    """A work directory of an evaluation on all of Rain100L."""

    def write(name="mine", **changes):
        evaluation = Evaluation(
            (ClassScores("rain", 100, 25.0, 36.0, 0.8, 0.95),),
            "RGB, rounded to 8 bits",
            metric=changes.pop("metric", Convention()),
            data=("pairs of rain100l in /data",),
            test_sets=("rain100l",),
            crop_size=0,
        )
        content = {"architecture": "nafnet", "task_set": "5d", **evaluation.to_json(), **changes}
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "evaluation.json").write_text(json.dumps(content))
        return str(tmp_path / name)

    return write


def test_measured_beside_published(workdir, capsys):
    assert tables.main([workdir(), "--published", "DCPT-NAFNet"]) == 0
    out = capsys.readouterr().out
    assert "| rain | 100 | 25.00 | 36.00 / 0.950 | 35.68 / - | +0.32 / - |" in out
    assert "| class | samples | degraded | mine | DCPT-NAFNet (published) |" in out


def test_columns_of_runs_have_different_names(workdir, capsys):
    file = f"{workdir('b/evaluate')}/evaluation.json"
    assert tables.main([workdir("a/evaluate"), file, workdir("c"), "--published", ""]) == 0
    assert "| degraded | a/evaluate | b/evaluate | c |" in capsys.readouterr().out


def test_formats(workdir, capsys):
    run = workdir()
    assert tables.main([run, "--format", "csv"]) == 0
    assert capsys.readouterr().out.startswith("class,run,samples,data,")
    assert tables.main([run, "--format", "latex", "--published", ""]) == 0
    out = capsys.readouterr().out
    assert out.startswith("\\begin{table}") and "NAFNet" not in out


def test_mixed_conventions_are_refused(workdir, capsys):
    runs = [workdir(), workdir("luma", metric=Convention("y"))]
    assert tables.main(runs) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "mine: RGB, rounded to 8 bits" in captured.err
    assert "luma: Y of YCbCr, rounded to 8 bits" in captured.err


def test_wrong_use_is_explained(tmp_path, capsys):
    assert tables.main([]) == 2
    assert "RUN is missing" in capsys.readouterr().err
    assert tables.main([str(tmp_path)]) == 2
    assert "configs/evaluate.py" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", "null", "3", "NaN", '"text"'])
def test_other_json_is_no_evaluation(tmp_path, capsys, content):
    (tmp_path / "evaluation.json").write_text(content)
    assert tables.main([str(tmp_path)]) == 2
    assert "cannot be read: it holds no results of an evaluation" in capsys.readouterr().err


@pytest.mark.parametrize("value", [None, "x", [], {}, {"a": 1}, [[1]], True])
def test_odd_values_are_read_or_named(workdir, capsys, value):
    file = Path(workdir()) / "evaluation.json"
    content = json.loads(file.read_text())
    read = {"task_set", "architecture", "metric", "crop_size", "classes", "mean", "data"}
    places = [(content, key) for key in (*read, "test_sets", "remark")]
    places += [(content[key], one) for key in ("metric", "mean", "data") for one in content[key]]
    places += [(content["classes"]["rain"], key) for key in content["classes"]["rain"]]
    for table, key in places:
        before = table.get(key)
        table[key] = value
        file.write_text(json.dumps(content))
        assert tables.main([str(file)]) in (0, 2), (key, value)
        shown = capsys.readouterr()
        assert bool(shown.out) != bool(shown.err.startswith("error: "))
        table[key] = before
        if key == "remark":
            del table[key]


def test_a_pipe_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert tables.main([str(tmp_path / "pipe")]) == 2
    assert "is not a regular file" in capsys.readouterr().err


def test_the_page_of_results_is_up_to_date():
    files = sorted((ROOT / "docs/results").glob("*.json"))
    page = results_page.page(comparison.read_runs(files))
    assert (ROOT / "docs/results.md").read_text() == page


def test_means_of_the_stored_results_are_those_of_their_classes():
    for file in (ROOT / "docs/results").glob("*.json"):
        content = json.loads(file.read_text())
        for key in ("psnr_degraded", "psnr_restored", "ssim_degraded", "ssim_restored"):
            mean = np.mean([one[key] for one in content["classes"].values()])
            assert content["mean"][key] == pytest.approx(mean, abs=0.0051), (file, key)


def test_the_page_lists_missing_measurements(workdir):
    page = results_page.page([])
    assert "Nothing yet." in page
    assert "- 10d: DCPT-NAFNet.\n" in page and "- 5d: DCPT-SwinIR, DCPT-NAFNet," in page
    # One class of five is not the published result.
    page = results_page.page(comparison.read_runs([workdir()]))
    assert "| 36.00 / 0.950 |" in page and "- 5d: DCPT-SwinIR, DCPT-NAFNet," in page
    assert "| DCPT-NAFNet | 29.47 | 35.68 |" in page and "| IDR (second-hand) | 25.24 |" in page
