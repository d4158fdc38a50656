"""Lists of many files: small, in order, and kept from one start to the next."""

import os
import pickle
import time
from pathlib import Path

import pytest

from dcpt_jax import images
from dcpt_jax.data import listing
from dcpt_jax.data.listing import FileList, list_files

NAMES = ["-x.tif", "10.png", "9.png", "b.PNG", "sub/a.jpeg", "sub/deep/ü 写.webp", "sub.png"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder last changed an hour ago, and a user cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "_KEPT_FROM", 3)
    root = tmp_path / "photos"
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    settle(root)
    return root


def settle(root):
    before = time.time() - 3600
    for path in (root, *root.rglob("*")):
        if path.is_dir():
            os.utime(path, (before, before))


def count_scans(monkeypatch):
    scans = []
    scan = images.scan_images
    monkeypatch.setattr(images, "scan_images", lambda root: scans.append(root) or scan(root))
    return scans


def names(root):
    return [path.relative_to(root).as_posix() for path in list_files(root)]


def test_files_are_those_of_the_plain_list(folder):
    assert list(list_files(folder)) == images.list_images(folder)
    assert names(folder) == sorted(NAMES, key=lambda name: Path(name).parts)


def test_second_start_uses_the_kept_list(folder, monkeypatch):
    scans = count_scans(monkeypatch)
    first = names(folder)
    assert names(folder) == first and len(scans) == 1
    assert len(list((folder.parent / "cache/dcpt_jax/listings").iterdir())) == 1


@pytest.mark.parametrize("change", ["add", "remove", "rename", "deep", "new folder"])
def test_changes_are_noticed(folder, change):
    before = names(folder)
    if change == "add":
        (folder / "sub/new.png").write_bytes(b"")
    elif change == "remove":
        (folder / "9.png").unlink()
    elif change == "rename":
        (folder / "9.png").rename(folder / "8.png")
    elif change == "deep":
        (folder / "sub/deep/new.png").write_bytes(b"")
    else:
        (folder / "sub/more").mkdir()
        (folder / "sub/more/a.png").write_bytes(b"")
    assert names(folder) != before
    assert list(list_files(folder)) == images.list_images(folder)


def test_folder_that_has_just_changed_is_not_kept(folder, monkeypatch):
    """It may change again within the resolution of its time."""
    os.utime(folder / "sub")
    scans = count_scans(monkeypatch)
    names(folder), names(folder)
    assert len(scans) == 2


def test_what_was_left_out_is_kept_with_the_list(folder, monkeypatch):
    (folder / "sub/raw.dng").write_bytes(b"")
    settle(folder)
    scans = count_scans(monkeypatch)
    assert [list_files(folder).left_out for _ in range(2)] == [{".dng": 1}] * 2
    assert len(scans) == 1
    monkeypatch.undo()
    assert not list_files(folder, deep=False).left_out


@pytest.mark.parametrize("what", ["loop.png", "loop", "gone.png", "folder"])
def test_what_cannot_be_looked_at_is_told_and_hides_nothing_else(folder, monkeypatch, what):
    if what == "folder":  # one without permission; for the administrator there is none such
        scandir = os.scandir

        def scan(path):
            if Path(path) == folder / "sub/deep":
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", scan)
        path, expected = folder / "sub/deep", set(NAMES) - {"sub/deep/ü 写.webp"}
    else:
        path, expected = folder / "sub" / what, set(NAMES)
        path.symlink_to("nowhere" if what == "gone.png" else what)
    settle(folder)
    found = list_files(folder)
    assert set(found.names()) == expected
    ((told, reason),) = found.passed_by
    assert told == path and reason.startswith(f"{path}: cannot be looked ")
    assert list_files(folder).passed_by == found.passed_by  # the list was not kept
    assert not list_files(folder, deep=False).passed_by
    monkeypatch.undo()


def test_lists_are_joined(tmp_path):
    one, two = (FileList(tmp_path / x, ["1.png"], [(tmp_path / x, f"bad {x}")]) for x in "ab")
    found = listing.joined([one, two])
    assert list(found) == [*one, *two] and found.passed_by == one.passed_by + two.passed_by
    assert listing.joined([one]) is one


def test_short_lists_are_not_kept(folder, monkeypatch):
    monkeypatch.setattr(listing, "_KEPT_FROM", 100)
    names(folder)
    assert not (folder.parent / "cache").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", "cut"])
def test_broken_lists_are_made_anew(folder, content):
    expected = names(folder)
    (index,) = (folder.parent / "cache/dcpt_jax/listings").iterdir()
    index.write_bytes(index.read_bytes()[:200] if content == "cut" else content)
    assert names(folder) == expected


def test_cache_that_cannot_be_written(folder, monkeypatch):
    (folder.parent / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "file"))
    assert len(names(folder)) == len(NAMES)


def test_without_sub_folders(folder):
    assert list_files(folder, deep=False).names() == [
        "-x.tif",
        "10.png",
        "9.png",
        "b.PNG",
        "sub.png",
    ]


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        list_files(tmp_path / "gone")


def test_file_list_is_a_sequence(tmp_path):
    found = FileList(tmp_path, ["a.png", "ü/写.png", "b.png"])
    assert len(found) == 3 and list(found) == [found[i] for i in range(3)]
    assert found[1] == found[-2] == tmp_path / "ü/写.png"
    assert found.take([2, 0]).names() == ["b.png", "a.png"]
    for index in (3, -4):
        with pytest.raises(IndexError):
            found[index]
    assert list(FileList(tmp_path, [])) == [] and not FileList(tmp_path, [])
    assert list(pickle.loads(pickle.dumps(found))) == list(found)
    assert FileList("", ["/x/a.png"])[0] == Path("/x/a.png")


def test_names_that_are_no_text_survive(tmp_path):
    raw = os.fsencode(tmp_path) + b"/\xff.png"
    with open(raw, "wb"):
        pass
    (path,) = list_files(tmp_path)
    assert os.fsencode(path) == raw
    assert path.is_file()


def test_it_takes_little_memory():
    names = [f"folder_{i // 1000:04}/image_{i:07}.png" for i in range(20_000)]
    assert len(pickle.dumps(FileList("/data", names))) < 45 * len(names)
