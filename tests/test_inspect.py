import functools
import json
import math
import subprocess
import sys

import jax
import numpy as np
import pytest

import dcpt_jax
from dcpt_jax import images, weights
from dcpt_jax.inspect import command, inspector
from dcpt_jax.inspect.inspector import Inspector, spread_crops
from dcpt_jax.labels import Labels
from dcpt_jax.weights import folders
from tests.test_restore_predictor import photo, small_network

CLASSES = ("rain", "noise", "haze")
SIDE = 16


def network_features(network, params, image):
    features = functools.partial(network.apply, method="features")
    return jax.jit(features)({"params": params}, image[None])


@pytest.fixture(scope="module")
def parts():
    """A small random network with a classifier, and the parameters of both."""
    network, params = small_network()
    classifier = dcpt_jax.create_classifier(network.feature_dims, num_classes=3, num_blocks=1)
    features = network_features(network, params, photo(SIDE, SIDE))
    drawn = jax.jit(classifier.init)(jax.random.key(0), features)["params"]
    return network, classifier, {"network": params, "classifier": drawn}


def saved(folder, parts, components=(), **extra):
    network, classifier, params = parts
    labels = Labels(components, "multi_hot") if components else Labels(CLASSES)
    description = weights.describe(network, classifier, labels=labels, classes=CLASSES, **extra)
    return weights.save_weights(folder, params, description)


@pytest.fixture(scope="module")
def flat(tmp_path_factory, parts):
    return saved(tmp_path_factory.mktemp("flat") / "w", parts, crop_size=SIDE)


@pytest.fixture(scope="module")
def multi_hot(tmp_path_factory, parts):
    return saved(tmp_path_factory.mktemp("hot") / "w", parts, components=CLASSES, crop_size=SIDE)


def logits_of(parts, crop):
    network, classifier, params = parts
    features = network_features(network, params["network"], crop)
    return np.asarray(jax.jit(classifier.apply)({"params": params["classifier"]}, features))[0]


def put(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write_image(path, image)
    return path


def run(*arguments):
    return command.main([str(argument) for argument in arguments])


def with_logits(monkeypatch, *logits):
    """Makes every classifier return these logits, one row per crop."""
    rows = iter(np.array(logits, np.float32))
    monkeypatch.setattr(inspector, "_classify", lambda *_: next(rows)[None])


# In Python


def test_the_package_is_the_function(flat, parts):
    image = photo(SIDE, SIDE)
    found = dcpt_jax.inspect(image, flat)
    logits = logits_of(parts, image)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert set(found) == set(CLASSES)
    np.testing.assert_allclose([found[name] for name in CLASSES], expected, rtol=1e-4)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert all(type(value) is float for value in found.values())


def test_a_loaded_network_predicts_the_same(flat):
    params, description = weights.load_weights(flat)
    image = photo(20, 40)
    assert Inspector(params, description)(image) == dcpt_jax.inspect(image, flat)


def test_components_are_predicted_independently(multi_hot, parts):
    image = photo(SIDE, SIDE)
    found = dcpt_jax.inspect(image, multi_hot)
    expected = 1 / (1 + np.exp(-logits_of(parts, image)))
    np.testing.assert_allclose([found[name] for name in CLASSES], expected, rtol=1e-4)


def test_the_logits_of_the_crops_are_averaged(flat, monkeypatch):
    with_logits(monkeypatch, [0, 0, 1], [8, 0, 0])
    found = dcpt_jax.inspect(photo(SIDE, 2 * SIDE), flat)
    total = math.exp(4) + 1 + math.exp(0.5)
    assert found == pytest.approx(
        {"rain": math.exp(4) / total, "haze": math.exp(0.5) / total, "noise": 1 / total}
    )
    assert list(found) == ["rain", "haze", "noise"]


def test_verdicts(flat, multi_hot, monkeypatch):
    one = Inspector.load(flat)
    assert one.labels.verdict({"haze": 0.4, "rain": 0.35, "noise": 0.25}) == "haze"
    many = Inspector.load(multi_hot)
    assert many.labels.verdict({"haze": 0.9, "rain": 0.6, "noise": 0.5}) == "haze+rain"
    assert many.labels.verdict({"haze": 0.4, "rain": 0.3, "noise": 0.2}) == "clean"


@pytest.mark.parametrize(
    ("size", "starts"),
    [
        ((16, 16), [(0, 0)]),
        ((17, 16), [(0, 0)]),
        ((27, 16), [(0, 0), (8, 0)]),
        ((40, 16), [(0, 0), (8, 0), (24, 0)]),
        ((16, 1000), [(0, 0), (0, 328), (0, 656), (0, 984)]),
    ],
)
def test_crops_are_spread_over_the_photo(size, starts):
    image = np.arange(size[0] * size[1] * 3, dtype=np.float32).reshape(*size, 3)
    crops = list(spread_crops(image, 16))
    assert [np.argwhere((image == crop[0, 0]).all(-1))[0].tolist() for crop in crops] == [
        list(start) for start in starts
    ]
    for crop, (top, left) in zip(crops, starts, strict=True):
        np.testing.assert_array_equal(crop, image[top : top + 16, left : left + 16])


def test_a_large_photo_is_sampled_and_a_small_one_reflected():
    assert len(list(spread_crops(photo(300, 500), 16))) == 16
    (crop,) = spread_crops(photo(3, 9), 16)
    assert crop.shape == (16, 16, 3)
    np.testing.assert_array_equal(crop[:3, :9], photo(3, 9))
    np.testing.assert_array_equal(crop[3, :9], photo(3, 9)[1])
    assert len(list(spread_crops(photo(1, 40), 16))) == 3


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (200, 310)])
def test_one_program_inspects_all_sizes(flat, size):
    inspect = Inspector.load(flat)
    inspect(photo(SIDE, SIDE))
    programs = inspector._classify._cache_size()
    assert sum(inspect(photo(*size)).values()) == pytest.approx(1)
    assert inspector._classify._cache_size() == programs


def test_crops_have_the_size_of_training(tmp_path, parts, monkeypatch):
    shapes = []
    monkeypatch.setattr(
        inspector, "_classify", lambda *a: shapes.append(a[3].shape) or np.zeros((1, 3))
    )
    dcpt_jax.inspect(photo(10, 10), saved(tmp_path / "a", parts, crop_size=24))
    dcpt_jax.inspect(photo(10, 10), saved(tmp_path / "b", parts))
    assert shapes == [(1, 24, 24, 3), (1, 128, 128, 3)]


class Mean:
    """Stands for a network and, of its features and the image, a classifier."""

    image_input = True

    def apply(self, variables, degraded, image=None, method=None):
        return degraded if image is None else (degraded - 3 * image).mean(axis=(1, 2))


def test_a_classifier_that_takes_the_image_gets_it():
    params, image = {"network": {}, "classifier": {}}, photo(SIDE, SIDE)[None]
    logits = inspector._classify(Mean(), Mean(), params, image)
    np.testing.assert_allclose(logits, -2 * image.mean(axis=(1, 2)), rtol=1e-5)


def test_other_items_than_photos_are_refused(flat):
    with pytest.raises(ValueError, match="uint8; divide by 255"):
        dcpt_jax.inspect(np.zeros((4, 4, 3), np.uint8), flat)


def test_weights_without_a_classifier_are_refused_with_advice(tmp_path, parts):
    network, _, params = parts
    description = weights.describe(network)
    folder = weights.save_weights(tmp_path / "w", {"network": params["network"]}, description)
    with pytest.raises(ValueError, match=r"w: these weights contain no classifier; .*classify\.py"):
        dcpt_jax.inspect(photo(8, 8), folder)
    with pytest.raises(ValueError, match="contain no classifier"):
        Inspector(params, description)


def test_the_bundled_network_is_the_default(flat, monkeypatch):
    monkeypatch.setattr(folders, "BUNDLED", flat)
    assert dcpt_jax.inspect(photo(8, 8)) == dcpt_jax.inspect(photo(8, 8), flat)


# The command


def test_the_command_gives_the_results_of_the_function(tmp_path, flat, capsys):
    one = put(tmp_path / "in/one.png", photo(20, 30))
    two = put(tmp_path / "in/sub/two.png", photo(40, 30, seed=1))
    assert run(tmp_path / "in", one, "--weights", flat, "--json") == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["file"] for entry in entries] == [str(one), str(two)]
    for path, entry in zip((one, two), entries, strict=True):
        expected = dcpt_jax.inspect(images.read_image(path), flat)
        assert entry["probabilities"] == expected
        assert list(entry["probabilities"]) == list(expected)
        assert entry["verdict"] == next(iter(expected))


def test_the_table_is_aligned_and_omits_improbable_classes(
    tmp_path, multi_hot, monkeypatch, capsys
):
    a = put(tmp_path / "a.png", photo(8, 8))
    longer = put(tmp_path / "longer.png", photo(8, 8))
    with_logits(monkeypatch, [3, -9, 1], [-3, -9, -9])
    assert run(a, longer, "--weights", multi_hot) == 0
    head, first, second, note = capsys.readouterr().out.splitlines()
    assert "above 50%" in note
    width = len(str(longer))
    assert head.split() == ["file", "verdict", "probabilities"]
    assert [line[width + 2 :].split()[0] for line in (head, first, second)] == [
        "verdict",
        "rain+haze",
        "clean",
    ]
    assert first.endswith("  rain 95%, haze 73%")
    assert second.endswith("  rain 5%")


def test_a_bad_file_is_named_and_the_others_go_on(tmp_path, flat, capsys):
    good = put(tmp_path / "in/a.png", photo(8, 8))
    (tmp_path / "in/b.png").write_text("no image")
    assert run(tmp_path / "in", tmp_path / "gone", "--weights", flat, "--json") == 1
    shown = capsys.readouterr()
    assert [json.loads(line)["file"] for line in shown.out.splitlines()] == [str(good)]
    assert f"failed: {tmp_path / 'in/b.png'}: " in shown.err
    assert f"failed: {tmp_path / 'gone'}: no such file or folder" in shown.err


def test_errors_without_text_are_named(tmp_path, flat, monkeypatch, capsys):
    def fails(*_):
        raise MemoryError

    monkeypatch.setattr(inspector, "_classify", fails)
    photo_file = put(tmp_path / "a.png", photo(8, 8))
    assert run(photo_file, "--weights", flat) == 1
    assert f"failed: {photo_file}: MemoryError\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photo.png", "--weights", "nothing"), "--weights nothing: no such folder"),
        (("photo.png", "--weights", "empty"), "no weights in"),
        (("photo.png", "--weights", "photo.png"), "photo.png is a file; convert it to a weights"),
        (("photo.png", "--weights", "no_classifier"), "contain no classifier; use those of"),
        (("photo.png",), "no bundled network"),
        (("empty",), "contain no image to inspect"),
    ],
)
def test_wrong_use_ends_with_status_2(tmp_path, parts, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "BUNDLED", tmp_path / "nowhere")
    put(tmp_path / "photo.png", photo(8, 8))
    (tmp_path / "empty").mkdir()
    description = weights.describe(parts[0])
    weights.save_weights("no_classifier", {"network": parts[2]["network"]}, description)
    assert run(*arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err and not shown.out


def test_an_interruption_ends_with_status_130(tmp_path, flat, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(inspector, "_classify", interrupted)
    assert run(put(tmp_path / "a.png", photo(8, 8)), "--weights", flat) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_the_bundled_network_is_reported_on_the_error_stream(tmp_path, flat, monkeypatch, capsys):
    monkeypatch.setattr(folders, "BUNDLED", flat)
    assert run(put(tmp_path / "a.png", photo(8, 8)), "--json") == 0
    shown = capsys.readouterr()
    assert "bundled with dcpt_jax" in shown.err
    assert len(shown.out.splitlines()) == 1


def test_help_fits_a_terminal_and_starts_without_jax():
    code = (
        "import sys, runpy; sys.argv = ['inspect', '--help']\n"
        "try: runpy.run_module('dcpt_jax.inspect', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'jax', 'optax', 'grain'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--weights" in done.stdout and "--json" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100
