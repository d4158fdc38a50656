import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from dcpt_jax.convert.files import read_checkpoint
from dcpt_jax.convert.recognise import recognise, state_dict_of
from tests.golden import recording


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html><title>Google Drive</title>", "web page"),
        (b"\xef\xbb\xbf<html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b'{"weight_map": {"a": "model-1.safetensors"}}', "JSON text"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "HDF5 file"),
        (b"\x1f\x8b\x08" + bytes(600), "gzip archive; unpack"),
        (bytes(257) + b"ustar" + bytes(300), "tar archive"),
        (b"404: Not Found", "text, not weights; it begins '404: Not Found'"),
        ("network_g:\n  type: Größe\n".encode(), "text, not weights"),
        (b"import torch\n", "text, not weights"),
        (bytes(600), "zeros from its beginning on"),
        (b"\0\0\0\x18ftypmp42" + bytes(600), "film"),
        (b"\x08\x07\x12\x07pytorch" + bytes(600), "ONNX program"),
        (b"\x89PNG\r\n", r"an image; `python -m dcpt_jax\.restore`"),
    ],
)
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_files_of_other_kinds_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is .*{message}"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.ckpt.index", b"\0\0\x1c\x08\1" + bytes(300), "a TensorFlow checkpoint"),
        ("model.ckpt.data-00000-of-00001", bytes(range(1, 256)), "a TensorFlow checkpoint"),
        ("saved_model.pb", b"\x08\1\x12\xd6" + bytes(300), "a TensorFlow checkpoint"),
        ("checkpoint", b'model_checkpoint_path: "model.ckpt-1"\n', "a TensorFlow checkpoint"),
        ("._net.pth", b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(300), "attributes that macOS keeps"),
        ("net.pth", b"\x04\x22M\x18" + bytes(range(256)), "LZ4 archive; unpack"),
        ("net.pth", bytes(range(33, 256)) * 3, "neither a zip archive nor the older layout"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("size", [0x7B, 0x227B, 0x088B1F])  # begin as JSON and gzip do
def test_the_header_size_of_other_formats_is_not_used(tmp_path, size):
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    content = size.to_bytes(8, "little") + json.dumps(header).encode().ljust(size) + bytes(4)
    (tmp_path / "net.pth").write_bytes(content)
    assert read_checkpoint(tmp_path / "net.pth") == {"a": np.float32([0])}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["net/data.pkl", "net/code/__torch__.py", "net/constants.pkl"], "TorchScript program"),
        (["readme.txt", "weights/net_g.pth"], r"unpack it .*: weights/net_g\.pth"),
        (["w/model.json", "w/d/0123"], "an archive of a weights folder; unpack it"),
    ],
)
def test_archives_of_other_kinds_are_named(tmp_path, entries, message):
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        for entry in entries:
            archive.writestr(entry, b"\x80\x02c__torch__\nNet\n)\x81.")
    with pytest.raises(ValueError, match=rf"net\.pth: .*{message}"):
        read_checkpoint(tmp_path / "net.pth")


@pytest.mark.parametrize("name", ["model.json", "manifest.ocdbt"])
def test_a_part_of_a_weights_folder_is_named(tmp_path, name):
    (tmp_path / "model.json").write_text('{"format": 1}')
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"a part of the weights folder {tmp_path}; give the"):
        read_checkpoint(tmp_path / name)


def test_beginnings_of_files_are_no_text(tmp_path):
    (tmp_path / "net.pth").write_bytes(b"\x80")
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint(tmp_path / "net.pth")


def test_an_archive_that_was_cut_off_is_named(tmp_path):
    (tmp_path / "net.pth").write_bytes(b"PK\x03\x04" + bytes(600))
    with pytest.raises(ValueError, match=r"net\.pth: a zip archive without its end"):
        read_checkpoint(tmp_path / "net.pth")


def test_a_numpy_archive_is_named(tmp_path):
    np.savez(tmp_path / "net.npz", a=np.zeros(3))
    (tmp_path / "net.npz").rename(tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"net\.pth: a NumPy archive .*safetensors"):
        read_checkpoint(tmp_path / "net.pth")


def test_special_files_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(ValueError, match=r"pipe\.pth is a pipe or device"):
        read_checkpoint(tmp_path / "pipe.pth")
    (tmp_path / "net_g.pth").touch()
    with pytest.raises(IsADirectoryError, match=r"is a folder; .*: net_g\.pth, pipe"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "missing.pth")


@pytest.mark.parametrize(
    "content",
    [
        {"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-4}]},
        {"epoch": 3, "iter": 1000, "optimizers": [], "schedulers": []},
    ],
)
def test_an_optimizer_s_state_is_named(content):
    with pytest.raises(ValueError, match=r"state of an optimizer; .*net_g_N\.pth"):
        state_dict_of(content)


def test_the_recorded_training_state_is_named():
    with pytest.raises(ValueError, match="state of an optimizer"):
        state_dict_of(read_checkpoint(recording("pth/training.state")))


def test_a_plain_pickle_is_no_checkpoint(tmp_path):
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"x\.pth: not a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "x.pth")


X = np.zeros((4, 4, 1, 1), np.float32)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["encoders.0.0.conv1.weight", "encoders.0.0.se.1.weight"], r"se\.1\.weight: .*Baseline"),
        (["body.0.blk.conv1.weight", "body.0.fusion.beta"], "NAFSSR, which enlarges pairs"),
        (["body.0.module.blk.conv1.weight"], "NAFSSR, which enlarges pairs"),
    ],
)
def test_other_variants_of_nafnet_are_named(names, message):
    with pytest.raises(ValueError, match=message):
        recognise(dict.fromkeys(names, X))
