"""TFDS datasets: built from folders of pairs, and read with the same rules as files."""

import os
import pickle
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from dcpt_jax import images
from dcpt_jax.data import classes, tfds_build
from dcpt_jax.data import tfds as tfds_source
from dcpt_jax.data.pairs import SizeError
from dcpt_jax.data.tasks import resolve_tasks
from dcpt_jax.data.tfds import TfdsError, TfdsSource


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """LOL with three training pairs, of 16 bits, JPEG and grey, and one test pair; and its set."""
    root = tmp_path_factory.mktemp("tfds")
    train, test = root / "lol/our485", root / "lol/eval15"
    for side in ("low", "high"):
        (train / side).mkdir(parents=True)
        (test / side).mkdir(parents=True)
    cv2.imwrite(str(train / "low/deep.png"), np.full((6, 8, 3), 40_000, np.uint16))
    cv2.imwrite(str(train / "high/deep.png"), np.full((6, 8, 3), 7, np.uint16))
    cv2.imwrite(str(train / "low/jpeg.jpg"), np.full((6, 8, 3), 50, np.uint8))
    cv2.imwrite(str(train / "high/jpeg.jpg"), np.full((6, 8, 3), 90, np.uint8))
    cv2.imwrite(str(train / "low/grey.png"), np.full((6, 8), 20, np.uint8))
    cv2.imwrite(str(train / "high/grey.png"), np.full((6, 8), 30, np.uint8))
    cv2.imwrite(str(train / "low/cut.png"), np.zeros((6, 9), np.uint8))
    cv2.imwrite(str(train / "high/cut.png"), np.zeros((6, 8), np.uint8))
    for side, value in (("low", 1), ("high", 2)):
        cv2.imwrite(str(test / side / "t.png"), np.full((6, 8, 3), value, np.uint8))
    command = ["lol", "--manual", str(root / "lol"), "--data_dir", str(root / "sets")]
    assert tfds_build.main(command) == 0
    return root


def test_photos_are_those_of_the_files(folder):
    source = TfdsSource(str(folder / "sets/lol"))
    assert len(source) == 3 and source.is_pairs and source.noun == "pair"
    assert source.report.summary() == "3 pairs"
    by_value = {int(source[i].degraded[0, 0, 0]): source[i] for i in range(3)}
    assert by_value[40_000].degraded.dtype == np.uint16 and by_value[40_000].clean[0, 0, 0] == 7
    assert by_value[20].clean.shape == (6, 8, 3) and by_value[20].clean[0, 0].tolist() == [30] * 3
    assert by_value[50].clean[0, 0, 0] == 90
    with pytest.raises(ValueError, match="read-only"):
        source[0].clean[0] = 1
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[1].degraded, source[1].degraded)
    assert source.names == ("train-000000", "train-000001", "train-000002")


def test_splits(folder):
    assert len(TfdsSource(f"{folder}/sets/lol:train[:2]")) == 2
    assert TfdsSource(f"{folder}/sets/lol", split="held_out")[0].clean[0, 0, 0] == 2
    assert len(TfdsSource(f"{folder}/sets/lol/1.0.0:test")) == 1
    assert len(TfdsSource(f"{folder}/sets:test")) == 1
    assert len(TfdsSource(f"{folder}/sets/lol:train+test")) == 4
    assert len(TfdsSource(f"{folder}/sets/lol:all")) == 4
    with pytest.raises(TfdsError, match=r"Unknown split .val.*'test'.*\. A"):
        TfdsSource(f"{folder}/sets/lol:val")


def test_as_a_source_of_a_class(folder):
    (one,) = classes.open_classes(
        resolve_tasks("haze"), sources={"haze": f"tfds:{folder}/sets/lol"}, cache_megabytes=0
    )
    assert not one.is_synthetic and one.origin == f"pairs of the TFDS dataset {folder}/sets/lol"


def test_bad_examples_are_treated_like_bad_files(folder, monkeypatch, caplog):
    source = TfdsSource(str(folder / "sets/lol"), cache=0)
    expected = int(source[1].clean[0, 0, 0])
    good = source._records
    monkeypatch.setattr(
        source,
        "_records",
        [{**good[0], "clean": b"no image"}, good[1], {**good[2], "clean": good[1]["clean"][:50]}],
    )
    assert int(source[0].clean[0, 0, 0]) == int(source[2].clean[0, 0, 0]) == expected
    assert "clean of example 0 of" in caplog.text and "is not an image" in caplog.text
    assert sorted(source.unreadable) == [0, 2]


def test_missing_sets(tmp_path, monkeypatch):
    with pytest.raises(TfdsError, match=r"no TFDS dataset in .*gone: no dataset_info\.json"):
        TfdsSource(str(tmp_path / "gone"))
    with pytest.raises(TfdsError, match=r"cannot be read|not prepared"):
        TfdsSource("no_such_set_at_all")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'extra "tfds" .*pip install'):
        tfds_source.import_tfds()


def test_the_builder_refuses_unsupported_options(folder, capsys):
    def build(*more):
        return tfds_build.main([*more, "--data_dir", str(folder / "sets")]), capsys.readouterr().err

    status, text = build("lol", "--manual", str(folder / "lol"))
    assert status == 2 and "already exists; --overwrite" in text
    status, text = build("cbsd68", "--manual", str(folder / "lol/our485/low"))
    assert status == 2 and "clean photos, not pairs" in text
    low, high = (folder / "lol/our485" / side for side in ("low", "high"))
    assert "is not a name for a TFDS dataset" in build("My-Set", f"--train={low},{high}")[1]
    assert "unknown dataset 'foo'; known: " in build("foo", "--manual", str(folder))[1]
    for side in ("hazy", "gt"):
        images.write_image(folder / f"sots/indoor/{side}/1.png", np.zeros((6, 8, 3)))
    assert "have a border of 10" in build("sots_indoor", "--manual", str(folder / "sots"))[1]
    assert "must name two folders" in build("own", f"--train={low}")[1]
    assert "give either --manual" in build("own")[1]


def test_own_pairs_and_overwriting(folder, tmp_path, capsys):
    low, high = folder / "lol/our485/low", folder / "lol/our485/high"
    command = ["own", f"--test={low},{high}", f"--data_dir={tmp_path}/sets"]
    for more in ([], ["--overwrite"]):
        assert tfds_build.main([*command, *more]) == 0
        assert "left out:" in capsys.readouterr().err
    # What is there stays until the new set is complete, and names are no paths.
    for side in ("low", "high"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "bad.png").touch()
    bad = f"--test={tmp_path}/low,{tmp_path}/high"
    for name, message in (
        ("own", "TFDS cannot write own: "),
        ("../sets/own", "is not a name for a"),
    ):
        assert tfds_build.main([name, bad, *command[2:], "--overwrite"]) == 2
        assert message in capsys.readouterr().err
        assert len(TfdsSource(f"{tmp_path}/sets/own:test")) == 3
    assert [path.name for path in (tmp_path / "sets").iterdir()] == ["own"]


def test_names_that_are_no_text(tmp_path):
    for side in (b"low", b"high"):
        images.write_image(tmp_path / side.decode() / "1.png", np.zeros((6, 8, 3)))
        place = os.fsencode(tmp_path / side.decode())
        os.rename(place + b"/1.png", place + b"/\xff.png")
    pairs = f"--train={tmp_path}/low,{tmp_path}/high"
    assert tfds_build.main(["own", pairs, f"--data_dir={tmp_path}/sets"]) == 0
    assert TfdsSource(f"{tmp_path}/sets")._records[0]["name"] == rb"\udcff"


def test_damaged_records_are_bad_files(folder, tmp_path, caplog):
    shutil.copytree(folder / "sets/lol", tmp_path / "lol")
    (path,) = (tmp_path / "lol/1.0.0").glob("lol-train*")
    data = bytearray(path.read_bytes())
    data[data.find(b"IDAT")] ^= 1
    path.write_bytes(data)
    source = TfdsSource(str(tmp_path / "lol"), cache=0)
    assert len([source[i] for i in range(3)]) == 3
    ((bad, reason),) = source.unreadable.items()
    assert f"pair skipped (1 so far): example {bad} of {tmp_path}/lol:train" in caplog.text
    assert "cannot be read: " in reason and "\n" not in reason
    with pytest.raises(images.ImageError, match=f"example {bad} of .*on_bad_file=skip"):
        TfdsSource(str(tmp_path / "lol"), on_bad_file="refuse")[bad]


def test_pairs_of_different_sizes_are_distinguished_from_unreadable_ones(folder, monkeypatch):
    source = TfdsSource(str(folder / "sets/lol"), cache=0)
    small = cv2.imencode(".png", np.zeros((3, 3, 3), np.uint8))[1].tobytes()
    monkeypatch.setattr(source, "_records", [{**source._records[0], "clean": small}])
    with pytest.raises(SizeError, match=r"example 0 of .* have different sizes"):
        source.read(0)


def test_nothing_loads_tensorflow(folder):
    code = (
        "import sys; from dcpt_jax.data.tfds import TfdsSource; "
        f"TfdsSource({str(folder / 'sets/lol')!r})[0]; "
        "print([m for m in ('tensorflow', 'jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_content_in_memory_is_decoded_like_a_file(folder):
    path = folder / "lol/our485/low/deep.png"
    np.testing.assert_array_equal(
        images.decode_pixels(path.read_bytes(), "x"), images.read_pixels(path)
    )
    with pytest.raises(images.ImageError, match="x: the file is empty"):
        images.decode_pixels(b"", "x")
