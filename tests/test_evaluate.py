import json

import numpy as np
import pytest

from dcpt_jax import images
from dcpt_jax.evaluate import gallery, run
from dcpt_jax.evaluate.tables import ClassResult, Evaluation
from tests.conftest import tiny_config


@pytest.fixture
def evaluation():
    return Evaluation(
        classes=(
            ClassResult("rain", 4, 20.0, 25.0, 0.5, 0.75),
            ClassResult("noise", 4, 22.0, 21.0, 0.75, 0.5),
        ),
        convention="RGB, rounded to 8 bits",
        confusion=np.array([[3, 0, 1], [0, 2, 2]]),
        predicted=("rain", "haze", "noise"),
    )


def test_means_and_accuracies_by_hand(evaluation):
    mean = evaluation.mean()
    assert (mean.psnr_degraded, mean.psnr_restored, mean.samples) == (21.0, 23.0, 8)
    assert evaluation.class_accuracy(0) == 0.75
    assert evaluation.class_accuracy(1) == 0.5  # predicted index 2 is "noise"
    assert evaluation.accuracy() == 5 / 8
    assert json.loads(json.dumps(evaluation.to_json()))["accuracy"] == 5 / 8


def test_tables_show_the_gain_the_convention_and_the_confusion(evaluation):
    text = evaluation.to_markdown()
    assert "| rain | 4 | 20.00 | 25.00 | +5.00 | 0.500 | 0.750 |" in text
    assert "| noise | 4 | 22.00 | 21.00 | -1.00 |" in text
    assert "RGB, rounded to 8 bits" in text
    assert "accuracy 62.5% (chance 33%)" in text
    assert "| noise | 0 | 2 | 2 | 50% |" in text
    lines = evaluation.to_text().splitlines()
    widths = {len(line) for line in lines if line.startswith("  ")}
    assert len(widths) == 2  # two tables, each with columns in line


def test_grid_puts_images_where_they_belong():
    rows = [[np.full((4, 5, 3), value) for value in row] for row in ([0.1, 0.2], [0.3, 1.7])]
    grid = gallery.grid(rows)
    assert grid.shape == (4 * 2 + 6, 5 * 2 + 6, 3)
    np.testing.assert_allclose(grid[0, 0], 0.1)
    np.testing.assert_allclose(grid[-1, 0], 0.3)
    np.testing.assert_allclose(grid[-1, -1], 1.0)  # clipped
    np.testing.assert_allclose(grid[5], 1.0)  # the gap


def test_sheet_shows_the_pixels_and_some_text():
    rows = [[np.zeros((32, 80, 3)), np.full((32, 80, 3), 0.5)]]
    sheet = gallery.sheet(rows, headings=["left", "right"], captions=[["a", "b"]])
    assert sheet.dtype == np.uint8
    assert (sheet == 0).all(-1).sum() >= 32 * 80  # the black image
    assert (sheet == 128).all(-1).sum() == 32 * 80  # 0.5 rounds to 128
    empty = gallery.sheet(rows, headings=["", ""], captions=[["", ""]])
    assert (empty != sheet).any()


def test_a_run_writes_tables_and_a_sheet(tmp_path, photo_folder, pretrained, capsys):
    config = tiny_config("evaluate", photo_folder)
    config.init_from = str(pretrained)
    config.data.crops_per_photo = 2
    evaluation = run.evaluate(config, tmp_path)
    assert evaluation.confusion.sum() == 5 * 6 * 2
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["mean"]["psnr_restored"] == evaluation.mean().psnr_restored
    assert saved["steps"] == 12 and saved["accuracy"] == evaluation.accuracy()
    assert (tmp_path / "evaluation.md").read_text() == evaluation.to_markdown()
    sheet = images.read_image(tmp_path / "sheet.png")
    assert sheet.shape[0] > 5 * 16 and sheet.shape[1] > 6 * 16
    out = capsys.readouterr().out
    assert evaluation.to_text() in out and f"wrote {tmp_path / 'sheet.png'}" in out
    again = run.evaluate(config, tmp_path / "again")
    assert again.to_json() == evaluation.to_json()


def test_numbers_belong_to_the_saved_weights(tmp_path, photo_folder, pretrained):
    """A network that puts out its input restores nothing: both columns are equal."""
    import jax

    from dcpt_jax import weights

    params, description = weights.load_weights(pretrained)
    params["network"]["ending"] = jax.tree.map(np.zeros_like, params["network"]["ending"])
    weights.save_weights(tmp_path / "identity", params, description)
    config = tiny_config("evaluate", photo_folder)
    config.init_from = str(tmp_path / "identity")
    for result in run.evaluate(config, tmp_path).classes:
        assert result.psnr_degraded == pytest.approx(result.psnr_restored, abs=1e-3)
        assert result.ssim_degraded == pytest.approx(result.ssim_restored, abs=1e-4)


def test_the_classifier_of_the_pretraining_is_found_from_the_fine_tuned_weights(
    tmp_path, photo_folder, pretrained, capsys
):
    from dcpt_jax.train import loop

    config = tiny_config("restore", photo_folder)
    config.init_from = str(pretrained)
    config.num_steps = 1
    loop.train(config, tmp_path / "restore")
    config = tiny_config("evaluate", photo_folder)
    config.init_from = str(tmp_path / "restore")
    assert run.evaluate(config, tmp_path / "e").confusion is not None
    assert f"classification: by the classifier in {pretrained}\n" in capsys.readouterr().out
    config.tasks = "haze"  # a subset: rows for it, columns for all classes that can be predicted
    evaluation = run.evaluate(config, tmp_path / "e")
    assert evaluation.confusion.shape == (1, 5)


def test_without_a_classifier_it_says_so(tmp_path, photo_folder, pretrained, caplog):
    from dcpt_jax import weights

    params, description = weights.load_weights(pretrained)
    description["classifier"] = None
    weights.save_weights(tmp_path / "w", {"network": params["network"]}, description)
    config = tiny_config("evaluate", photo_folder)
    config.init_from = str(tmp_path / "w")
    evaluation = run.evaluate(config, tmp_path)
    assert evaluation.confusion is None
    assert "--config.classifier_from" in caplog.text
    assert "accuracy" not in evaluation.to_markdown()


def test_a_perfect_sample_does_not_make_the_means_infinite(tmp_path, pretrained):
    images.write_image(tmp_path / "photos" / "white.png", np.ones((40, 40, 3), np.float32))
    config = tiny_config("evaluate", tmp_path / "photos")
    config.init_from = str(pretrained)
    evaluation = run.evaluate(config, tmp_path / "e")
    blur = next(c for c in evaluation.classes if c.name == "motion_blur")
    assert blur.psnr_degraded == run.PSNR_LIMIT
    assert np.isfinite(evaluation.mean().psnr_restored)
    assert "at most 100 dB" in evaluation.convention
    assert "Infinity" not in (tmp_path / "e" / "evaluation.json").read_text()


def test_classes_that_the_classifier_does_not_know_are_named(
    tmp_path, photo_folder, pretrained, caplog
):
    config = tiny_config("evaluate", photo_folder)
    config.init_from = str(pretrained)
    config.tasks = "rain,low_light+haze"
    assert run.evaluate(config, tmp_path).confusion is None
    assert "but not low_light+haze" in caplog.text


def test_the_nearest_classifier_among_what_the_weights_grew_from(monkeypatch):
    """Of folders that were moved together to /new; the work directory c is its own weights."""
    runs = {
        "/new/d": {"init_from": "/old/c", "classifier_from": {"path": "/old/gone"}},
        "/new/c": {"init_from": "/old/c"},  # itself, by its name
        "/new/b": {"init_from": "/old/c", "classifier_from": {"path": "/old/a"}},
    }

    def load(place):
        if str(place) == "/new/a":
            return {"network": 1}, {"classifier": {}, "source": {}}
        if str(place) not in runs:
            raise FileNotFoundError(place)
        return {}, {"classifier": None, "source": runs[str(place)]}

    monkeypatch.setattr(run.weights, "load_weights", load)
    assert run._nearest_classifier("/new/d", {"source": runs["/new/d"]}) is None
    runs["/new/c"] = {"init_from": "b"}  # relative, to a folder beside it
    place, params, _ = run._nearest_classifier("/new/d", {"source": runs["/new/d"]})
    assert str(place) == "/new/a" and params == {"network": 1}
