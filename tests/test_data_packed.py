"""Reading packed sub-images: record format, damage, and the stream of batches."""

import dataclasses
import json
import pickle
import re
import shutil
import threading

import numpy as np
import pytest

from dcpt_jax import images
from dcpt_jax.data import pack as packing
from dcpt_jax.data import packed
from dcpt_jax.data.classes import TrainingClass, open_classes
from dcpt_jax.data.manifest import Options, read_manifest
from dcpt_jax.data.pack import pack
from dcpt_jax.data.packed import PackedSource, Record, verify
from dcpt_jax.data.pair_files import pair_folders
from dcpt_jax.data.pairs import PairSource
from dcpt_jax.data.photos import PhotoSource
from dcpt_jax.data.pipeline import make_batches
from dcpt_jax.data.sources import Pair
from dcpt_jax.data.tasks import Task, resolve_tasks

HEIGHT, WIDTH = 40, 52


def photo(number):
    """Every pixel encodes column, row and photo."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x, y, np.full_like(x, number)], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five photos in one file of sub-images."""
    place = tmp_path_factory.mktemp("photos")
    for i in range(5):
        images.write_image(place / f"{i}.png", photo(i) / 255)
    target = tmp_path_factory.mktemp("packed")
    source = PhotoSource(sorted(place.iterdir()))
    pack(source, target, options=Options(size=16, stride=12))
    return target


@pytest.fixture
def several(folder, tmp_path):
    """A folder of three files, which may be damaged."""
    place = tmp_path / "photos"
    place.mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).random((230, 300, 3))
        images.write_image(place / f"{i}.png", pixels)
    source = PhotoSource(sorted(place.iterdir()))
    target = tmp_path / "packed"
    manifest = pack(source, target, options=Options(64, 48, shard_megabytes=1))
    assert len(manifest.shards) == 3
    return target


# --- records -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "", "Küste 12/ö", "x" * 70_000])
@pytest.mark.parametrize("kinds", [("u1",), ("u2",), ("u1", "u2"), ("u2", "u1")])
def test_records_come_back(name, kinds):
    rng = np.random.default_rng(0)
    pixels = tuple(rng.integers(0, 256, (3, 5, 3)).astype(kind) * 3 for kind in kinds)
    found = packed.decode(packed.encode(Record(name, 7, 100_000, pixels)))
    assert name.startswith(found.name) and len(found.name) == min(len(name), 65535)
    assert (found.top, found.left) == (7, 100_000)
    assert len(found.images) == len(pixels)
    for one, other in zip(found.images, pixels, strict=True):
        assert one.dtype == other.dtype
        assert not one.flags.writeable
        np.testing.assert_array_equal(one, other)


def test_other_records_are_refused():
    data = packed.encode(Record("a", 0, 0, (np.zeros((2, 2, 3), np.uint8),)))
    for other in (b"", b"dcpt", b"\x89PNG" + data[4:]):
        with pytest.raises(images.ImageError, match="not a sub-image written by"):
            packed.decode(other)
    with pytest.raises(images.ImageError, match="format is number 9, but 1 is read"):
        packed.decode(data[:4] + b"\x09" + data[5:])


@pytest.mark.parametrize(
    ("place", "value"), [(5, 0), (5, 3), (6, 32), (6, 0), (7, 12), (8, 0), (8, 3), (12, 1)]
)
def test_headers_that_do_not_fit_are_refused(place, value):
    data = packed.encode(Record("a", 0, 0, (np.zeros((2, 2, 3), np.uint8),)))
    assert packed.decode(data).images[0].shape == (2, 2, 3)
    for other in (data[:place] + bytes([value]) + data[place + 1 :], data + b"\0", data[:-1]):
        with pytest.raises(images.ImageError, match="header does not fit its content"):
            packed.decode(other)


def test_format_never_changes():
    data = packed.encode(Record("ab", 1, 2, (np.arange(6, dtype=np.uint8).reshape(1, 2, 3),)))
    header = "6463707401010808" + "01000000" + "02000000" + "01000000" + "02000000" + "0200"
    assert data.hex() == header + "6162" + "00" * 4 + "000102030405"


# --- the source ----------------------------------------------------------------------------------


def test_every_sub_image_is_its_part_of_the_photo(folder):
    source = PackedSource(folder)
    assert len(source) == len(set(source.names)) == 5 * 3 * 4
    assert not source.is_pairs
    assert source.report.summary() == "60 sub-images of 5 photos"
    for i in range(len(source)):
        record = source.record(i)
        part = photo(int(record.name))[record.top : record.top + 16, record.left :][:, :16]
        np.testing.assert_array_equal(source[i], part)
        assert not source[i].flags.writeable
    assert source[-1] is not None
    with pytest.raises(IndexError, match="sub-image 60 of 60"):
        source[60]
    text = source.describe(13)
    assert text.startswith("1 at row 0, column 12 (record 13 of ")
    assert "part-00000" in text


def test_source_travels_to_workers_and_threads(several):
    source = PackedSource(several)
    expected = [source[i] for i in range(len(source))]
    copy = pickle.loads(pickle.dumps(source))
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).permutation(len(copy)):
            if (copy[i] != expected[i]).any():
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_few_files_are_open_at_a_time(several, monkeypatch):
    monkeypatch.setattr(packed, "_FILES_OPEN", 2)
    source = PackedSource(several)
    for i in np.random.default_rng(0).permutation(len(source)):
        source.read(int(i))
        assert len(source._readers) <= 2


def test_pairs_of_several_depths(tmp_path):
    import cv2

    rng = np.random.default_rng(0)
    for name in ("degraded", "clean"):
        (tmp_path / name).mkdir()
    degraded = rng.integers(0, 256, (30, 20, 3)).astype(np.uint8)
    clean = rng.integers(0, 65536, (30, 20, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "degraded" / "a.png"), degraded[..., ::-1])
    cv2.imwrite(str(tmp_path / "clean" / "a.png"), clean[..., ::-1])
    source = PairSource(pair_folders(tmp_path / "degraded", tmp_path / "clean"))
    target = tmp_path / "packed"
    pack(source, target, options=Options(16, 16))
    found = PackedSource(target / "manifest.json")
    assert found.is_pairs and len(found) == 4
    assert found.report.summary() == "4 sub-images of 1 pairs"
    for i in range(4):
        record = found.record(i)
        part = slice(record.top, record.top + 16), slice(record.left, record.left + 16)
        assert isinstance(found[i], Pair)
        np.testing.assert_array_equal(found[i].degraded, degraded[part])
        np.testing.assert_array_equal(found[i].clean, clean[part])


def test_stream_of_packed_photos(folder):
    task = Task("noise", "noise:5")
    options = {"batch_size": 8, "crop": 12, "seed": 0}
    classes = [TrainingClass(task, PackedSource(folder), "packed")]
    with make_batches(classes, **options) as stream:
        batches = [next(stream) for _ in range(6)]
    photos = set()
    for batch in batches:
        levels = np.rint(batch["clean"] * 255).astype(int)
        for crop in levels:
            assert len(np.unique(crop[..., 0] * 256 + crop[..., 1])) == 144  # one square of it
            photos.add(crop[0, 0, 2])
    assert photos == set(range(5))


def test_published_data_keep_their_share_in_several_packed_parts(tmp_path):
    rain, haze = resolve_tasks("rain,haze")
    texts = []
    for name in ("rain200h", "rain200l"):
        for side in ("rain", "norain"):
            images.write_image(tmp_path / f"{name}/{side}/1.png", photo(0) / 255)
        target = tmp_path / f"packed_{name}"
        source = PairSource(pair_folders(tmp_path / name / "rain", tmp_path / name / "norain"))
        pack(source, target, dataset=name, options=Options(size=16, stride=12))
        texts.append(f"packed:{target}")
    sources = {"rain": ";".join(texts)}
    (found, _) = open_classes((rain, haze), sources=sources, stage="restore", cache_megabytes=0)
    assert len(found.source) == 2 * 3 * 4
    assert found.task.repeats * len(found.source) == rain.published("restore")[1]


# --- damage --------------------------------------------------------------------------------------


def damage(path, record):
    """Changes one bit of a record's pixels."""
    data = bytearray(path.read_bytes())
    reader = packed.open_array_record(path)
    (content,) = reader.read([record])
    place = data.find(content[-400:])
    assert place > 0
    data[place + 100] ^= 4
    path.write_bytes(data)


def test_damaged_record_is_a_bad_file(several, caplog):
    clean = PackedSource(several)
    expected = clean.read(4).copy()
    damage(several / "part-00000.array_record", 3)
    source = PackedSource(several)
    for _ in range(2):
        np.testing.assert_array_equal(source[3], expected)  # the next in its place
    (message,) = [text for text in caplog.messages if "record 3 of" in text]
    assert "sub-image skipped (1 so far)" in message and "hash mismatch" in message
    np.testing.assert_array_equal(source[2], clean[2])
    with pytest.raises(images.ImageError, match=r"record 3 of .*on_bad_file=skip"):
        PackedSource(several, on_bad_file="refuse")[3]


def test_missing_and_cut_off_files_are_left_out(several, caplog):
    whole = PackedSource(several)
    path = several / "part-00001.array_record"
    path.write_bytes(path.read_bytes()[:-5])
    source = PackedSource(several)
    assert len(source) == len(whole) - 90
    np.testing.assert_array_equal(source[90], whole[180])
    assert "(90 in 1 damaged files left out)" in source.report.summary()
    assert "bytes, but" in caplog.text
    with pytest.raises(images.ImageError, match=r"part-00001.* bytes, but .* were written.*=skip"):
        PackedSource(several, on_bad_file="refuse")
    for file in several.glob("part-*"):
        file.unlink()
    with pytest.raises(images.ImageError, match=r"no sub-image in .*No such file"):
        PackedSource(several)


def test_folders_without_packed_data_are_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.json"):
        PackedSource(tmp_path)
    for text in ("{", "[]", '{"format": "other", "version": 1}', '{"format": 3}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(images.ImageError, match="is not a usable manifest"):
            PackedSource(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("inputs", None, "inputs is None"),
        ("inputs", -1, "inputs is -1, but must be an integer from 0"),
        ("inputs", 10**30, "inputs is 1000"),
        ("inputs", 1.0, r"inputs is 1\.0"),
        ("inputs", True, "inputs is True"),
        ("records", 3, "records is 3"),
        ("complete", 1, "complete is 1, but must be true or false"),
        ("kind", "x", "kind is 'x', but must be 'photos' or 'pairs'"),
        ("kind", ["photos"], r"kind is \['photos'\]"),
        ("format", 3, "format is 3"),
        ("version", 2, "version is 2"),
        ("options", {}, "options.size is missing; options.stride is missing"),
        ("options", 5, "options is 5"),
        ("options.size", "9", "options.size is '9'"),
        ("options.stride", 10**6, "options.stride is 1000000"),
        ("options.compression", "rar", "options.compression is 'rar'"),
        ("dataset", None, "dataset is None"),
        ("skipped", [["a"]], r"skipped is \[\['a'\]\]"),
        ("left_out", {"a": "b"}, "left_out is"),
        ("shards", {}, r"shards is \{\}"),
        ("shards", [5], r"shards\[0\]\.bytes is missing"),
        ("shards.0.file", "/etc/passwd", r"shards\[0\]\.file is '/etc/passwd'"),
        ("shards.0.file", "a\0b", r"shards\[0\]\.file is"),
        ("shards.0.records", "5", r"shards\[0\]\.records is '5'"),
        ("shards.0.records", -4, r"shards\[0\]\.records is -4"),
        ("shards.0.records", 2**40, r"shards\[0\]\.records is 1099511627776"),
        ("shards.0.inputs", 2**40, r"shards\[0\]\.inputs is"),
        ("shards.0.crc32", 2**33, r"shards\[0\]\.crc32 is"),
        # Possible values, which only the checksum of the manifest itself tells from the true ones.
        ("shards.0.crc32", 5, r"checksum is \d+, but must be \d+"),
        ("options.stride", 11, r"checksum is \d+, but must be \d+"),
        ("complete", False, r"checksum is \d+, but must be \d+"),
        ("skipped", [["a", "b"]], r"checksum is \d+, but must be \d+"),
        ("more", 1, r"checksum is \d+, but must be \d+"),
        ("checksum", None, "checksum is None"),
    ],
)
def test_wrong_values_of_a_manifest_are_named(folder, tmp_path, capsys, place, value, named):
    content = json.loads((folder / "manifest.json").read_text())
    *above, last = (int(key) if key.isdigit() else key for key in place.split("."))
    table = content
    for key in above:
        table = table[key]
    table[last] = value
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    for read in (PackedSource, verify):
        with pytest.raises(images.ImageError, match=rf"is not a usable manifest .*{named}"):
            read(tmp_path)
    images.write_image(tmp_path / "photos/a.png", np.zeros((8, 8, 3)))
    for command in (
        ["--verify", str(tmp_path)],
        [str(tmp_path / "photos"), "--output", str(tmp_path)],
    ):
        assert packing.main(command) == 2
        assert re.search(f"error: .*is not a usable manifest .*{named}", capsys.readouterr().err)


@pytest.mark.parametrize("content", ["[" * 100_000, "1" * 5000, "null", '"\\ud800"', "[1]"])
def test_manifests_that_are_not_tables_are_reported(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(images.ImageError, match="is not a usable manifest"):
        PackedSource(tmp_path)


def test_missing_records_are_reported(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    manifest = read_manifest(folder)
    (shard,) = manifest.shards
    other = dataclasses.replace(shard, records=shard.records + 7, crc32=shard.crc32 ^ 1)
    dataclasses.replace(manifest, shards=(other,)).write(tmp_path / "copy")
    problems = verify(tmp_path / "copy")
    assert len(problems) == 2 and "it holds 60 records, not 67" in problems[1]


def test_pairs_are_never_used_as_photos(folder):
    manifest = read_manifest(folder)
    dataclasses.replace(manifest, kind="pairs").write(folder)
    try:
        with pytest.raises(images.ImageError, match="its kind differs from that in the manifest"):
            PackedSource(folder).read(0)
    finally:
        manifest.write(folder)


def test_sub_images_smaller_than_the_crop_cause_a_warning(folder, caplog):
    one = TrainingClass(Task("noise", "noise"), PackedSource(folder), "packed")
    for crop, told in ((16, 0), (17, 1)):
        make_batches([one], batch_size=1, crop=crop, seed=0).close()
        assert len(caplog.messages) == told
    assert "sub-images of 16 pixels, which are extended to crops of 17" in caplog.text


def test_other_files_are_not_read_as_array_records(tmp_path):
    for content in (b"", b"no records" * 1000):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(images.ImageError, match="not a complete ArrayRecord file"):
            packed.open_array_record(tmp_path / "a")
