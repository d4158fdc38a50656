"""Image files of a folder: selection, order, and memory of long lists."""

import os
import pickle
from pathlib import Path

import pytest

from dcpt_jax.images import listing
from dcpt_jax.images.listing import FileList, list_images

NAMES = ["-x.tif", "10.png", "9.png", "b.PNG", "sub/a.jpeg", "sub/deep/ü 写.webp", "sub.png"]


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_files_come_in_the_order_of_their_parts(folder):
    assert list_images(folder).names() == sorted(NAMES, key=lambda name: Path(name).parts)


def test_list_images(tmp_path):
    names = ["b.PNG", "10.png", "9.png", "sub/a.jpeg", "sub/deep/ü 写.webp", "-x.tif"]
    others = ["a.txt", "no_suffix", ".hidden.png", ".folder/a.png", "sub/.h/a.png"]
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == sorted(names)
    assert not list_images(str(tmp_path / "folder.png"))


def test_pictures_that_are_not_read_and_system_folders_are_counted(tmp_path):
    names = ["a.png", "b.dng", "c.DNG", "d.exr", "e.txt", ".f.dng", "sub/g.jp2", "sub/h.avif"]
    names += ["@eaDir/i.jpg", "sub/@eaDir/deep/j.jpg", "$RECYCLE.BIN/k.png", ".@__thumb/l.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = list_images(tmp_path)
    assert found.names() == ["a.png", "sub/h.avif"]
    assert listing.left_out_texts(found.left_out) == [
        "4 files not read: .dng (2), .exr (1), .jp2 (1)",
        "4 images skipped in $RECYCLE.BIN/ (1), .@__thumb/ (1), @eaDir/ (2)",
    ]
    top = list_images(tmp_path, deep=False)
    assert (top.names(), top.left_out[".jp2"]) == (["a.png"], 0)
    more = (".Trash-1000", "#snapshot", "RECYCLER", "Catalog Previews.lrdata")
    for name in more:
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.jpg").write_bytes(b"")
    left_out = list_images(tmp_path).left_out
    assert [left_out[f"{name}/"] for name in more] == [1] * len(more)
    assert listing.left_out_texts({".dng": 1}) == ["1 file not read: .dng"]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/x.cr3").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"no images .*; 1 file not read: \.cr3"):
        listing.find_images(tmp_path / "raw")


def test_a_link_that_leads_nowhere_hides_nothing_else(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert listing.find_images(tmp_path) == ([tmp_path / "a.png"], {})
    assert f"skipped: {tmp_path / 'loop.png'}: cannot be accessed (" in caplog.text


def test_list_images_of_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        list_images(tmp_path / "gone")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match=r"a\.png"):
        list_images(tmp_path / "a.png")


@pytest.mark.parametrize("what", ["loop.png", "loop", "gone.png", "folder"])
def test_inaccessible_entries_are_reported(folder, monkeypatch, what):
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
    found = list_images(folder)
    assert set(found.names()) == expected
    ((told, reason),) = found.inaccessible
    assert told == path and reason.startswith(f"{path}: cannot be ")
    assert not list_images(folder, deep=False).inaccessible
    monkeypatch.undo()


def test_lists_are_joined(tmp_path):
    one, two = (FileList(tmp_path / x, ["1.png"], [(tmp_path / x, f"bad {x}")]) for x in "ab")
    found = listing.concatenate([one, two])
    assert list(found) == [*one, *two] and found.inaccessible == one.inaccessible + two.inaccessible
    assert listing.concatenate([one]) is one


def test_without_sub_folders(folder):
    assert list_images(folder, deep=False).names() == [
        "-x.tif",
        "10.png",
        "9.png",
        "b.PNG",
        "sub.png",
    ]


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
    (path,) = list_images(tmp_path)
    assert os.fsencode(path) == raw
    assert path.is_file()


def test_it_takes_little_memory():
    names = [f"folder_{i // 1000:04}/image_{i:07}.png" for i in range(20_000)]
    assert len(pickle.dumps(FileList("/data", names))) < 45 * len(names)
