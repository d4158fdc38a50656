import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import dcpt_jax
from dcpt_jax import models, weights
from dcpt_jax.labels import Labels
from dcpt_jax.weights import folders


@pytest.fixture(scope="module")
def small():
    network = dcpt_jax.create_model(
        "nafnet", width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)
    )
    classifier = dcpt_jax.create_classifier(network.feature_dims, num_classes=2, num_blocks=1)
    image = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    params = {"network": network.init(jax.random.key(1), image)["params"]}
    features = network.apply({"params": params["network"]}, image, method="features")
    params["classifier"] = classifier.init(jax.random.key(2), features)["params"]
    return network, classifier, params, image


def save(folder, small):
    network, classifier, params, _ = small
    labels = Labels(("rain", "noise"))
    description = weights.describe(network, classifier, labels=labels, metrics={"x": 1.0})
    return weights.save_weights(folder, params, description)


def test_load_rebuilds_the_network(tmp_path, small):
    network, _, params, image = small
    save(tmp_path / "w", small)
    model, loaded = dcpt_jax.load(tmp_path / "w")
    assert model == network
    expected = network.apply({"params": params["network"]}, image)
    np.testing.assert_array_equal(model.apply({"params": loaded}, image), expected)


def test_load_takes_a_work_directory(tmp_path, small):
    save(tmp_path / "weights", small)
    model, _ = dcpt_jax.load(str(tmp_path))
    assert model.width == 4


def test_the_classifier_comes_back_with_its_class_names(tmp_path, small):
    network, _, params, image = small
    save(tmp_path / "w", small)
    classifier, loaded, names = dcpt_jax.load_classifier(tmp_path / "w")
    features = network.apply({"params": params["network"]}, image, method="features")
    assert names == ("rain", "noise")
    assert classifier.apply({"params": loaded}, features).shape == (1, 2)


def test_orbax_alone_reads_the_folder(tmp_path, small):
    folder = save(tmp_path / "w", small)
    tree = ocp.StandardCheckpointer().restore(folder)
    jax.tree.map(np.testing.assert_array_equal, tree, jax.device_get(small[2]))


def test_another_program_on_other_devices_reads_the_folder(tmp_path, small):
    folder = save(tmp_path / "w", small)
    code = (
        "import orbax.checkpoint as ocp, jax; assert len(jax.devices()) == 4\n"
        f"tree = ocp.StandardCheckpointer().restore({str(folder)!r})\n"
        "import sys; assert 'dcpt_jax' not in sys.modules\n"
        "print(sorted(tree), tree['network']['intro']['kernel'].shape)"
    )
    import os

    env = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "['classifier', 'network'] (3, 3, 3, 4)", done.stderr


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(tmp_path, small):
    save(tmp_path / "w", small)
    for name in (
        "w.new-9999999",
        "w.new-9999999.orbax-checkpoint-tmp",
        f"w.new-{os.getppid()}",
        "w.old-9999999",
    ):
        (tmp_path / name / "d").mkdir(parents=True)  # of killed processes, and of a running one
    for process in (9999998, 20261128, os.getpid()):
        shutil.copytree(tmp_path / "w", tmp_path / f"w.old-{process}")
    network, _, params, _ = small
    changed = {"network": jax.tree.map(jnp.zeros_like, params["network"])}
    description = weights.describe(network, task_set="5d")
    weights.save_weights(tmp_path / "w", changed, description)
    loaded, description = weights.load_weights(tmp_path / "w")
    assert set(loaded) == {"network"} and not loaded["network"]["intro"]["kernel"].any()
    assert description.task_set == "5d"
    # Not removed: that of a running process, other files, and a copy named after a date.
    kept = {"w", f"w.new-{os.getppid()}", "w.old-9999999", "w.old-20261128"}
    assert {entry.name for entry in tmp_path.iterdir()} == kept
    with pytest.raises(ValueError, match="contain no classifier"):
        dcpt_jax.load_classifier(tmp_path / "w")


@pytest.mark.parametrize("target", ["missing", "empty", "weights"])
def test_a_link_is_kept_and_the_folder_it_leads_to_is_replaced(tmp_path, small, caplog, target):
    big = tmp_path / "disk" / "big"
    if target == "weights":
        save(big, small)
    elif target == "empty":
        big.mkdir(parents=True)
    (tmp_path / "w").symlink_to(big)
    assert save(tmp_path / "w", small) == tmp_path / "w"
    assert (tmp_path / "w").is_symlink() and weights.is_replaceable(big)
    assert [entry.name for entry in big.parent.iterdir()] == ["big"]
    assert {entry.name for entry in tmp_path.iterdir()} == {"w", "disk"} and not caplog.text


def test_a_file_in_use_in_the_old_folder_does_not_fail_the_save(tmp_path, small, monkeypatch):
    save(tmp_path / "w", small)

    def fail(path, ignore_errors=False, **_):
        if not ignore_errors:
            raise OSError(errno.EBUSY, "busy", str(path))

    monkeypatch.setattr(shutil, "rmtree", fail)
    save(tmp_path / "w", small)
    assert weights.is_replaceable(tmp_path / "w")


def test_a_failed_write_leaves_only_the_old_folder(tmp_path, small, monkeypatch):
    folder = save(tmp_path / "w", small)
    before = sorted(tmp_path.rglob("*"))
    bad = weights.describe(small[0], source={"init_from": object()})
    with pytest.raises(OSError, match=r"w cannot be written: .*JSON serializable"):
        weights.save_weights(folder, {"network": small[2]["network"]}, bad)
    with pytest.raises(ValueError, match=r'expected params \{"network": .*, not '):
        weights.save_weights(folder, small[2]["network"], weights.describe(small[0]))
    assert sorted(tmp_path.rglob("*")) == before

    def fail(self, path, *_, **__):
        path.with_name(path.name + ".orbax-checkpoint-tmp").mkdir()
        raise RuntimeError("the disk\nis full")

    monkeypatch.setattr(ocp.StandardCheckpointer, "save", fail)
    with pytest.raises(OSError, match=r"w cannot be written: the disk is full$"):
        save(folder, small)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_not_ours_is_kept(tmp_path, small, caplog):
    folder = save(tmp_path / "w", small)
    assert weights.is_replaceable(folder)
    (folder / "diary.txt").write_text("mine")
    assert not weights.is_replaceable(folder)
    save(folder, small)
    assert weights.is_replaceable(folder) and "it is kept as" in caplog.text
    (kept,) = tmp_path.glob("w.old-*")
    assert (kept / "diary.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("pytorch_model.BIN", r"files that may be weights there: pytorch_model\.BIN"),
        ("archive/data.pkl", "it is an unpacked file of PyTorch"),
        ("note.txt", r"\(a work directory\)$"),
    ],
)
def test_a_folder_of_other_weights_is_told(tmp_path, file, message):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(FileNotFoundError, match=f"no weights in .*{message}"):
        dcpt_jax.load(tmp_path)


def test_a_folder_inside_weights_is_told(tmp_path):
    (tmp_path / "model.json").touch()
    (tmp_path / "d").mkdir()
    with pytest.raises(
        FileNotFoundError, match=f"no weights in .*; {tmp_path} is a weights folder$"
    ):
        dcpt_jax.load(tmp_path / "d")


def test_missing_and_damaged_weights_are_named(tmp_path, small):
    with pytest.raises(FileNotFoundError, match=r"no weights in .*nowhere"):
        dcpt_jax.load(tmp_path / "nowhere")
    folder = save(tmp_path / "w", small)
    (folder / "model.json").write_text('{"format": 1')
    with pytest.raises(weights.WeightsError, match=r"model\.json is damaged: it is not JSON"):
        dcpt_jax.load(folder)
    (folder / "model.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(weights.WeightsError, match="format is 99; allowed: 1"):
        dcpt_jax.load(folder)


WRITE_WITHOUT_SPACE = """
import resource, sys
import jax, numpy as np
import dcpt_jax
from dcpt_jax import models, weights

model = dcpt_jax.create_model(
    "nafnet", width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)
)
rng = np.random.default_rng(0)
shapes = models.parameter_shapes(model)
params = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
try:
    weights.save_weights(sys.argv[1], {"network": params}, weights.describe(model))
except OSError as error:
    print(error, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits of Unix")
def test_a_write_that_fails_leaves_no_folder(tmp_path):
    """In its own process, as TensorStore's threads continue for a while after the failure."""
    done = subprocess.run(
        [sys.executable, "-c", WRITE_WITHOUT_SPACE, tmp_path / "w"], capture_output=True, text=True
    )
    assert f"{tmp_path / 'w'} cannot be written: " in done.stdout, done.stderr[-2000:]
    assert not (tmp_path / "w").exists()


# Orbax stops at the first failure and closes its event loop. TensorStore's threads then report the
# other arrays to it, which raises "Event loop is closed" in them: an unraisable exception, which
# commands do not show (`command_line.show_unraisable`).
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("d/*", b"", r"one of its files is damaged or missing \(OUT_OF_RANGE at [\w.]+\)$"),
        ("d/*", None, r"one of its files is damaged or missing \(NOT_FOUND at [\w.]+\)$"),
        ("manifest.ocdbt", b"x", r"one of its files is damaged or missing \(DATA_LOSS at "),
        ("_METADATA", b"", "one of its files is not JSON"),
        ("_METADATA", b"{}", "one of its files lacks 'tree_metadata'"),
    ],
)
def test_damaged_files_of_a_folder_are_reported_briefly(tmp_path, small, file, content, message):
    folder = save(tmp_path / "w", small)
    for path in folder.glob(file):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    with pytest.raises(weights.WeightsError, match=rf"w cannot be read: {message}"):
        dcpt_jax.load(folder)


def test_without_a_path_the_bundled_network_is_loaded(tmp_path, small, monkeypatch, caplog):
    monkeypatch.setattr(folders, "BUNDLED", tmp_path / "bundled")
    with pytest.raises(FileNotFoundError, match=r"no bundled network .*bundled\).*--weights"):
        dcpt_jax.load()
    save(tmp_path / "bundled", small)
    with caplog.at_level("INFO"):
        model, params = dcpt_jax.load()
    (record,) = [one for one in caplog.records if "bundled with dcpt_jax" in one.message]
    assert record.levelname == "INFO"
    assert model == small[0]
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(small[2]["network"]))
    assert dcpt_jax.load_classifier()[2] == ("rain", "noise")


@pytest.mark.skipif(not folders.BUNDLED.is_dir(), reason="no weights are bundled yet")
def test_the_bundled_weights_are_whole_and_small():
    params, description = weights.load_weights()
    assert description.checksums is not None
    for module in (description.network(), description.classifier.module()):
        expected = models.parameter_shapes(module)
        found = params["classifier" if module.architecture == "classifier" else "network"]
        jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), found, expected)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    files = [path for path in folders.BUNDLED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6
    text = json.dumps(description.to_json())
    assert not re.search(r'"/\w', text)  # paths of whoever trained them


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_in_files_is_float32_when_loaded(tmp_path, small, dtype):
    network, classifier, params, _ = small
    halves = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    save(tmp_path / "w", (network, classifier, halves, None))
    loaded, _ = weights.load_weights(tmp_path / "w")
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    jax.tree.map(np.testing.assert_array_equal, loaded, jax.device_get(halves))


def test_one_checkpoint_can_be_loaded(pretrained, tmp_path):
    checkpoint = pretrained / weights.CHECKPOINTS / "10"
    params, description = weights.load_weights(checkpoint)
    assert description.steps == 10 and set(params) == {"network", "classifier"}
    newest, _ = weights.load_weights(pretrained)
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), params["network"], newest["network"])
    assert max(jax.tree.leaves(moved)) > 0
    model, _ = dcpt_jax.load(str(checkpoint))
    assert model.width == 4
    damaged = tmp_path / weights.CHECKPOINTS / "10"
    (damaged / "state").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"checkpoint {damaged} cannot be read"):
        weights.load_weights(damaged)


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_checkpoint_with_other_content_than_was_saved_is_not_loaded(pretrained, tmp_path):
    saved, copy = pretrained / weights.CHECKPOINTS / "10", tmp_path / "10"
    for item in ("state", "model"):  # without checksums
        shutil.copytree(saved / item, copy / item)
    intact, _ = weights.load_weights(saved)
    jax.tree.map(np.testing.assert_array_equal, weights.load_weights(copy)[0], intact)
    shutil.copy(saved / "checksums.json", copy)
    jax.tree.map(np.testing.assert_array_equal, weights.load_weights(copy)[0], intact)
    flip_a_bit(max(copy.glob("state/**/d/*"), key=lambda file: file.stat().st_size))
    with pytest.raises(ValueError, match=r"cannot be read: .*checksum differs"):
        weights.load_weights(copy)


def test_a_checkpoint_in_place_that_lost_its_checksums_is_not_loaded(pretrained, tmp_path):
    checkpoint = tmp_path / weights.CHECKPOINTS / "10"
    shutil.copytree(pretrained / weights.CHECKPOINTS / "10", checkpoint)
    (checkpoint / "checksums.json").unlink()
    for place in (checkpoint, tmp_path):
        with pytest.raises((ValueError, FileNotFoundError), match=r"cannot be read|no weights in"):
            weights.load_weights(place)


def raised(error, cause=None):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("too\n  small"), "too small"),
        (MemoryError(), "MemoryError"),
        (OSError(errno.ENOSPC, "x"), "No space left on device"),
        (FileNotFoundError(errno.ENOENT, "x", "a/b"), "No such file or directory: a/b"),
        (RuntimeError("INTERNAL: [os_error_code='27' file='a']"), "File too large"),
        (
            ValueError("OUT_OF_RANGE: Error writing \"n/0\" in OCDBT: [os_error_code='27']"),
            "File too large",
        ),
        (RuntimeError("a" * 200 + "b" * 200), f"{'a' * 150} ... {'b' * 150}"),
        # What Orbax says of another error is no more than the place.
        (raised(ValueError("in Orbax"), OSError(errno.EIO, "x")), "Input/output error"),
        (raised(ValueError("in Orbax"), MemoryError()), "MemoryError"),
        # One that quotes its cause says more than that.
        (raised(ValueError("model: no JSON"), ValueError("no JSON")), "model: no JSON"),
    ],
)
def test_reasons_are_one_line(error, reason):
    assert weights.reason_of(error) == reason


def test_recognition_of_checkpoints(tmp_path):
    def folder(name, *inside):
        for item in inside:
            (tmp_path / name / item).mkdir(parents=True)
        return weights.is_checkpoint(tmp_path / name)

    assert folder("run/checkpoints/10", "state", "data", "config", "model")
    assert folder("run/checkpoints/20", "data")  # damaged
    assert folder("copies/10", "state", "model")
    assert not folder("copies/newest", "state", "model")
    assert not folder("run/checkpoints/30", "other")
    # Work directories may be numbered, and hold more than what a run writes there.
    assert not folder("runs/7", "data")
    assert not folder("runs/8", "checkpoints", "data", "state", "model")
    assert not folder("checkpoints/9", "weights", "data")


def test_a_numbered_work_directory_is_none(tmp_path, small):
    save(tmp_path / "7" / "weights", small)
    (tmp_path / "7" / "data").mkdir()
    assert dcpt_jax.load(tmp_path / "7")[0].width == 4


def flip(file, place, bit=0x10):
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= bit
    file.write_bytes(content)


def test_a_flipped_bit_in_an_array_is_named(tmp_path, small):
    """Orbax reads some of these without an error; the checksums detect them."""
    folder = save(tmp_path / "w", small)
    content = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    intact, _ = weights.load_weights(folder)
    refused, random = 0, np.random.default_rng(0)
    for file in content:
        for place in random.integers(0, 10**9, 4):
            flip(file, int(place), 1 << int(place) % 8)
            try:
                loaded, _ = weights.load_weights(folder)
            except weights.WeightsError as error:
                refused += 1
                assert str(folder) in str(error)
            else:  # in a place that means nothing
                jax.tree.map(np.testing.assert_array_equal, loaded, intact)
            file.write_bytes(content[file])
    assert refused >= 8


def test_other_arrays_are_named(tmp_path, small):
    network, _, params, _ = small
    folder = save(tmp_path / "w", small)
    text = (folder / "model.json").read_text()
    changed = jax.tree.map(np.array, jax.device_get(params))
    changed["network"]["intro"]["bias"][0] += 1
    del changed["network"]["ending"]
    save(tmp_path / "w", (network, small[1], changed, None))
    (folder / "model.json").write_text(text)
    wrong = "network/ending/bias is missing; .*; network/intro/bias: its checksum differs"
    for load in (dcpt_jax.load, dcpt_jax.load_classifier):
        with pytest.raises(weights.WeightsError, match=f"w is damaged: {wrong}"):
            load(folder)


def test_an_edited_description_has_to_fit_the_arrays(tmp_path, small, caplog):
    file = save(tmp_path / "w", small) / "model.json"
    content = json.loads(file.read_text())
    del content["checksums"]
    file.write_text(json.dumps(content))
    assert dcpt_jax.load(tmp_path / "w")[0] == small[0]
    assert "has no checksums" in caplog.text
    for arguments, message in (
        ({"width": 8}, r"network/.*: its shape is"),
        ({"encoder_blocks": [1, 1], "decoder_blocks": [1, 1]}, "network/.* is missing"),
        ({"middle_blocks": 60_000}, "the description has 60,002 blocks, but there are only"),
    ):
        changed = content | {"arguments": content["arguments"] | arguments}
        file.write_text(json.dumps(changed))
        with pytest.raises(weights.WeightsError, match=message):
            dcpt_jax.load(tmp_path / "w")


@pytest.mark.parametrize("item", ["data", "config", "model"])
def test_odd_texts_in_a_checkpoint_are_damage(pretrained, tmp_path, item):
    """Any content: an error that names the checkpoint, or the checkpoint is skipped."""
    checkpoint = tmp_path / weights.CHECKPOINTS / "10"
    shutil.copytree(pretrained / weights.CHECKPOINTS / "10", checkpoint)
    file = checkpoint / item / "metadata"
    saved = json.loads(file.read_text())
    odd = [None, [], 3, "x", {}, {**saved, "odd": 1}]
    odd += [
        {**saved, key: value} for key in saved for value in (None, -1, 10**40, "x", [], {"a": 1})
    ]
    texts = ["", "{", "[" * 100_000, "1e999", *map(json.dumps, odd)]
    for text in texts:
        if text == json.dumps(saved):
            continue
        file.write_text(text)
        with pytest.raises(weights.WeightsError):
            weights.read_item(checkpoint, item)
        if item == "model":  # weights do without the others
            with pytest.raises(weights.WeightsError, match=re.escape(str(checkpoint))):
                weights.load_weights(checkpoint)
            assert weights.newest_description(tmp_path) is None
