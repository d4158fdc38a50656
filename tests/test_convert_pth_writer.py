import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from dcpt_jax.convert.pth import read_pth
from dcpt_jax.convert.pth_writer import write_pth

RNG = np.random.default_rng(0)
STATE = {
    "conv.weight": RNG.standard_normal((3, 5, 2, 2)).astype(np.float32),
    "transposed": RNG.standard_normal((4, 3)).astype(np.float32).T,
    "scalar": np.array(3.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "half": RNG.standard_normal(3).astype(np.float16),
    "bfloat16": RNG.standard_normal(3).astype(ml_dtypes.bfloat16),
    "double": RNG.standard_normal(3),
    "big_endian": np.arange(3, dtype=">f4"),
    "integers": np.arange(3),
    "of.another.späte.name": np.ones(1, np.float32),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("pth") / "net.pth"
    write_pth(path, STATE)
    return path


def test_our_reader_returns_the_written_arrays(written):
    content = read_pth(written)
    assert list(content) == ["params"]
    assert list(content["params"]) == list(STATE)
    for name, value in STATE.items():
        found = content["params"][name]
        assert found.shape == value.shape and found.dtype == value.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found, value)


def test_storages_lie_at_multiples_of_64_bytes_and_uncompressed(written):
    content = written.read_bytes()
    with zipfile.ZipFile(written) as archive:
        assert archive.testzip() is None
        entries = archive.infolist()
    assert entries[0].filename == "archive/data.pkl"
    assert {"archive/version", "archive/byteorder"} <= {entry.filename for entry in entries}
    for entry in entries:
        begin = entry.header_offset
        name, extra = struct.unpack("<HH", content[begin + 26 : begin + 30])
        assert entry.compress_type == zipfile.ZIP_STORED
        assert (begin + 30 + name + extra) % 64 == 0, entry.filename


def test_the_same_weights_give_the_same_bytes(written, tmp_path):
    write_pth(tmp_path / "again.pth", STATE)
    assert (tmp_path / "again.pth").read_bytes() == written.read_bytes()


def test_a_dtype_that_pytorch_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"dtypes: a \(uint32\)"):
        write_pth(tmp_path / "net.pth", {"a": np.zeros(3, np.uint32)})
    assert not (tmp_path / "net.pth").exists()


@pytest.mark.parametrize("options", [{}, {"mmap": True}, {"weights_only": False}])
def test_pytorch_loads_it(written, options):
    torch = pytest.importorskip("torch")
    loaded = torch.load(written, **{"weights_only": True, **options})["params"]
    assert type(loaded).__name__ == "OrderedDict" and list(loaded) == list(STATE)
    for name, value in STATE.items():
        found = loaded[name]
        assert tuple(found.shape) == value.shape and found.is_contiguous()
        assert found.data_ptr() % 64 == 0
        assert found.untyped_storage().nbytes() == value.nbytes
        expected = value.astype(np.float64)
        np.testing.assert_array_equal(found.double().numpy(), expected)
        assert str(found.dtype).removeprefix("torch.") == value.dtype.newbyteorder("=").name


def test_pytorch_loads_it_strictly_into_a_module(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2, bias=False))
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    write_pth(tmp_path / "net.pth", state)
    fresh = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2, bias=False))
    fresh.load_state_dict(torch.load(tmp_path / "net.pth")["params"], strict=True)
    for name, value in fresh.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[name])


def test_pytorch_s_own_files_of_both_layouts_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    # Those dtypes that PyTorch takes from NumPy, in native byte order.
    state = {
        name: torch.from_numpy(np.ascontiguousarray(value))
        for name, value in STATE.items()
        if name not in ("bfloat16", "big_endian")
    }
    state["bfloat16"] = torch.tensor([1.5, -2.0]).to(torch.bfloat16)
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pth"
        torch.save({"params": state}, path, _use_new_zipfile_serialization=zipped)
        found = read_pth(path)["params"]
        np.testing.assert_array_equal(found["bfloat16"].astype(np.float32), [1.5, -2.0])
        for name in state.keys() - {"bfloat16"}:
            np.testing.assert_array_equal(found[name], STATE[name])
