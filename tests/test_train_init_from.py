"""Initialisation from other runs: networks, classifiers, different classes."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from dcpt_jax import config as configs
from dcpt_jax import create_classifier, create_model, weights
from dcpt_jax.config import ConfigError
from dcpt_jax.data import tasks as task_sets
from dcpt_jax.evaluate import run as evaluation
from dcpt_jax.labels import Labels
from dcpt_jax.modes import MODES
from dcpt_jax.train import init_from, loop
from dcpt_jax.train import run as training
from dcpt_jax.weights import ClassifierDescription
from tests import parts
from tests.conftest import tiny_config

FIVE = ("rain", "noise", "haze", "low_light", "motion_blur")


def grown_config(mode, photo_folder, pretrained, **changes):
    """A config of two steps that starts from the pre-trained network and classifier."""
    config = tiny_config(mode, photo_folder)
    config.init_from = str(pretrained)
    config.num_steps = 2
    for key in ("optimizer", "classifier_optimizer"):
        if key in config:
            config[key].decay_steps = 100
    config.update(changes)
    return config


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_head_keeps_the_columns_of_the_classes_that_stay():
    rng = np.random.default_rng(0)

    def parameters(classes):
        head = {"kernel": rng.random((4, classes)), "bias": rng.random(classes)}
        return {"down_0": {"kernel": rng.random((2, 2))}, "head": head}

    fresh, found = (jax.tree.map(np.float32, parameters(n)) for n in (3, 5))
    inherited = init_from.take_over_classifier(fresh, found, ((2, 0), (0, 2)))
    assert_equal(inherited["down_0"], found["down_0"])
    for name in ("kernel", "bias"):
        there, new = found["head"][name], fresh["head"][name]
        expected = np.stack([there[..., 2], new[..., 1], there[..., 0]], axis=-1)
        np.testing.assert_array_equal(inherited["head"][name], expected)


def test_labels_of_the_guide():
    tasks = task_sets.resolve_tasks("haze,rain")
    assert init_from.guide_options(Labels(FIVE), tasks) == {"label_of_task": (2, 0)}
    message = r"does not know haze; its classes: noise, rain.*tasks.*convert --classes"
    with pytest.raises(ConfigError, match=message):
        init_from.guide_options(Labels(("noise", "rain")), tasks)


MIXED = Labels(("haze", "low_light", "rain"), "multi_hot")


def test_a_guide_of_components_guides_to_mixtures_that_it_never_saw():
    options = init_from.guide_options(MIXED, task_sets.resolve_tasks("low_light+rain+haze,rain"))
    assert set(options) == {"label_rows"}
    assert options["label_rows"].tolist() == [[1, 1, 1], [0, 0, 1]]
    options = init_from.guide_options(MIXED, task_sets.resolve_tasks("clean,rain"))
    assert options["label_rows"].tolist() == [[0, 0, 0], [0, 0, 1]]
    options = init_from.guide_options(MIXED, task_sets.resolve_tasks("clean"))
    assert options["label_rows"].tolist() == [[0, 0, 0]]
    flat = Labels(("haze", "low_light+haze"))
    tasks = task_sets.resolve_tasks("low_light+haze")
    assert init_from.guide_options(flat, tasks) == {"label_of_task": (1,)}
    with pytest.raises(ConfigError, match=r"does not know snow; its components: haze, low_light"):
        init_from.guide_options(MIXED, task_sets.resolve_tasks("rain+snow"))


def test_the_report_lists_dropped_and_untrained_parts():
    network = create_model("nafnet")
    classifier = create_classifier(network.feature_dims, 5)

    def lines(stage, *modules, **others):
        described = weights.describe(network, *modules, labels=Labels(FIVE), **others)
        run = init_from.Initial(params={"network": {}}, description=described, network_from="W")
        return init_from.report(run, MODES[stage], Labels(()))

    assert lines("restore") == ["network: taken over from W"]
    assert lines("restore", averaged=("network",)) == [
        "network: taken over from W, its moving average"
    ]
    masked = lines("restore", classifier, mode="mask_pretrain")
    assert masked == [
        "network: taken over from W",
        "network: its last layers are untrained, since masked pre-training skips them",
        "classifier: not loaded from W, as this stage has none",
    ]


def test_a_classifier_of_classes_goes_on_with_components(photo_folder, pretrained):
    """All single classes, no mixtures, as reported."""
    config = grown_config("classify", photo_folder, pretrained, label="multi_hot")
    config.tasks = "low_light+haze,rain,snow"
    run = training.prepare(config)
    assert run.labels.names == ("low_light", "haze", "rain", "snow")
    assert run.classifier.num_classes == 4
    assert init_from.report(run.initial, run.mode, run.labels)[1] == (
        f"classifier: taken over from {pretrained} (flat, from now on multi_hot), its head resized "
        "from 5 to 4 components; kept: low_light, haze, rain; new: snow; "
        "dropped: noise, motion_blur"
    )
    there = weights.load_weights(pretrained)[0]["classifier"]["head"]["bias"]
    bias = run.create_state().params["classifier"]["head"]["bias"]
    np.testing.assert_array_equal(bias[:3], there[np.array([3, 2, 0])])
    description = run.describe()
    assert description.classes == run.classes
    assert description.classifier.labels == Labels(
        ("low_light", "haze", "rain", "snow"), "multi_hot"
    )
    config.tasks = "5d"
    run = training.prepare(config)
    assert init_from.report(run.initial, run.mode, run.labels)[1] == (
        f"classifier: taken over from {pretrained} (flat, from now on multi_hot)"
    )


def test_pretraining_goes_on_with_network_and_classifier(photo_folder, pretrained, capsys):
    run = training.prepare(grown_config("pretrain", photo_folder, pretrained))
    state = run.create_state()
    assert_equal(state.params, weights.load_weights(pretrained)[0])
    assert init_from.report(run.initial, run.mode, run.labels) == [
        f"network: taken over from {pretrained}",
        f"classifier: taken over from {pretrained}",
    ]


def test_a_new_classifier_on_request(photo_folder, pretrained):
    config = grown_config("pretrain", photo_folder, pretrained, classifier_from="scratch")
    run = training.prepare(config)
    params = weights.load_weights(pretrained)[0]
    assert set(run.initial.params) == {"network"}
    state = run.create_state()
    assert_equal(state.params["network"], params["network"])
    assert (
        state.params["classifier"]["head"]["kernel"] != params["classifier"]["head"]["kernel"]
    ).any()
    assert init_from.report(run.initial, run.mode, run.labels)[1] == "classifier: from scratch"


@pytest.mark.slow
def test_a_classifier_learns_other_classes_on_a_frozen_network(
    tmp_path, photo_folder, pretrained, capsys
):
    begin = tmp_path / "begin"
    shutil.copytree(pretrained / "weights", begin)
    config = grown_config("classify", photo_folder, begin, tasks="haze,noise+rain")
    result = loop.train(config, tmp_path / "run")
    output = capsys.readouterr().out
    assert (
        f"classifier: taken over from {begin}, its head resized from 5 to 2 classes; kept: haze; "
        "new: noise+rain; dropped: rain, noise, low_light, motion_blur"
    ) in output
    assert "classify 2/2" in output and 0 <= result.metrics["accuracy"] <= 1
    before = weights.load_weights(begin)[0]
    params, description = weights.load_weights(tmp_path / "run")
    assert_equal(params["network"], before["network"])
    assert_equal(params["classifier"], result.state.ema["classifier"])
    assert set(result.state.optimizer) == set(result.state.ema) == {"classifier"}
    assert description.classifier.arguments["num_classes"] == 2
    assert description.classes == description.classifier.labels.names == ("haze", "noise+rain")
    assert description.source == {"init_from": str(begin), "mode": "pretrain", "steps": 12}
    shutil.rmtree(begin)  # a run that was begun needs it no more
    config.num_steps = 3
    assert int(loop.train(config, tmp_path / "run").state.step) == 3
    assert "continuing from step 2" in capsys.readouterr().out


def test_a_guided_transfer_leaves_a_network(tmp_path, photo_folder, pretrained, capsys):
    begin = tmp_path / "begin"
    shutil.copytree(pretrained / "weights", begin)
    config = grown_config("transfer", photo_folder, begin, tasks="haze")
    result = loop.train(config, tmp_path / "run")
    output = capsys.readouterr().out
    assert f"network: taken over from {begin}" in output
    assert f"classifier: taken over from {begin}, frozen; it guides the network" in output
    assert {"loss_pixel", "loss_class", "accuracy", "psnr"} <= set(result.metrics)
    before = weights.load_weights(pretrained)[0]
    assert_equal(result.state.params["classifier"], before["classifier"])
    params, description = weights.load_weights(tmp_path / "run")
    assert set(params) == {"network"} and description.classifier is None
    assert_equal(params["network"], result.state.ema["network"])
    assert description.guide.labels == Labels(FIVE)
    with pytest.raises(ValueError, match="no classifier"):
        weights.load_classifier(tmp_path / "run")
    evaluated = tiny_config("evaluate", photo_folder)
    evaluated.init_from = str(tmp_path / "run")
    assert evaluation.find_classifier(evaluated, params, description).labels == Labels(FIVE)
    assert f"by the classifier in {begin}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_guided_transfer_is_resumed_without_its_initial_weights(
    tmp_path, photo_folder, pretrained
):
    begin = tmp_path / "begin"
    shutil.copytree(pretrained / "weights", begin)
    config = grown_config("transfer", photo_folder, begin, tasks="haze")
    loop.train(config, tmp_path / "run")
    before = weights.load_weights(begin)[0]
    shutil.rmtree(begin)
    config.num_steps = 3
    result = loop.train(config, tmp_path / "run")
    assert int(result.state.step) == 3
    assert_equal(result.state.params["classifier"], before["classifier"])


def test_without_guidance_there_is_no_classifier(photo_folder, pretrained):
    config = grown_config("transfer", photo_folder, pretrained, guidance=0.0, tasks="haze+noise")
    run = training.prepare(config)
    assert run.classifier is None and set(run.initial.params) == {"network"}
    assert run.describe().guide is None


def without_classifier(pretrained, folder):
    params, description = weights.load_weights(pretrained)
    description = dataclasses.replace(description, classifier=None)
    return weights.save_weights(folder, {"network": params["network"]}, description)


def with_classifier(description, labels=None, **arguments):
    classifier = description.classifier
    changed = ClassifierDescription(
        {**classifier.arguments, **arguments}, labels or classifier.labels
    )
    classes = changed.labels.names
    return dataclasses.replace(description, classifier=changed, classes=classes)


def test_a_guide_that_is_missing_or_does_not_fit(tmp_path, photo_folder, pretrained):
    network_only = without_classifier(pretrained, tmp_path / "network")
    config = grown_config("transfer", photo_folder, network_only)
    with pytest.raises(ConfigError, match=r"no classifier in .*--config\.classifier_from.*=0"):
        training.prepare(config)
    config.classifier_from = str(network_only)
    with pytest.raises(ConfigError, match=r"config\.classifier_from.*contain no classifier"):
        training.prepare(config)
    config.classifier_from = str(pretrained)
    assert set(training.prepare(config).initial.params) == {"network", "classifier"}
    config.tasks = "haze+rain"
    with pytest.raises(ConfigError, match=r"does not know haze\+rain; its classes: rain, noise"):
        training.prepare(config)


def test_a_classifier_of_another_networks_features(tmp_path, photo_folder, pretrained):
    params, description = weights.load_weights(pretrained)
    description = with_classifier(description, feature_dims=(8,))
    other = weights.save_weights(tmp_path / "other", params, description)
    config = grown_config("classify", photo_folder, pretrained, classifier_from=str(other))
    wrong = r"features of \(8,\) channels, but this nafnet has \(4,.*"
    with pytest.raises(ConfigError, match=wrong + "classifier_from=scratch"):
        training.prepare(config)
    config = grown_config(
        "transfer", photo_folder, pretrained, tasks="haze", classifier_from=str(other)
    )
    with pytest.raises(ConfigError, match=wrong + "guidance=0"):
        training.prepare(config)


def test_other_feature_sizes_are_distinguished_from_other_channels(photo_folder):
    config = tiny_config("classify", photo_folder, "swinir")
    arguments = {"feature_dims": (8,) * 3, "resize_features": False}
    inherited = ClassifierDescription(arguments, Labels(FIVE))
    with pytest.raises(ConfigError, match=r"features that halve in size.*swinir has of one size"):
        parts.network_and_classifier(config, num_classes=5, inherited=inherited)


@pytest.mark.parametrize(("mode", "way_out"), [("transfer", "guidance=0"), ("classify", "scratch")])
def test_a_classifier_that_sees_the_image(tmp_path, photo_folder, pretrained, mode, way_out):
    params, description = weights.load_weights(pretrained)
    description = with_classifier(description, image_input=True)
    other = weights.save_weights(tmp_path / "other", params, description)
    config = grown_config(mode, photo_folder, pretrained, classifier_from=str(other))
    with pytest.raises(ConfigError, match=f"takes the image.*another, or .*{way_out}"):
        init_from.find_initial(config, None)


def test_a_guide_of_one_class_is_refused(tmp_path, photo_folder, pretrained):
    params, description = weights.load_weights(pretrained)
    description = with_classifier(description, Labels(("rain",)), num_classes=1)
    other = weights.save_weights(tmp_path / "other", params, description)
    config = grown_config("transfer", photo_folder, pretrained, classifier_from=str(other))
    with pytest.raises(ConfigError, match=r"other knows only rain, .*always be right"):
        init_from.find_initial(config, None)
    # One component can be there or not: a photo can be clean.
    description = with_classifier(description, Labels(("rain",), "multi_hot"))
    other = weights.save_weights(tmp_path / "component", params, description)
    config.classifier_from = str(other)
    assert init_from.find_initial(config, None).classifier.labels.multi_hot
    config.guidance = 0.0
    assert init_from.find_initial(config, None).classifier is None


def test_guidance_cannot_be_switched_on_on_the_way(photo_folder, pretrained):
    description = weights.load_weights(pretrained)[1]
    begun = dataclasses.replace(description, mode="transfer", classifier=None)
    config = grown_config("transfer", photo_folder, pretrained)
    with pytest.raises(ConfigError, match=r"begun without a classifier.*--config\.guidance=0"):
        init_from.find_initial(config, begun)
    config.guidance = 0.0
    assert init_from.find_initial(config, begun).classifier is None


@pytest.mark.parametrize("key", ["init_from", "classifier_from"])
def test_a_missing_folder_is_named_with_its_key(tmp_path, photo_folder, pretrained, key):
    config = grown_config("classify", photo_folder, pretrained)
    config[key] = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=rf"config\.{key}: no weights in .*missing"):
        init_from.find_initial(config, None)


def test_the_figures_of_another_backbone_are_refused(photo_folder, pretrained):
    config = configs.load("restore", "swinir,rain")
    config.init_from = str(pretrained)
    with pytest.raises(ConfigError, match=r"--config=configs/restore\.py:nafnet,rain, or --conf"):
        init_from.find_initial(config, None)
    config.tasks = "rain,haze"  # which no preset can name
    with pytest.raises(ConfigError, match=r"--config=configs/restore\.py:nafnet, or --config\."):
        init_from.find_initial(config, None)
    config.recipe = ""
    init_from.find_initial(config, None)
    assert config.model.name == "nafnet"
    config = configs.load("restore", "nafnet")
    config.init_from = str(pretrained)
    init_from.find_initial(config, None)
    assert config.model.width == 4


def test_the_origin_of_initial_weights_in_words(photo_folder, pretrained):
    config = grown_config("pretrain", photo_folder, "", classifier_from=str(pretrained))
    assert init_from.describe_origin(init_from.find_initial(config, None)) == (
        f"scratch and the classifier of {pretrained}"
    )
    config.update(init_from=str(pretrained), classifier_from="")
    assert init_from.describe_origin(init_from.find_initial(config, None)) == str(pretrained)
    config.update(init_from="", classifier_from="scratch")
    assert init_from.describe_origin(init_from.find_initial(config, None)) == "scratch"
