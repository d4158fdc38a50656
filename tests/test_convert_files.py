import numpy as np
import pytest

from dcpt_jax.convert import files
from dcpt_jax.convert.pth_writer import write_pth
from dcpt_jax.convert.safetensors_files import write_safetensors
from tests.golden import recording

STATE = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}


def test_the_content_decides_which_reader_reads(tmp_path):
    write_pth(tmp_path / "pth.safetensors", STATE)
    write_safetensors(tmp_path / "safetensors.pth", STATE)
    read = files.read_checkpoint(tmp_path / "pth.safetensors")
    np.testing.assert_array_equal(read["params"]["a.weight"], STATE["a.weight"])
    read = files.read_checkpoint(tmp_path / "safetensors.pth")
    np.testing.assert_array_equal(read["a.weight"], STATE["a.weight"])


def test_old_pytorch_files_are_distinguished_from_safetensors():
    content = files.read_checkpoint(recording("pth/tricky_legacy.pth"))
    assert "params" in content


def test_the_suffix_decides_who_complains(tmp_path):
    for suffix, message in (
        (".pth", "not a PyTorch checkpoint"),
        (".safetensors", "not a safetensors"),
    ):
        path = tmp_path / f"net{suffix}"
        path.write_bytes(b"\xfe\xed\x00 neither the one nor the other")
        with pytest.raises(ValueError, match=rf"net\{suffix}: .*{message}"):
            files.read_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        files.read_checkpoint(tmp_path / "missing.pth")


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.safetensors", "NET.PTH"])
def test_the_suffix_selects_the_written_format(tmp_path, name):
    assert files.is_file_name(name)
    path = tmp_path / "new" / "folder" / name
    files.write_checkpoints({path: STATE})
    content = files.read_checkpoint(path)
    state = content["params"] if "pt" in path.suffix.lower() else content
    np.testing.assert_array_equal(state["a.weight"], STATE["a.weight"])
    assert [entry.name for entry in path.parent.iterdir()] == [name]
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_folders_are_no_file_names():
    assert not any(files.is_file_name(name) for name in ("weights", "w/", "net.onnx", ".pth/w"))


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_only_the_old_file(tmp_path, monkeypatch, error):
    old, fresh = tmp_path / "net.pth", tmp_path / "classifier.safetensors"
    old.write_text("old")

    def fail(path, state):
        path.write_bytes(b"the first half")
        raise error

    monkeypatch.setitem(files._WRITERS, ".safetensors", fail)
    with pytest.raises(type(error)):
        files.write_checkpoints({old: STATE, fresh: STATE})
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.pth"]
    assert old.read_text() == "old"
