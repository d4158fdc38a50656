"""Published figures as data: complete, consistent with their own means, and marked."""

from pathlib import Path

import numpy as np
import pytest

from dcpt_jax.data import datasets, tasks
from dcpt_jax.evaluate import published
from dcpt_jax.evaluate.published import AVERAGE, TABLES
from dcpt_jax.metrics import Convention

_EVERY = [(table, method) for table in TABLES for method in table.methods]


def table(title):
    return next(one for one in TABLES if one.title == title)


def test_some_figures_as_they_are_published():
    five = table("Five degradations")
    assert five.score("DCPT-NAFNet", "haze").psnr == 29.47
    assert five.score("IDR", "low_light").psnr == 21.34
    assert five.score("DCPT-PromptIR", AVERAGE) == published.Score(
        "DCPT-PromptIR", AVERAGE, 30.31, 0.911
    )
    ten = table("Ten degradations")
    assert ten.score("DCPT-NAFNet", "mosaic").psnr == 40.53
    assert ten.score("PromptIR", "mosaic") is None and ten.score("PromptIR", AVERAGE).psnr == 27.93
    assert table("Mixed degradations, CDD-11").score("DCPT-NAFNet", "rain+haze").psnr == 32.63
    mask = table("Five degradations, MaskDCPT").score("MaskDCPT-NAFNet", "motion_blur")
    assert (mask.psnr, mask.ssim, mask.lpips, mask.fid) == (31.40, 0.920, 0.092, 7.61)
    moire = table("Twelve degradations, MaskDCPT").score("MaskDCPT-NAFNet", "moire")
    assert (moire.psnr, moire.ssim, moire.lpips, moire.fid) == (25.21, 0.942, 0.095, 24.41)
    noise = table("Gaussian noise, MaskDCPT, NAFNet")
    assert noise.score("MaskDCPT-NAFNet:12d", "BSD68 sigma 75").psnr == 25.86
    others = table("Gaussian noise, MaskDCPT, other backbones")
    assert others.score("MaskDCPT-Restormer", "Kodak24 sigma 60").psnr == 27.57


@pytest.mark.parametrize(("one", "method"), _EVERY, ids=lambda x: getattr(x, "title", x))
def test_the_published_mean_is_that_of_the_published_classes(one, method):
    psnr = [s.psnr for s in one.scores if s.method == method and s.name in one.classes]
    average = one.score(method, AVERAGE)
    assert len(psnr) in (0, len(one.classes))
    if psnr and average:
        assert np.mean(psnr) == pytest.approx(average.psnr, abs=0.0101)
    assert psnr or average


def test_conventions_and_second_hand_figures():
    rounded, floats = Convention("rgb", "uint8"), Convention("rgb", "none")
    assert table("Five degradations").convention == table("Ten degradations").convention == rounded
    assert table("Mixed degradations, CDD-11").convention == floats
    assert table("Five degradations, MaskDCPT").convention == floats
    for one in TABLES:
        assert "arXiv" in one.source
        for score in one.scores:
            ours = score.method.startswith(("DCPT-", "MaskDCPT-"))
            assert score.second_hand != ours, score
            assert 10 < score.psnr < 60 and (score.ssim is None or 0.5 < score.ssim < 1)


@pytest.mark.parametrize("name", ["5d", "10d", "cdd11"])
def test_classes_are_those_of_the_task_set(name):
    for one in published.tables_of(name):
        assert set(one.classes) == {task.name for task in tasks.TASK_SETS[name]}
    assert published.tables_of("6d") == ()


def test_test_sets_are_those_that_an_evaluation_takes():
    text = (Path(__file__).resolve().parents[1] / "docs/data.md").read_text()
    documented = text.replace(",", "").splitlines()
    for one in TABLES:
        published_data = {
            task.name: [datasets.get(d) for d in task.published("restore")[0]]
            for task in tasks.TASK_SETS.get(one.task_set, tasks.TASK_SETS["cdd11"])
        }
        for name, found in one.test_sets.items():
            dataset = datasets.get(found.name.split()[0])
            assert dataset.name in {d.tested_on or d.name for d in published_data[name]}
            assert dataset.degradation == " ".join(found.name.split()[1:])
            rows = [line for line in documented if line.startswith(f"| `{dataset.name}`")]
            assert any(str(found.images) in row for row in rows)


def test_series_have_a_value_for_each_place():
    assert all(len(one.at) == len(one.values) for one in published.SERIES)
    knn = [one for one in published.SERIES if "neighbours" in one.title]
    assert {one.method: one.values[0] for one in knn} == {
        "NAFNet": 52, "SwinIR": 54, "Restormer": 60, "PromptIR": 56
    }  # fmt: skip
