import json
import struct

import ml_dtypes
import numpy as np
import pytest

from dcpt_jax.convert.safetensors_files import (
    SafetensorsError,
    looks_like_safetensors,
    read_safetensors,
    write_safetensors,
)
from tests.test_convert_pth_writer import STATE


def write_raw(path, header, data=b"", size=None):
    """A file with this header, valid or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)
    return path


def test_there_and_back_with_every_dtype(tmp_path):
    path = tmp_path / "net.safetensors"
    write_safetensors(path, STATE)
    found = read_safetensors(path)
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        assert found[name].shape == value.shape
        assert found[name].dtype == value.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], value)
    found["conv.weight"][:] = 0  # independent of the file
    np.testing.assert_array_equal(read_safetensors(path)["conv.weight"], STATE["conv.weight"])


def test_the_file_is_marked_as_pytorch(tmp_path):
    path = tmp_path / "net.safetensors"
    write_safetensors(path, STATE)
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert header["bfloat16"]["dtype"] == "BF16" and header["half"]["dtype"] == "F16"
    assert looks_like_safetensors(path)


def test_a_dtype_that_such_files_do_not_know_is_refused(tmp_path):
    with pytest.raises(SafetensorsError, match=r"net\.safetensors"):
        write_safetensors(tmp_path / "net.safetensors", {"a": np.zeros(3, np.longdouble)})


def test_numbers_of_eight_bits_are_named(tmp_path):
    path = write_raw(tmp_path / "net.safetensors", {"a": tensor("F8_E4M3", (8,))}, bytes(8))
    with pytest.raises(
        SafetensorsError, match=r"float8_e4m3\w* numbers are not supported; save it"
    ):
        read_safetensors(path)


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "data", "size"),
    [
        (b"", b"", None),  # empty header
        (b"not json", b"", None),
        (b"[1, 2]", b"", None),
        (b"{" * 100_000, b"", None),
        ({"a": tensor()}, b"1234567", None),  # a byte less than announced
        ({"a": tensor()}, b"123456789", None),  # and one more
        ({"a": tensor()}, b"12345678", 2**63),  # header past the end
        ({"a": tensor()}, b"12345678", 10),  # header cut
        ({"a": tensor(shape=(2**62, 4))}, b"12345678", None),  # a product that overflows
        ({"a": tensor(shape=(10**9,), offsets=(0, 4 * 10**9))}, b"12345678", None),
        ({"a": tensor(shape=(-2,))}, b"12345678", None),
        ({"a": tensor(offsets=(8, 0))}, b"12345678", None),
        ({"a": tensor(offsets=(-8, 0))}, b"12345678", None),
        ({"a": tensor(), "b": tensor()}, b"12345678", None),  # the same bytes twice
        ({"a": tensor(), "b": tensor(offsets=(4, 12))}, b"123456781234", None),  # overlapping
        ({"a": tensor(offsets=(4, 12))}, b"123456781234", None),  # a hole
        ({"a": tensor(shape=(3,))}, b"12345678", None),
        ({"a": tensor("F99")}, b"12345678", None),
        ({"a": tensor("F8_E4M3", (8,))}, b"12345678", None),  # NumPy has no such type
        ({"a": {"dtype": "F32"}}, b"", None),
        ({"a": 3}, b"", None),
    ],
)
def test_hostile_and_damaged_files_are_refused_by_name(tmp_path, header, data, size):
    path = write_raw(tmp_path / "net.safetensors", header, data, size)
    with pytest.raises(SafetensorsError, match=r"net\.safetensors: "):
        read_safetensors(path)


def test_an_oversized_header_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / "net.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**30))
        file.truncate(2**30 + 8)  # sparse: takes no room on disk
    with pytest.raises(SafetensorsError, match="refused: its header of 1,073,741,824 bytes"):
        read_safetensors(path)


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    write_safetensors(path, STATE)
    content = path.read_bytes()
    for keep in np.linspace(0, len(content) - 1, 40).astype(int):
        path.write_bytes(content[:keep])
        with pytest.raises(SafetensorsError, match=r"net\.safetensors: "):
            read_safetensors(path)


def test_flipped_bytes_give_numbers_or_a_refusal(tmp_path):
    path = tmp_path / "net.safetensors"
    write_safetensors(path, STATE)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        changed = bytearray(content)
        changed[rng.integers(8 + 600)] = rng.integers(256)
        path.write_bytes(changed)
        try:
            arrays = read_safetensors(path)
        except SafetensorsError:
            refused += 1
        else:
            assert sum(array.nbytes for array in arrays.values()) <= len(content)
    assert refused > 100


def test_a_missing_file_raises_its_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_safetensors(tmp_path / "missing.safetensors")
    with pytest.raises(OSError):
        write_safetensors(tmp_path / "missing" / "net.safetensors", STATE)


def test_pytorch_s_library_reads_and_writes_the_same(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    path = tmp_path / "net.safetensors"
    write_safetensors(path, STATE)
    loaded = load_file(path)
    for name, value in STATE.items():
        assert tuple(loaded[name].shape) == value.shape
        np.testing.assert_array_equal(loaded[name].double().numpy(), value.astype(np.float64))
    tensors = {"b": torch.tensor([1.5, 2.5]).to(torch.bfloat16), "h": torch.ones(2, 3).half()}
    save_file(tensors, path)
    found = read_safetensors(path)
    assert found["b"].dtype == ml_dtypes.bfloat16 and found["h"].dtype == np.float16
    np.testing.assert_array_equal(found["b"].astype(np.float32), [1.5, 2.5])
