import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from dcpt_jax import config as configs
from dcpt_jax import images, weights
from dcpt_jax import metrics as dcpt_metrics
from dcpt_jax.data import held_out, tasks
from dcpt_jax.evaluate import baselines, gallery, published, run, saving
from dcpt_jax.evaluate.classification import Confusion, Detections
from dcpt_jax.evaluate.evaluation import ClassScores, Evaluation
from dcpt_jax.labels import Labels
from dcpt_jax.models import create_classifier, create_model, parameter_shapes
from tests.conftest import tiny_config
from tests.golden import TINY, random_params


def confusion(classes, outputs, counts):
    truth = np.array([[name == c for name in outputs] for c in classes], np.uint8)
    one_hot = np.eye(len(outputs), dtype=np.uint8)
    return Confusion(classes, outputs, truth, [one_hot.repeat(row, axis=0) for row in counts])


@pytest.fixture
def evaluation():
    return Evaluation(
        classes=(
            ClassScores("rain", 4, 20.0, 25.0, 0.5, 0.75),
            ClassScores("noise", 4, 22.0, 21.0, 0.75, 0.5),
        ),
        convention="RGB, rounded to 8 bits",
        classification=confusion(
            ("rain", "noise"), ("rain", "haze", "noise"), [[3, 0, 1], [0, 2, 2]]
        ),
    )


def test_means_and_accuracies_by_hand(evaluation):
    mean = evaluation.mean()
    assert (mean.psnr_degraded, mean.psnr_restored, mean.samples) == (21.0, 23.0, 8)
    # Of the second class, predicted index 2 is correct.
    assert evaluation.classification.class_accuracies() == [0.75, 0.5]
    assert evaluation.classification.accuracy() == 5 / 8
    assert json.loads(json.dumps(evaluation.to_json()))["accuracy"] == 5 / 8


def test_accuracy_is_that_of_the_classes_whatever_their_sizes():
    """Always predicting the class with the most test images does not give a high accuracy."""
    names = ("rain", "noise")
    assert confusion(names, names, [[98, 0], [2, 0]]).accuracy() == 0.5


def test_tables_show_the_gain_the_convention_and_the_confusion(evaluation):
    text = evaluation.to_markdown()
    assert "| rain | 4 | 20.00 | 25.00 | +5.00 | 0.500 | 0.750 |" in text
    assert "| noise | 4 | 22.00 | 21.00 | -1.00 |" in text
    assert "RGB, rounded to 8 bits" in text
    assert "accuracy 62.5% (mean of the classes; chance 33%)" in text
    assert "| noise | 0 | 2 | 2 | 50% |" in text
    lines = evaluation.to_text().splitlines()
    widths = {len(line) for line in lines if line.startswith("  ")}
    assert len(widths) == 2  # two tables, each with columns in line


def test_many_long_names_are_numbered_columns():
    names = tuple(task.name for task in tasks.TASK_SETS["cdd11"])
    results = tuple(ClassScores(name, 4, 20.0, 25.0, 0.5, 0.75) for name in names)
    counts = 3 * np.eye(11, dtype=int) + np.eye(11, k=1, dtype=int)
    evaluation = Evaluation(results, "RGB", confusion(names, names, counts))
    text = evaluation.to_markdown()
    assert "| | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 11 | accuracy |" in text
    assert "| 5 low_light+haze | 0 | 0 | 0 | 0 | 3 | 1 | 0 | 0 | 0 | 0 | 0 | 75% |" in text
    assert "| low_light+snow+haze | 4 | 20.00" in text and "by number.\n" in text
    assert max(map(len, evaluation.to_text().splitlines())) < 100
    text = "\n".join(confusion(names[9:], names, counts[9:]).lines())
    assert "(1 low_light, 2 haze, 3 rain, 4 snow, 5 low_light+haze" in text
    assert "10 low_light+rain+haze," not in text and "| 10 low_light+rain+haze | 0 |" in text


def test_a_classifier_of_components_by_hand():
    evaluation = Evaluation(
        classes=(
            ClassScores("low_light", 4, 20.0, 25.0, 0.5, 0.75),
            ClassScores("low_light+haze", 4, 22.0, 21.0, 0.75, 0.5),
        ),
        convention="RGB",
        classification=Detections(
            ("low_light", "low_light+haze"),
            ("low_light", "haze", "snow"),
            truth=np.array([[1, 0, 0], [1, 1, 0]], np.uint8),
            predictions=[
                np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0]]),
                np.array([[1, 1, 0], [1, 1, 1], [0, 1, 0], [0, 0, 0]]),
            ],
        ),
    )
    assert evaluation.classification.class_accuracies() == [0.75, 0.25]
    assert evaluation.classification.accuracy() == 0.5
    # right: 4 + 2, (4 - 1) + 3 and (4 - 0) + (4 - 1) of 8
    assert evaluation.classification.component_accuracies().tolist() == [6 / 8, 6 / 8, 7 / 8]
    text = evaluation.to_markdown()
    assert "all components correct in 50.0% of the samples" in text
    assert "| | low_light | haze | snow | all correct |" in text
    assert "| low_light | 4/4 | 1 | 0 | 75% |" in text
    assert "| low_light+haze | 2/4 | 3/4 | 1 | 25% |" in text
    assert "| accuracy | 75% | 75% | 88% | 50% |" in text
    saved = json.loads(json.dumps(evaluation.to_json()))
    assert saved["confusion"] is None and saved["accuracy"] == 0.5
    assert saved["components"]["names"] == ["low_light", "haze", "snow"]
    assert saved["components"]["accuracy"] == [0.75, 0.75, 0.875]
    assert saved["components"]["found"] == [[4, 1, 0], [2, 3, 1]]
    assert "none (clean)" not in text and saved["components"]["nothing"] == [0, 1]


def test_finding_no_component_means_clean():
    evaluation = Evaluation(
        classes=(
            ClassScores("clean", 4, 100.0, 50.0, 1.0, 0.75),
            ClassScores("haze", 2, 22.0, 25.0, 0.75, 0.8),
        ),
        convention="RGB",
        classification=Detections(
            ("clean", "haze"),
            ("haze",),
            truth=np.array([[0], [1]], np.uint8),
            predictions=[np.array([[0], [1], [0], [0]]), np.array([[1], [0]])],
        ),
    )
    assert evaluation.classification.class_accuracies() == [0.75, 0.5]
    assert evaluation.classification.component_accuracies().tolist() == [0.625]
    text = evaluation.to_markdown()
    assert "| | haze | none (clean) | all correct |" in text
    assert "| clean | 1 | 3/4 | 75% |" in text
    assert "| haze | 1/2 | 1 | 50% |" in text
    assert "| accuracy | 62% | 62% | 62% |" in text
    assert json.loads(json.dumps(evaluation.to_json()))["components"]["names"] == ["haze"]


def says(*names, kind="flat"):
    """A classifier whose logits are the first pixel of the image."""
    return SimpleNamespace(labels=Labels(names, kind), logits=lambda images: images[:, 0, 0])


COMPONENTS = says("haze", "rain", "low_light", kind="multi_hot")


def scores_of(asked, classifier, *samples):
    """The scores of images by (position of their task, first pixel)."""

    def restored():
        for task, pixel in samples:
            image = np.full((12, 12, 3), 0.5, np.float32)
            image[0, 0] = pixel
            yield held_out.Sample(task, image, np.clip(image, 0, 1), "photo"), image

    counts = [sum(task == i for task, _ in samples) for i in range(len(asked.split(",")))]
    pictures = run.PictureSheet(asked.split(","), counts, 12)
    return run.score(tasks.resolve_tasks(asked), restored(), classifier, pictures)


def test_scores_of_a_flat_classifier(caplog):
    flat = says("haze", "rain", "low_light+haze")
    samples = (0, [1, -1, 2]), (0, [-1, 3, -1]), (1, [-1, -2, -1.5])
    evaluation = scores_of("rain,low_light+haze", flat, *samples)
    assert evaluation.classification.outputs == ("haze", "rain", "low_light+haze")
    assert evaluation.classification.counts.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert evaluation.classification.accuracy() == 0.25
    for asked, missing in (("snow,haze", "snow"), ("clean,haze", "clean")):
        assert scores_of(asked, flat, *samples).classification is None
        assert f"but not {missing}" in caplog.text


def test_labels_of_a_multi_hot_classifier():
    samples = (0, [-1, 3, -1]), (1, [1, -1, 2])
    asked = "rain,low_light+rain+haze"  # a mixture that it never saw
    found = scores_of(asked, COMPONENTS, *samples).classification
    assert found.truth.tolist() == [[0, 1, 0], [1, 1, 1]]
    assert scores_of("haze,rain+snow", COMPONENTS, *samples).classification is None
    found = scores_of("clean,haze", COMPONENTS, *samples).classification
    assert found.truth.tolist() == [[0, 0, 0], [1, 0, 0]]


def test_scores_of_a_multi_hot_classifier():
    samples = (0, [-1, 1, -1]), (0, [-1, 1, 1]), (1, [-1, 1, 1]), (1, [1, -1, 1])
    found = scores_of("rain,low_light+rain", COMPONENTS, *samples).classification
    assert found.outputs == ("haze", "rain", "low_light")
    assert found.counts.tolist() == [[0, 2, 1], [1, 1, 2]]
    assert found.class_accuracies() == [0.5, 0.5] and found.accuracy() == 0.5


def test_scores_of_clean_samples():
    samples = (0, [-1, -1, -1]), (0, [-1, 1, -1]), (1, [-1, -1, -1])
    evaluation = scores_of("clean,rain", COMPONENTS, *samples)
    assert evaluation.classification.class_accuracies() == [0.5, 0]
    assert evaluation.classification.none_detected.tolist() == [1, 1]
    clean = evaluation.classes[0]  # unchanged: as good as a score can get, and finite
    assert (clean.psnr_degraded, clean.psnr_restored) == (100.0, 100.0)
    assert clean.ssim_degraded == 1.0


def test_the_sheet_of_eleven_mixtures_can_be_looked_at():
    names = [task.name for task in tasks.TASK_SETS["cdd11"]]
    for size, shown in ((192, 192), (512, 170)):
        pictures = run.PictureSheet(names, [2] * 11, size)
        for task in range(11):
            for _ in range(2):
                image = np.full((size, size, 3), 0.5, np.float32)
                pictures.offer(held_out.Sample(task, image, image, "p"), image, 20.0, 21.0)
        sheet = pictures.draw()
        assert sheet.shape[0] < 2800 and 6 * shown < sheet.shape[1] < 6 * shown + 60
        assert (sheet == 128).all(-1).sum() >= 11 * 6 * shown**2


def test_a_caption_stays_above_its_image():
    rows = [[np.ones((8, 120, 3))] * 2]
    captions = [["low_light+snow+haze, 12.3 dB", ""]]
    sheet = gallery.sheet(rows, headings=["", ""], captions=captions)
    dark = (sheet < 128).all(-1).any(0)
    assert dark[:126].any() and not dark[126:].any()


def test_shrinking_takes_means():
    image = np.arange(4 * 5 * 3, dtype=np.float32).reshape(4, 5, 3)
    small = gallery.shrink(image, 2)
    assert small.shape == (2, 2, 3)
    np.testing.assert_allclose(small[1, 0], image[2:4, 0:2].mean((0, 1)))
    np.testing.assert_array_equal(gallery.shrink(image, 1), image)


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
    assert evaluation.classification.counts.sum() == 5 * 6 * 2
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["mean"]["psnr_restored"] == evaluation.mean().psnr_restored
    assert saved["steps"] == 12 and saved["accuracy"] == evaluation.classification.accuracy()
    assert (tmp_path / "evaluation.md").read_text() == evaluation.to_markdown()
    sheet = images.read_image(tmp_path / "sheet.png")
    assert sheet.shape[0] > 5 * 16 and sheet.shape[1] > 6 * 16
    out = capsys.readouterr().out
    assert evaluation.to_text() in out and f"wrote {tmp_path / 'sheet.png'}" in out
    again = run.evaluate(config, tmp_path / "again")
    assert again.to_json() == evaluation.to_json()


def test_a_work_directory_that_cannot_be_written_is_told_before_the_computation(
    tmp_path, photo_folder
):
    config = tiny_config("evaluate", photo_folder)
    config.init_from = "nowhere"
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        with pytest.raises(OSError, match=rf"directory .*{place} cannot be written: .*--workdir$"):
            run.evaluate(config, tmp_path / place)


@pytest.mark.parametrize("key", ["init_from", "classifier_from"])
def test_a_path_without_weights_is_named_with_its_key(tmp_path, photo_folder, pretrained, key):
    config = tiny_config("evaluate", photo_folder)
    config.init_from = str(pretrained)
    config[key] = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=rf"^config\.{key}: no weights in .*nowhere"):
        run.evaluate(config, tmp_path / "evaluate")


def test_saved_images_give_the_reported_numbers(tmp_path, photo_folder, pretrained):
    config = tiny_config("evaluate", photo_folder)
    config.init_from = str(pretrained)
    config.tasks = "noise:25"
    config.channel = "y"
    config.data.crops_per_photo = 2
    config.save_images = str(tmp_path / "images")
    evaluation = run.evaluate(config, tmp_path)
    folder = tmp_path / "images" / "noise_25"
    names = sorted(path.name for path in (folder / "clean").iterdir())
    assert len(names) == 12 and "photo_0-1.png" in names
    for kind, expected in (
        ("restored", evaluation.classes[0].psnr_restored),
        ("degraded", evaluation.classes[0].psnr_degraded),
    ):
        assert sorted(path.name for path in (folder / kind).iterdir()) == names
        found = [
            dcpt_metrics.psnr(
                images.read_image(folder / kind / name),
                images.read_image(folder / "clean" / name),
                channel="y",
            )
            for name in names
        ]
        assert np.mean(found) == pytest.approx(expected)
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["metric"] == {"channel": "y", "rounding": "uint8", "crop": 0}
    assert saved["crop_size"] == 16 and saved["test_sets"] == {"noise:25": ""}
    assert saved["architecture"] == "nafnet" and saved["task_set"] == "5d"


@pytest.mark.parametrize(
    ("task_set", "classes", "asked", "expected"),
    [
        ("5d", ("rain", "noise", "haze", "low_light", "motion_blur"), "rain", "5d"),
        ("a,b", ("haze", "rain", "noise", "low_light", "motion_blur"), "", "5d"),  # any order
        ("rain", ("rain",), "5d", "rain"),  # whatever they are measured on
        ("class_0,class_1", ("class_0", "class_1"), "5d", "5d"),  # converted: not known
        ("class_0", ("class_0",), "", "class_0"),
        ("", (), "cdd11", "cdd11"),
    ],
)
def test_task_set_of_weights(task_set, classes, asked, expected):
    description = weights.WeightsDescription("nafnet", {}, task_set=task_set, classes=classes)
    assert run.trained_on(description, asked) == expected


def test_saved_files_of_equal_names_are_numbered(tmp_path):
    image = np.full((4, 4, 3), 0.5, np.float32)
    samples = [
        (held_out.Sample(task, image, image, name), image)
        for task, name in ((0, "a/b"), (0, "a_b"), (0, "A_B"), (1, "a/b"))
    ]
    assert [s for s, _ in saving.save_each(samples, ["rain", "x"], tmp_path)] == [
        s for s, _ in samples
    ]
    saving.finish(tmp_path)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("clean/*"))
    assert found == ["rain/clean/A_B_3.png", "rain/clean/a_b.png", "rain/clean/a_b_2.png",
                     "x/clean/a_b.png"]  # fmt: skip


def test_saved_images_appear_complete_or_not_at_all(tmp_path):
    image = np.full((4, 4, 3), 0.5, np.float32)
    samples = [(held_out.Sample(0, image, image, name), image) for name in "abc"]
    folder = tmp_path / "images"
    folder.mkdir()
    killed = saving.save_each(samples, ["rain"], folder)
    next(killed)
    assert list(folder.iterdir()) == []
    assert len(list(saving.save_each(samples[1:], ["rain"], folder))) == 2
    assert list(folder.iterdir()) == []
    saving.finish(folder)
    assert sorted(path.name for path in folder.rglob("clean/*")) == ["b.png", "c.png"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_run_with_baselines_adds_tables_and_changes_nothing_else(
    tmp_path, photo_folder, pretrained
):
    pytest.importorskip("pywt")
    config = tiny_config("evaluate", photo_folder)
    config.init_from = str(pretrained)
    config.tasks = "noise,low_light"
    config.data.crops_per_photo = 1
    without = run.evaluate(config, tmp_path / "without")
    assert "baselines" not in without.to_json()
    config.baselines = True
    evaluation = run.evaluate(config, tmp_path / "with")
    assert dataclasses.replace(evaluation, baselines=()).to_json() == without.to_json()
    saved = json.loads((tmp_path / "with/evaluation.json").read_text())["baselines"]
    assert list(saved) == [method.name for method in baselines.METHODS]
    assert saved["gamma"]["classes"]["low_light"]["psnr"] == evaluation.baselines[3].psnr[1]
    table = (tmp_path / "with/evaluation.md").read_text()
    assert "Classical methods on the same samples, " in table
    extra = set(table.splitlines()) - set(without.to_markdown().splitlines())
    assert all(f"- {method.name}: {method.library}; " in table for method in baselines.METHODS)
    assert len(extra) == 1 + 2 * (1 + 1 + 3) + len(baselines.METHODS) - 1  # one rule for both


def test_numbers_belong_to_the_saved_weights(tmp_path, photo_folder, pretrained):
    """A network that returns its input restores nothing: both columns are equal."""
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
    assert run.evaluate(config, tmp_path / "e").classification is not None
    assert f"classification: by the classifier in {pretrained}\n" in capsys.readouterr().out
    config.tasks = "haze"  # a subset: rows for it, columns for all classes that can be predicted
    evaluation = run.evaluate(config, tmp_path / "e")
    assert evaluation.classification.counts.shape == (1, 5)


def test_a_missing_classifier_causes_a_warning(tmp_path, photo_folder, pretrained, caplog):
    from dcpt_jax import weights

    params, description = weights.load_weights(pretrained)
    description = dataclasses.replace(description, classifier=None)
    weights.save_weights(tmp_path / "w", {"network": params["network"]}, description)
    config = tiny_config("evaluate", photo_folder)
    config.init_from = str(tmp_path / "w")
    evaluation = run.evaluate(config, tmp_path)
    assert evaluation.classification is None
    assert "--config.classifier_from" in caplog.text
    assert "accuracy" not in evaluation.to_markdown()


@pytest.mark.slow
def test_a_classifier_that_takes_the_image_is_measured(tmp_path, photo_folder):
    network = create_model("promptir", **TINY["promptir"])
    classifier = create_classifier(network.feature_dims, 2, num_blocks=1, image_input=True)
    labels = Labels(("haze", "rain"))
    description = weights.describe(network, classifier, labels=labels, classes=labels.names)
    shapes = {"network": network, "classifier": classifier}
    params = {name: random_params(parameter_shapes(module)) for name, module in shapes.items()}
    weights.save_weights(tmp_path / "w", params, description)
    config = tiny_config("evaluate", photo_folder)
    config.init_from = str(tmp_path / "w")
    config.data.crops_per_photo = 1
    assert run.evaluate(config, tmp_path / "e").classification.counts.sum(axis=1).tolist() == [6, 6]


def test_a_perfect_sample_does_not_make_the_means_infinite(tmp_path, pretrained):
    images.write_image(tmp_path / "photos" / "white.png", np.ones((40, 40, 3), np.float32))
    config = tiny_config("evaluate", tmp_path / "photos")
    config.init_from = str(pretrained)
    evaluation = run.evaluate(config, tmp_path / "e")
    blur = next(c for c in evaluation.classes if c.name == "motion_blur")
    assert blur.psnr_degraded == dcpt_metrics.PSNR_LIMIT
    assert np.isfinite(evaluation.mean().psnr_restored)
    assert "at most 100 dB" in evaluation.convention
    assert "Infinity" not in (tmp_path / "e" / "evaluation.json").read_text()


def test_classes_that_the_classifier_does_not_know_are_named(
    tmp_path, photo_folder, pretrained, caplog
):
    config = tiny_config("evaluate", photo_folder)
    config.init_from = str(pretrained)
    config.tasks = "rain,low_light+haze"
    assert run.evaluate(config, tmp_path).classification is None
    assert "but not low_light+haze" in caplog.text


def test_the_nearest_classifier_among_the_ancestors_is_used(
    tmp_path, photo_folder, pretrained, capsys
):
    """The folders were moved together from /old; c first states itself as its origin."""
    params, description = weights.load_weights(pretrained)

    def save(name, **source):
        grown = dataclasses.replace(description, classifier=None, source=source)
        weights.save_weights(tmp_path / name, {"network": params["network"]}, grown)

    weights.save_weights(tmp_path / "a", params, description)
    save("b", init_from="/old/c", classifier_from={"path": "/old/a"})
    save("c", init_from="/old/c")
    save("d", init_from="/old/c", classifier_from={"path": "/old/gone"})
    config = tiny_config("evaluate", photo_folder)
    config.init_from = str(tmp_path / "d")
    assert run.find_classifier(config, *weights.load_weights(tmp_path / "d")) is None
    save("c", init_from="b")  # relative, to a folder beside it
    classifier = run.find_classifier(config, *weights.load_weights(tmp_path / "d"))
    assert classifier.labels == description.classifier.labels
    assert f"by the classifier in {tmp_path / 'a'}" in capsys.readouterr().out


def test_pairs_are_measured_whole(tmp_path, photo_folder, pretrained, capsys, monkeypatch):
    """PSNR of test pairs as in published tables: of whole images of any size."""
    import jax

    from dcpt_jax import metrics, weights

    params, description = weights.load_weights(pretrained)
    params["network"]["ending"] = jax.tree.map(np.zeros_like, params["network"]["ending"])
    description = dataclasses.replace(description, classifier=None, source={})
    weights.save_weights(tmp_path / "identity", {"network": params["network"]}, description)
    rng = np.random.default_rng(0)
    expected = []
    for i, shape in enumerate(((24, 40), (40, 24))):
        clean = rng.uniform(0.2, 0.8, (*shape, 3))
        degraded = clean + rng.normal(0, 0.02 + 0.1 * i, clean.shape)
        for side, image in (("rain", degraded), ("norain", clean)):
            images.write_image(tmp_path / f"Rain100L/{side}/{side}-{i}.png", image)
        found = (
            images.read_image(tmp_path / f"Rain100L/{s}/{s}-{i}.png") for s in ("rain", "norain")
        )
        expected.append(metrics.psnr(*found))
    config = tiny_config("evaluate", photo_folder)
    config.init_from = str(tmp_path / "identity")
    config.tasks = "rain"
    config.data.crop_size = 0
    config.data.sources.rain = f"rain100l:{tmp_path}/Rain100L"
    table = next(one for one in published.TABLES if "DCPT-NAFNet" in one.methods)
    monkeypatch.setitem(table.test_sets, "rain", published.TestSet("rain100l", 2))
    evaluation = run.evaluate(config, tmp_path / "e")
    (rain,) = evaluation.classes
    assert rain.samples == 2
    assert rain.psnr_degraded == pytest.approx(np.mean(expected))
    assert rain.psnr_restored == pytest.approx(np.mean(expected), abs=1e-3)
    assert "whole images" in evaluation.convention
    assert evaluation.data == (f"pairs of rain100l in {tmp_path}/Rain100L",)
    assert evaluation.test_sets == ("rain100l",) and evaluation.crop_size == 0
    out = capsys.readouterr().out
    assert f"rain: 2 of pairs of rain100l in {tmp_path}/Rain100L" in out
    # As they are the test images of a published table, its figures stand beside ours.
    difference = rain.psnr_restored - 35.68
    assert "DCPT-NAFNet (published)" in out
    assert f"35.68 / - {difference:+.2f} / -" in " ".join(out.split())
    saved = json.loads((tmp_path / "e/evaluation.json").read_text())
    assert saved["data"] == {"rain": evaluation.data[0]}
    assert images.read_image(tmp_path / "e/sheet.png").shape[0] > 256


def test_the_local_converter_is_off_unless_asked_for(photo_folder, pretrained):
    config = tiny_config("evaluate", photo_folder)
    config.data.crop_size = 32
    _, description = weights.load_weights(pretrained)
    assert "tlc_size" not in run._changes(config, description)
    config.local_pooling = True
    assert run._changes(config, description)["tlc_size"] == 16


def test_a_local_converter_that_cannot_be_used_stops_the_run(tmp_path, photo_folder, pretrained):
    config = tiny_config("evaluate", photo_folder)
    config.local_pooling = True
    params, description = weights.load_weights(pretrained)
    for name, changes, reason in (
        ("converted", {"crop_size": None}, "their model.json has no crop_size"),
        ("other", {"architecture": "restormer", "arguments": {}}, "restormer has no local conv"),
    ):
        config.init_from = str(tmp_path / name)
        other = dataclasses.replace(description, **changes)
        weights.save_weights(config.init_from, params, other)
        with pytest.raises(configs.ConfigError, match=rf"^config\.local_pooling .*{reason}"):
            run.evaluate(config, tmp_path / "e")
