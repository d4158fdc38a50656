import os

import pytest

from dcpt_jax import files


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"
    files.write_text(path, "first")
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", [float("nan")])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_can_be_written_is_made_and_left_empty(tmp_path):
    files.check_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        files.check_writable(tmp_path / "file")


def test_names_that_are_not_text_can_be_written(tmp_path):
    files.write_text(tmp_path / "a.txt", os.fsdecode(b"photo_\xff.png"))
    assert (tmp_path / "a.txt").read_text() == "photo_\\udcff.png"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~", "HOME"),
        ("~/photos", "HOME/photos"),
        ("pairs:~/rain,~/clean,reside", "pairs:HOME/rain,HOME/clean,reside"),
        ("photos:/a;photos:~/b", "photos:/a;photos:HOME/b"),
        ("/data/~backup/a~b", "/data/~backup/a~b"),
        ("$ROOT/photos", "HOME/photos"),
        ("pairs:${ROOT}/rain,$ROOT/clean", "pairs:HOME/rain,HOME/clean"),
        ("/data/$ROOT", "/data/$ROOT"),
        ("$RECYCLE.BIN/a", "$RECYCLE.BIN/a"),
        ("~temporary.png", "~temporary.png"),
        ("5d", "5d"),
    ],
)
def test_the_home_folder_is_expanded_where_paths_begin(monkeypatch, text, expected):
    for name in ("HOME", "ROOT"):
        monkeypatch.setenv(name, "/home/me")
    assert files.expand_home(text) == expected.replace("HOME", "/home/me")


@pytest.mark.parametrize("start", ["~nobody-of-this-name", "$NOT_SET_ANYWHERE"])
def test_no_folder_is_named_after_who_does_not_exist(start, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no such (user|environment variable)"):
        files.expand_home(f"photos:{start}/a")
    monkeypatch.chdir(tmp_path)
    (tmp_path / start).mkdir()
    assert files.expand_home(f"{start}/a") == f"{start}/a"


def test_file_systems_without_modes(tmp_path, monkeypatch):
    def refuses(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(type(tmp_path), "chmod", refuses)
    files.write_bytes(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"


def test_a_file_where_a_folder_is_needed_is_named(tmp_path):
    (tmp_path / "a").touch()
    for write in (
        lambda: files.write_text(tmp_path / "a/b", ""),
        lambda: files.check_writable(tmp_path / "a"),
    ):
        with pytest.raises(NotADirectoryError, match=f"is a file, not a folder: '{tmp_path}/a'"):
            write()


def test_paths_are_named_by_as_much_as_tells_them_apart(tmp_path):
    paths = [tmp_path / name for name in ("a/restore", "b/restore", "pretrain")]
    assert list(files.short_names(paths).values()) == ["a/restore", "b/restore", "pretrain"]
