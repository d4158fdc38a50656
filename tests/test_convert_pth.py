import argparse
import collections
import datetime
import io
import os
import pathlib
import pickle
import time
import zipfile

import ml_dtypes
import numpy as np
import pytest

from dcpt_jax.convert import pth
from dcpt_jax.convert.pth import PthError, read_pth
from tests.golden import read_arrays, recording, rule_weights


def flatten(tree, prefix=""):
    """Arrays of a nested container by dotted name."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flatten(value, f"{prefix}{key}.")
    elif isinstance(tree, np.ndarray):
        yield prefix.rstrip("."), tree


class Storage:
    """Pickles as a PyTorch storage's persistent id."""

    def __init__(self, kind, key, count):
        self.identity = ("storage", Global("torch", kind), key, "cpu", count)


class Global:
    """Pickles as a reference to module.name."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self, *arguments):
        return Call(self, arguments)


class Call:
    def __init__(self, function, arguments):
        self.function, self.arguments = function, arguments


class Raw:
    """Pickles as the instructions given."""

    def __init__(self, instructions):
        self.instructions = instructions


class Pickler(pickle._Pickler):
    """Writes a file like PyTorch's, from stand-ins, so that no test needs PyTorch."""

    def persistent_id(self, value):
        return value.identity if isinstance(value, Storage) else None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Raw):
            self.write(value.instructions)
        elif isinstance(value, Global):
            self.write(f"c{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Call):
            self.save(value.function)
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(value, save_persistent_id)


def tensor(key, count, size, stride, offset=0, kind="FloatStorage"):
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return rebuild(
        Storage(kind, key, count), offset, size, stride, False, collections.OrderedDict()
    )


def pickled(value):
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def write_zip(path, value, storages=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(value))
        archive.writestr("archive/byteorder", "little")
        for key, array in dict(storages).items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path


DATA = np.arange(12, dtype=np.float32)


def test_tensors_views_and_plain_values(tmp_path):
    value = {
        "whole": tensor("0", 12, (3, 4), (4, 1)),
        "transposed": tensor("0", 12, (4, 3), (1, 4)),
        "part": tensor("0", 12, (2,), (2,), offset=5),
        "expanded": tensor("0", 12, (2, 3), (0, 1)),
        "scalar": tensor("0", 12, (), (), offset=7),
        "empty": tensor("0", 12, (0, 3), (3, 1)),
        "parameter": Global("torch._utils", "_rebuild_parameter")(
            tensor("0", 12, (2,), (1,)), True, collections.OrderedDict()
        ),
        "numbers": [1, 2.5, None, True, "text", (3,)],
    }
    read = read_pth(write_zip(tmp_path / "x.pth", value, {"0": DATA}))
    whole = DATA.reshape(3, 4)
    np.testing.assert_array_equal(read["whole"], whole)
    np.testing.assert_array_equal(read["transposed"], whole.T)
    np.testing.assert_array_equal(read["part"], [5, 7])
    np.testing.assert_array_equal(read["expanded"], [[0, 1, 2], [0, 1, 2]])
    assert read["scalar"].shape == () and read["scalar"] == 7
    assert read["empty"].shape == (0, 3)
    np.testing.assert_array_equal(read["parameter"], [0, 1])
    assert read["numbers"] == [1, 2.5, None, True, "text", (3,)]
    read["whole"][:] = -1  # no array shares memory with another
    assert read["transposed"].min() == 0


@pytest.mark.parametrize("name", ["tricky_zip.pth", "tricky_legacy.pth"])
def test_recorded_files_read_as_recorded(name):
    expected = read_arrays("pth/tricky_expected.npz")
    found = dict(flatten(read_pth(recording(f"pth/{name}"))))
    compared = 0
    for key in expected:
        candidates = [k for k in found if k == key or k.endswith(f".{key}")]
        assert len(candidates) == 1, (key, sorted(found))
        value = found[candidates[0]]
        if value.dtype.name == "bfloat16":
            value = value.astype(np.float32)
        assert value.dtype == expected[key].dtype, key
        np.testing.assert_array_equal(value, expected[key], err_msg=key)
        compared += 1
    assert compared >= 10


def test_recorded_weights_equal_the_rule():
    read = read_pth(recording("models/nafnet_small/weights.pth"))
    plain = rule_weights([(k, v.shape) for k, v in read["params"].items()])
    ema = rule_weights([(k, v.shape) for k, v in read["params_ema"].items()], "ema:")
    for state, expected in ((read["params"], plain), (read["params_ema"], ema)):
        for key, value in state.items():
            np.testing.assert_array_equal(value, expected[key], err_msg=key)


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("torch", "x.y")],
)
def test_other_names_are_refused_and_nothing_runs(tmp_path, module, name):
    marker = tmp_path / "ran"
    value = {"x": Global(module, name)(f"touch {marker}")}
    with pytest.raises(PthError, match=rf"refused: it names {module}\.{name}"):
        read_pth(write_zip(tmp_path / "x.pth", value))
    assert not marker.exists()
    (tmp_path / "y.pth").write_bytes(pickled(value))
    with pytest.raises(PthError, match=rf"refused: it names {module}\.{name}"):
        read_pth(tmp_path / "y.pth")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Global("torch._utils", "_rebuild_sparse_tensor")(0), "_rebuild_sparse_tensor"),
        (Global("torch._utils", "_rebuild_qtensor")(0), "_rebuild_qtensor"),
        (Global("torch._utils", "_rebuild_tensor_v3")(0), "_rebuild_tensor_v3"),
        (Global("torch.distributed.tensor", "DTensor")(0), "torch.distributed.tensor.DTensor"),
        (
            tensor("0", 6, (6,), (1,), kind="ComplexFloatStorage"),
            "ComplexFloat numbers",
        ),
        (tensor("0", 12, (12,), (1,), kind="QInt8Storage"), "QInt8 numbers"),
    ],
)
def test_tensors_of_other_kinds_are_named(tmp_path, value, kind):
    with pytest.raises(PthError, match=rf"refused: a tensor of .*{kind}.*save plain ones"):
        read_pth(write_zip(tmp_path / "x.pth", {"x": value}, {"0": DATA}))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (tensor("0", 12, (13,), (1,)), "past its storage"),
        (tensor("0", 12, (2,), (-1,)), "damaged"),
        (tensor("0", 12, (2,), (1,), offset=-1), "damaged"),
        (tensor("0", 12, (10**6, 10**6), (0, 0)), "far larger than the file"),
        (tensor("0", 10**12, (1,), (1,)), "far larger than the file"),
        (tensor("1", 12, (1,), (1,)), "data/1 is missing"),
    ],
)
def test_tensors_that_lie_are_refused(tmp_path, value, message):
    with pytest.raises(PthError, match=message):
        read_pth(write_zip(tmp_path / "x.pth", {"x": value}, {"0": DATA}))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}p21474836470\n.",  # remembered as object 21 474 836 470
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"abc.",  # a byte array of 1 TiB
        b"\x80\x04" + b"]" * 1001 + b".",
        b"\x80\x02" + b"X\x00\x00\x00\x02" + b"a" * 2**25 + b".",
        b"\x80\x02" + b"\x8b\x00\x02\x00\x00" + b"\x7f" * 512 + b".",  # a number of 4096 bits
    ],
)
def test_pickles_that_would_take_all_memory_are_refused(tmp_path, monkeypatch, data):
    monkeypatch.setattr(pth, "MAX_INSTRUCTIONS", 1000)
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", data)
    (tmp_path / "y.pth").write_bytes(data)
    for name in ("x.pth", "y.pth"):
        with pytest.raises(PthError, match=name):
            read_pth(tmp_path / name)


def test_a_high_number_for_an_object_takes_no_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}r\xff\xff\xff\x7f.")
    assert read_pth(tmp_path / "x.pth") == {}


def raw(value):
    """The instructions that push a value, without beginning and end of a pickle."""
    return pickled(value)[2:-1]


def build(target, state):
    return raw(target) + raw(state) + pickle.BUILD


BFLOAT16 = Global("torch", "BFloat16Storage")
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
STORAGE = Storage("FloatStorage", "0", 12)
NESTED = b"]q\x63X\x01\x00\x00\x00aa0" + b"".join(  # 60 lists, each twice in the next
    b"]q" + bytes([100 + i]) + b"(h" + bytes([99 + i]) + b"h" + bytes([99 + i]) + b"e0"
    for i in range(60)
)  # fmt: skip
NESTED_TUPLES = b")q\x63" + b"".join(
    b"0h" + bytes([99 + i]) + b"h" + bytes([99 + i]) + b"\x86q" + bytes([100 + i])
    for i in range(60)
)


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        (build(BFLOAT16, (3, ">", None, None, None, 1000, 1, 0)), "sets attributes"),
        (build(REBUILD, (None, {"_budget": 1})), "sets attributes"),
        (build(STORAGE, (1, (3,))), "sets attributes"),
        (build(tensor("0", 12, (1,), (1,)), {"a": 1}), "sets attributes"),
        (build({}, {"items": None}), "sets attributes"),
        (raw(STORAGE) + b")R", "not a function"),
        (raw(Global("torch", "float32")) + b")R", "not a function"),
        (b"(" + raw("storage") + raw(BFLOAT16) + NESTED + b"h\x9f" + raw("cpu") + b"K\x01tQ",
         "not a storage"),
        (b"}" + NESTED_TUPLES + b"NsN", "a key of type tuple"),
        (b"}(" + b"".join(b"\x8a\x09" + (i * (2**61 - 1)).to_bytes(9, "little") + b"N"
                         for i in range(1, 9)) + b"u", "a key of type int"),
        (raw(Global("torch._tensor", "_rebuild_from_type_v2"))
         + b"(" + NESTED_TUPLES + b"N)NtR", "built by something else"),
        (raw(tensor("0", 12, (2**2000,) * 64, (0,) * 64)), "a size, stride or offset"),
        (raw(tensor("0", 12, (1,) * 65, (0,) * 65)), "shape or strides"),
        (raw(REBUILD(tensor("0", 12, (3, 4), (4, 1)), 2, (4, 3), (1, 4))), "without storage"),
        (raw([Storage("FloatStorage", "0", 12), Storage("IntStorage", "0", 12)]), "two kinds"),
        (raw(REBUILD(STORAGE, 0, (1,), (1,), False, None, {"neg": True})), "negated"),
        (b"(cos\nsystem\nicos\nsystem\n", "names os.system"),
        (b"(icollections\nOrderedDict\n", "the instruction INST"),
        (b"ccollections\nOrderedDict\n)\x81", "the instruction NEWOBJ"),
        (b"\x8f" * 10, "the instruction EMPTY_SET"),
        (b"cos\x1b]0;x\x07\nsystem\n", r"names os\\x1b"),
        (b"}S'a'\nI1\ns\x85R", "damaged"),
        (b"tttttt", "damaged"),
        (raw(Global("numpy", "dtype")) + NESTED + b"h\x9f\x85R", "damaged"),
        (raw(Global("torch", "device")) + NESTED + b"h\x9f\x85R", "damaged"),
        (b"c_codecs\nencode\n" + NESTED + b"h\x9f\x85R", "damaged"),
        (raw(REBUILD) + b"(" + b"N" * 20 + b"tR", "too many arguments"),
        (b"c" + b"numpy." * 50 + b"\nx\n", "a name of more than 200"),
        (b"cargparse\nNamespace\n)\x81}X\x01\x00\x00\x00a" + NESTED_TUPLES + b"sb)R",
         "not a function"),
        (b"ctorch\nFloatStorage\n)\x81", "the instruction NEWOBJ"),
    ],
)  # fmt: skip
def test_crafted_instructions_are_refused_at_once(tmp_path, instructions, message):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + instructions + b".")
        archive.writestr("archive/data/0", DATA.tobytes())
    begin = time.monotonic()
    with pytest.raises(PthError, match=message):
        read_pth(tmp_path / "x.pth")
    assert time.monotonic() - begin < 5
    assert np.dtype(ml_dtypes.bfloat16).itemsize == 2


def test_attributes_of_a_state_dict_change_nothing(tmp_path):
    # PyTorch's `_metadata` comes so, and so could a method that shadows the dict's.
    for state in ({"_metadata": collections.OrderedDict()}, {"items": None, "get": 1}):
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            content = b"ccollections\nOrderedDict\n)R" + raw("a") + b"K\x01s" + raw(state) + b"b"
            archive.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        read = read_pth(tmp_path / "x.pth")
        assert dict(read.items()) == {"a": 1} and vars(read) == {}


def test_other_entries_of_training_states(tmp_path):
    value = {
        "parameter": Global("torch._utils", "_rebuild_parameter_with_state")(
            tensor("0", 12, (2,), (1,)), True, collections.OrderedDict(), {"note": "x"}
        ),
        "buffer": Global("torch._tensor", "_rebuild_from_type_v2")(
            REBUILD, Global("torch", "Tensor"),
            (STORAGE, 0, (2,), (1,), False, collections.OrderedDict()), {"persistent": True},
        ),
        "milestones": Global("collections", "Counter")({3: 1}),
        "set": Global("__builtin__", "set")([1, 2]),
        "size": Global("torch", "Size")((2, 3)),
        "device": Global("torch", "device")("cuda", 1),
        "bytes": Global("_codecs", "encode")("x\xff", "latin1"),
        "complex": Global("__builtin__", "complex")(1.0, 2.0),
        "best": Global("numpy._core.multiarray", "scalar")(
            Global("numpy", "dtype")("f8", False, True),
            Global("_codecs", "encode")(np.float64(31.5).tobytes().decode("latin1"), "latin1"),
        ),
    }  # fmt: skip
    read = read_pth(write_zip(tmp_path / "x.pth", value, {"0": DATA}))
    np.testing.assert_array_equal(read.pop("parameter"), [0, 1])
    np.testing.assert_array_equal(read.pop("buffer"), [0, 1])
    assert read == {
        "milestones": {3: 1}, "set": [1, 2], "size": (2, 3), "device": "cuda:1",
        "bytes": b"x\xff", "complex": 1 + 2j, "best": 31.5,
    }  # fmt: skip


def test_objects_beside_the_weights_are_passed_over(tmp_path):
    beside = {
        # A dict of a class of its own: a new object, then its entries, then its attributes.
        "settings": Raw(
            b"cpytorch_lightning.utilities.parsing\nAttributeDict\n)\x81"
            b"X\x02\x00\x00\x00lrK\x01s}X\x01\x00\x00\x00a]sb"
        ),
        "callbacks": {Global("pytorch_lightning.callbacks", "ModelCheckpoint"): {"best": 1.5}},
        "arguments": argparse.Namespace(lr=1e-4, opt={"a": [1, 2]}),
        "date": datetime.datetime(2025, 10, 15, tzinfo=datetime.UTC),
        "path": pathlib.PurePosixPath("/data/set/train"),
        "array": np.arange(3.0),
        "text": np.str_("x"),
        "random": np.random.RandomState(0).get_state(),
        "generator": np.random.default_rng(0),
        "queue": collections.deque([1, 2]),
        "frozen": frozenset([1, 2]),
        "own": Raw(b"cmyproject.config\nOptions\n)\x81}X\x01\x00\x00\x00a]sb"),
        "called": Global("__main__", "make_options")("rm -rf /", 3),
        "config": Raw(b"comegaconf.dictconfig\nDictConfig\n)\x81}X\x01\x00\x00\x00a}sb"),
    }
    value = {**beside, "state_dict": {"a": tensor("0", 12, (2,), (1,))}}
    read = read_pth(write_zip(tmp_path / "x.pth", value, {"0": DATA}))
    np.testing.assert_array_equal(read["state_dict"]["a"], [0, 1])
    assert read.keys() == value.keys()
    assert {type(read[name]) for name in ("arguments", "array", "config", "queue")} == {pth.Inert}


def test_a_directory_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pth, "_MAX_DIRECTORY", 1000)
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        for name in ("archive/data.pkl", *map(str, range(30))):
            archive.writestr(name, b"\x80\x02}.")
    with pytest.raises(PthError, match="a directory larger"):
        read_pth(tmp_path / "x.pth")


def test_every_truncation_is_refused(tmp_path):
    for name in ("tricky_zip.pth", "tricky_legacy.pth"):
        content = recording(f"pth/{name}").read_bytes()
        for keep in np.linspace(0, len(content) - 1, 25).astype(int):
            (tmp_path / "cut.pth").write_bytes(content[:keep])
            with pytest.raises(PthError):
                read_pth(tmp_path / "cut.pth")


def test_files_of_another_kind(tmp_path):
    (tmp_path / "text.pth").write_text("not a checkpoint")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"a": 1}))
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("readme", "hello")
    write_zip(tmp_path / "deflated.pth", {}, compression=zipfile.ZIP_DEFLATED)
    for name in ("text", "empty", "pickle", "zip", "deflated"):
        with pytest.raises(PthError, match=f"{name}\\.pth"):
            read_pth(tmp_path / f"{name}.pth")
    with pytest.raises(FileNotFoundError):
        read_pth(tmp_path / "missing.pth")
    assert os.listdir(tmp_path)  # reading wrote nothing and removed nothing
