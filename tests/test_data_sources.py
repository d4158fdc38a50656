"""Sources of photos: files found, files skipped, and reports."""

import importlib.util
import logging
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from dcpt_jax import images
from dcpt_jax.data import classes, photos, sources, spec, tasks
from dcpt_jax.data.photos import PhotoSource
from dcpt_jax.data.source_factory import open_source
from dcpt_jax.data.spec import SourceError
from dcpt_jax.images import listing


@pytest.fixture
def folder(tmp_path):
    """Five photos, each of one colour: photo number i has the value 40 * i."""
    for i in range(5):
        images.write_image(tmp_path / f"{i}.png", np.full((8, 9, 3), 40 * i / 255))
    return tmp_path


def spoil(path):
    """Changes the pixel data, which only decoding detects."""
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def values(source):
    return [int(source[i].mean()) for i in range(len(source))]


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_bundled_photos_are_there(split):
    paths = photos.bundled_photos(split)
    assert len(paths) == len(photos._SPLITS[split])
    source = PhotoSource(paths, on_bad_file="refuse")
    for i in range(len(paths)):
        assert min(source[i].shape[:2]) >= 128


def test_no_photo_is_both_trained_on_and_held_out():
    assert not set(photos.TRAIN_PHOTOS) & set(photos.HELD_OUT_PHOTOS)


def test_unknown_split():
    with pytest.raises(ValueError, match="unknown split 'test'; known: train, held_out"):
        photos.bundled_photos("test")


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r'extra "train" \(scikit-image is not .*--config\.data\.root'
    ):
        photos.bundled_photos("train")


def test_photo_missing_in_the_package_is_named(monkeypatch):
    monkeypatch.setitem(photos._SPLITS, "train", ("skimage/data/gone.png",))
    with pytest.raises(FileNotFoundError, match=r"scikit-image has no data/gone\.png"):
        photos.bundled_photos("train")


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_folder_without_photos(folder, kind):
    path = {"missing": folder / "gone", "file": folder / "0.png", "empty": folder / "e"}[kind]
    if kind == "empty":
        path.mkdir()
        (path / "notes.txt").write_text("no image")
        (path / "a.dng").touch()
    task = tasks.resolve_tasks("rain")
    opened = classes.open_classes(task)
    for open_data, keys in (
        (lambda: classes.open_classes(task, root=str(path)), ["--config.data.root"]),
        (
            lambda: classes.validation_classes(opened, held_out_root=str(path)),
            ["--config.validation.root"],
        ),
        (lambda: open_source(f"photos:{path}"), []),
    ):
        with pytest.raises(FileNotFoundError, match=re.escape(str(path))) as caught:
            open_data()
        message = str(caught.value)
        assert re.findall(r"--config\.\w*\.root", message) == keys
        if kind == "empty":
            assert ".jpeg" in message and message.endswith("; 1 file not read: .dng")


def test_bad_files_are_left_out_at_the_start(folder, caplog):
    (folder / "1.png").write_bytes(b"")
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[: len(whole) // 2])
    source = PhotoSource(listing.images_in(folder))
    assert values(source) == [0, 80, 160]
    report = source.report
    assert (report.total, len(source), report.checked) == (5, 3, True)
    assert [path.name for path, _ in report.skipped] == ["1.png", "3.png"]
    assert "empty" in report.skipped[0][1]
    assert report.summary() == "3 photos (2 of 5 files left out as unreadable)"
    assert re.search(r"1\.png: the file is empty", caplog.text)
    assert re.search(r"3\.png: truncated", caplog.text)


def test_many_bad_files_are_counted_and_not_all_named(tmp_path, caplog):
    images.write_image(tmp_path / "good.png", np.zeros((4, 4, 3)))
    for i in range(30):
        (tmp_path / f"bad{i:02}.png").write_bytes(b"")
    source = PhotoSource(listing.images_in(tmp_path))
    assert len(source.report.skipped) == 30
    assert len(caplog.records) == sources.NAMED_LIMIT + 1
    assert "10 more" in caplog.messages[-1]


def test_bad_file_is_refused_at_the_start(folder):
    (folder / "1.png").write_bytes(b"")
    with pytest.raises(images.ImageError, match=r"1\.png: .*--config\.data\.on_bad_file=skip"):
        PhotoSource(listing.images_in(folder), on_bad_file="refuse")


def test_only_bad_files(tmp_path):
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(images.ImageError, match=r"none of 1 photos .*1\.png: the file is empty"):
        PhotoSource([tmp_path / "1.png"])


def test_bad_arguments(folder):
    with pytest.raises(ValueError, match="on_bad_file must be 'skip' or 'refuse', not 'ignore'"):
        PhotoSource([folder / "0.png"], on_bad_file="ignore")
    with pytest.raises(ValueError, match="cache_megabytes must be 0 or larger, not -1"):
        PhotoSource([folder / "0.png"], cache=-1)
    with pytest.raises(ValueError, match="at least one file"):
        PhotoSource([])


def test_too_many_files_are_not_checked_before_the_run(folder, monkeypatch):
    monkeypatch.setattr(sources, "CHECK_LIMIT", 4)
    (folder / "1.png").write_bytes(b"")
    source = PhotoSource(listing.images_in(folder))
    assert not source.report.checked
    assert "too many" in source.report.summary()
    assert values(source) == [0, 80, 80, 120, 160]


def test_file_that_fails_in_decoding_is_replaced_by_the_next(folder, caplog):
    for i in (1, 2, 4):
        spoil(folder / f"{i}.png")
    source = PhotoSource(listing.images_in(folder))
    assert values(source) == values(source) == [0, 120, 120, 120, 0]
    assert sorted(source.unreadable) == [1, 2, 4]
    assert len(caplog.records) == 3  # each named once, however often it is asked for
    assert re.search(r"photo skipped \(1 so far\): .*1\.png: damaged", caplog.messages[0])
    with pytest.raises(images.ImageError, match=r"1\.png"):
        source.read(1)


def test_replacement_does_not_depend_on_earlier_reads(folder):
    for i in (1, 2):
        spoil(folder / f"{i}.png")
    forward, backward = (PhotoSource(listing.images_in(folder)) for _ in range(2))
    expected = values(forward)
    assert [int(backward[i].mean()) for i in range(4, -1, -1)] == expected[::-1]


def test_file_that_fails_in_decoding_is_refused(folder):
    spoil(folder / "1.png")
    source = PhotoSource(listing.images_in(folder), on_bad_file="refuse")
    assert source[0].mean() == 0
    with pytest.raises(images.ImageError, match=r"1\.png: .*checksum.*on_bad_file=skip"):
        source[1]


def test_all_files_fail_in_decoding(folder):
    for i in range(5):
        spoil(folder / f"{i}.png")
    with pytest.raises(images.ImageError, match="none of 5 photos can be read"):
        PhotoSource(listing.images_in(folder))[2]


def test_cache_is_bounded_and_drops_the_oldest(folder, monkeypatch):
    decoded = []
    read = images.read_pixels
    monkeypatch.setattr(
        images, "read_pixels", lambda path, **k: decoded.append(path.stem) or read(path, **k)
    )
    size = 8 * 9 * 3
    source = PhotoSource(listing.images_in(folder), cache=2.5 * size / 1e6)
    for i in (0, 1, 0, 2, 0, 1):
        assert int(source[i].mean()) == 40 * i
        assert source._cache.bytes <= 2.5 * size
    assert decoded == ["0", "1", "2", "1"]
    without = PhotoSource(listing.images_in(folder), cache=0)
    decoded.clear()
    assert int(without[1].mean()) == int(without[1].mean()) == 40
    assert decoded == ["1", "1"]


def test_cached_photos_cannot_be_changed(folder):
    source = PhotoSource(listing.images_in(folder))
    with pytest.raises(ValueError, match="read-only"):
        source[0][0] = 1


def test_index_out_of_range(folder):
    source = PhotoSource(listing.images_in(folder))
    assert source[-1].mean() == 160
    for index in (5, -6):
        with pytest.raises(IndexError, match=f"photo {index} of 5"):
            source[index]


def test_pickled_source_leaves_the_cache_behind(folder):
    spoil(folder / "1.png")
    source = PhotoSource(listing.images_in(folder))
    before = len(pickle.dumps(source))
    expected = values(source)
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy._cache) == 0
    assert values(copy) == expected
    assert len(pickle.dumps(source)) < before + 300  # only the reason for 1.png is added


def test_16_bit_photos_keep_their_depth(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 4, 3), 999, np.uint16))
    pixels = PhotoSource([tmp_path / "a.png"])[0]
    assert (pixels.dtype, pixels[0, 0, 0]) == (np.uint16, 999)


def test_names_are_unique(tmp_path):
    for name in ("a/x.png", "b/x.png", "a/y.png", "a/y.jpg", "z.png"):
        images.write_image(tmp_path / name, np.zeros((4, 4, 3)))
    source = PhotoSource(listing.images_in(tmp_path))
    names = dict(
        zip((p.relative_to(tmp_path).as_posix() for p in source.paths), source.names, strict=True)
    )
    assert names["z.png"] == "z"
    assert names["a/y.png"] == "y.png"
    assert names["a/x.png"] == "a/x.png"
    assert len(set(names.values())) == 5


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("a.png a.jpg a.png.jpg", "a.png a.jpg a.png.jpg"),
        ("a/x.png b/x.png z.png", "a/x.png b/x.png z"),
        ("c/a/x.png c/b/x.png", "a/x.png b/x.png"),
        ("x.png x.png", "x.png#0 x.png#1"),
    ],
)
def test_names_do_not_depend_on_how_a_folder_is_spelled(tmp_path, monkeypatch, files, expected):
    monkeypatch.chdir(tmp_path)
    for root in ("", f"{tmp_path}/", "../", f"../{tmp_path.name}/"):
        found = sources.unique_names([Path(root + file) for file in files.split()])
        assert found == tuple(expected.split())


def test_warnings_come_from_this_packages_logger(folder, caplog):
    (folder / "1.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="dcpt_jax"):
        PhotoSource(listing.images_in(folder))
    assert caplog.records[0].name.startswith("dcpt_jax.")


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ('photos:"a;b"', [("photos", "a;b")]),
        (' photos:a ; photos:"b; c" ;', [("photos", "a"), ("photos", "b; c")]),
        ('photos:a;photos:19"b', [("photos", "a"), ("photos", '19"b')]),
        ('pairs:"a,b","c;d",order', [("pairs", '"a,b","c;d",order')]),
        ('rain100l:"a;b"', [("rain100l", "a;b")]),
    ],
)
def test_names_with_separators_are_quoted(text, specs):
    assert spec.parse(text) == specs


def test_names_with_separators_are_quoted_in_pairs_and_lists():
    assert spec.parse_pairs('"a,b","c;d",order') == ("a,b", "c;d", "order")
    assert spec.parse_list('"a,clean_first"') == ("a,clean_first", False)
    assert spec.parse_list('"a;b",clean_first') == ("a;b", True)
    for text in ("photos:a;b", "pairs:a,b,c,d", "pairs:a,,b"):
        with pytest.raises(SourceError, match="needs double quotes"):
            spec.parse(text)
