import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import dcpt_jax
from dcpt_jax import weights
from dcpt_jax.convert import command, files, reading
from dcpt_jax.convert.pth import read_pth
from dcpt_jax.convert.safetensors_files import read_safetensors, write_safetensors
from dcpt_jax.labels import Labels
from tests.golden import (
    read_arrays,
    read_case,
    read_json,
    recording,
    reference_shapes,
    rule_weights,
    run,
)
from tests.test_convert_pth import tensor, write_zip

NETWORK = {"width": 4, "encoder_blocks": (2, 1), "middle_blocks": 1, "decoder_blocks": (1, 2)}
LEVELS = {"dim": 4, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1, "heads": (1, 2, 2, 4)}
SMALL = {
    "restormer": LEVELS,
    "promptir": {**LEVELS, "prompt_dims": (2, 4, 8), "prompt_sizes": (3, 2, 1)},
    "swinir": {"embed_dim": 6, "depths": (1,) * 6},
}


def reference_state(module):
    """A state dict of random weights in the reference's names."""
    return rule_weights(reference_shapes(module).items())


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def read_state(path):
    content = files.read_checkpoint(path)
    return content.get("params", content)


def write_pth(path, state, *, key="params", prefix="", dtype=np.float32):
    kind = {np.float32: "FloatStorage", np.float16: "HalfStorage"}[dtype]
    arrays = {str(i): value.astype(dtype) for i, value in enumerate(state.values())}
    tensors = {
        prefix + name: tensor(
            str(i), value.size, value.shape,
            tuple(s // value.itemsize for s in value.strides), kind=kind,
        )
        for i, (name, value) in enumerate(state.items())
    }  # fmt: skip
    return write_zip(path, {key: tensors} if key else tensors, arrays)


@pytest.fixture(scope="module")
def network():
    return dcpt_jax.create_model("nafnet", **NETWORK)


@pytest.fixture(scope="module")
def state(network):
    return reference_state(network)


@pytest.mark.parametrize(("key", "prefix"), [("params", ""), ("params_ema", "module."), ("", "")])
def test_a_network_becomes_a_weights_folder(tmp_path, network, state, key, prefix):
    path = write_pth(tmp_path / "net.pth", state, key=key, prefix=prefix)
    assert command.main([str(path), str(tmp_path / "w")]) == 0
    model, params = dcpt_jax.load(tmp_path / "w")
    assert model == network
    back = dcpt_jax.to_torch(params, model)
    assert back.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value)
    description = json.loads((tmp_path / "w" / "model.json").read_text())
    assert description["source"] == {"file": "net.pth", "entry": key}


def test_half_precision_becomes_float32(tmp_path, state, capsys):
    path = write_pth(tmp_path / "net.pth", state, dtype=np.float16)
    assert command.main([str(path), str(tmp_path / "w")]) == 0
    _, params = dcpt_jax.load(tmp_path / "w")
    assert params["intro"]["kernel"].dtype == np.float32
    assert "stored as float16; converted to float32" in capsys.readouterr().out
    halves = {name: value.astype(jnp.bfloat16) for name, value in state.items()}
    write_safetensors(tmp_path / "net.safetensors", halves)
    outcome = tmp_path / "net32.pth"
    assert command.main([str(tmp_path / "net.safetensors"), str(outcome)]) == 0
    expected = {name: value.astype(np.float32) for name, value in halves.items()}
    assert_same(read_pth(outcome)["params"], expected)


def test_integers_are_no_weights(tmp_path, state, capsys):
    write_safetensors(tmp_path / "net.safetensors", {**state, "intro.bias": np.arange(4)})
    assert command.main([str(tmp_path / "net.safetensors"), str(tmp_path / "w")]) == 1
    assert "not floating-point numbers: intro.bias (int64)" in capsys.readouterr().err


def test_there_and_back_through_every_pair_of_formats_is_exact(tmp_path, network, state):
    classifier = dcpt_jax.create_classifier(network.feature_dims, num_classes=3, num_blocks=1)
    classifier_state = reference_state(classifier)
    write_pth(tmp_path / "0.pth", state)
    write_pth(tmp_path / "c0.pth", classifier_state)

    def step(source, target, *more):
        arguments = [str(tmp_path / source), str(tmp_path / target), *more]
        assert command.main(arguments) == 0, (source, target)

    named = ["--classes", "rain,noise,haze"]
    step("0.pth", "1", "--classifier", str(tmp_path / "c0.pth"), *named)
    step("1", "2.safetensors", "--classifier", str(tmp_path / "c2.safetensors"))
    step("2.safetensors", "3", "--classifier", str(tmp_path / "c2.safetensors"), *named)
    step("3", "4")
    step("4", "5.pth", "--classifier", str(tmp_path / "c5.pth"))
    step("5.pth", "6.safetensors")
    step("6.safetensors", "7.pth")
    step("7.pth", "8.pth")
    step("c5.pth", "c8.safetensors")  # from file to file also a classifier by itself
    for name in ("2.safetensors", "5.pth", "6.safetensors", "7.pth", "8.pth"):
        assert_same(read_state(tmp_path / name), state)
    for name in ("c2.safetensors", "c5.pth", "c8.safetensors"):
        assert_same(read_state(tmp_path / name), classifier_state)
    assert (tmp_path / "5.pth").read_bytes() == (tmp_path / "8.pth").read_bytes()
    for name in ("1", "3", "4"):
        loaded, params = dcpt_jax.load(tmp_path / name)
        assert loaded == network
        assert_same(dcpt_jax.to_torch(params, loaded), state)
        loaded, params, classes = dcpt_jax.load_classifier(tmp_path / name)
        assert loaded == classifier and classes == ("rain", "noise", "haze")
        assert_same(dcpt_jax.to_torch(params, loaded), classifier_state)


@pytest.mark.parametrize("architecture", SMALL)
def test_every_architecture_goes_through_the_weights_folder(tmp_path, capsys, architecture):
    network = dcpt_jax.create_model(architecture, **SMALL[architecture])
    state = reference_state(network)
    files.write_checkpoints({tmp_path / "net.pth": state})
    assert command.main([str(tmp_path / "net.pth"), str(tmp_path / "w")]) == 0
    output = capsys.readouterr().out
    assert f"{architecture}, " in output and str(tmp_path / "w") in output
    assert ("assumed" in output) == (architecture != "promptir")
    assert dcpt_jax.load(tmp_path / "w")[0] == network
    assert command.main([str(tmp_path / "w"), str(tmp_path / "net.safetensors")]) == 0
    assert_same(read_safetensors(tmp_path / "net.safetensors"), state)


def test_options_replace_assumptions(tmp_path, capsys):
    network = dcpt_jax.create_model("restormer", **LEVELS)
    with_body = reference_state(network)
    names = zip(reference_shapes(network, layout="original", force=True), with_body, strict=True)
    plain = {name: with_body[other] for name, other in names}
    files.write_checkpoints({tmp_path / "origin.pth": plain})
    arguments = [str(tmp_path / "origin.pth"), str(tmp_path / "w")]
    assert command.main([*arguments, "--attention", "relu"]) == 0
    assert "assumed" not in capsys.readouterr().out
    loaded, _ = dcpt_jax.load(tmp_path / "w")
    assert loaded == network
    assert command.main(arguments) == 0
    assert "attention is softmax" in capsys.readouterr().out
    assert dcpt_jax.load(tmp_path / "w")[0].attention == "softmax"
    assert command.main([str(tmp_path / "w"), str(tmp_path / "softmax.pth")]) == 0
    assert_same(read_pth(tmp_path / "softmax.pth")["params"], plain)


def test_the_original_layout_of_a_relu_restormer_needs_force(tmp_path, capsys):
    network = dcpt_jax.create_model("restormer", **LEVELS)
    with_body = reference_state(network)
    files.write_checkpoints({tmp_path / "net.pth": with_body})
    arguments = [str(tmp_path / "net.pth"), str(tmp_path / "out.pth"), "--layout", "original"]
    assert command.main(arguments) == 1
    assert "the attention is relu here and softmax there; --force" in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()
    assert command.main([*arguments, "--force"]) == 0
    names = zip(
        reference_shapes(network, layout="original", force=True), with_body.values(), strict=True
    )
    assert_same(read_state(tmp_path / "out.pth"), dict(names))


def test_options_for_swinir(tmp_path, capsys):
    network = dcpt_jax.create_model(
        "swinir", embed_dim=12, depths=(1,) * 6, num_heads=(2, 3, 2, 2, 3, 2), window_size=4
    )
    files.write_checkpoints({tmp_path / "net.pth": reference_state(network)})
    arguments = [str(tmp_path / "net.pth"), str(tmp_path / "w"), "--window-size", "4"]
    assert command.main([*arguments, "--num-heads", "2,3,2,2,3,2"]) == 0
    assert dcpt_jax.load(tmp_path / "w")[0] == network
    for heads, message in (("2,x", "must be like 6"), ("5", "must divide"), ("2,3", "2 numbers")):
        assert command.main([*arguments, "--num-heads", heads]) == 1
        assert message in capsys.readouterr().err


def test_a_multi_hot_classifier_stays_one(tmp_path, network, state, capsys):
    classifier = dcpt_jax.create_classifier(network.feature_dims, num_classes=2, num_blocks=1)
    paths = {tmp_path / "g.pth": state, tmp_path / "c.pth": reference_state(classifier)}
    for path, content in paths.items():
        write_pth(path, content)
    read = [str(tmp_path / "g.pth"), str(tmp_path / "w"), "--classifier", str(tmp_path / "c.pth")]
    assert command.main([*read, "--classes=low_light,haze", "--label=multi_hot"]) == 0
    description = weights.load_weights(tmp_path / "w")[1]
    assert description.classifier.labels == Labels(("low_light", "haze"), "multi_hot")
    write = [
        str(tmp_path / "w"),
        str(tmp_path / "g2.pth"),
        "--classifier",
        str(tmp_path / "c2.pth"),
    ]
    assert command.main(write) == 0
    output = capsys.readouterr().out
    assert "components (a sigmoid each), in index order: low_light, haze" in output
    assert "add --label=multi_hot" in output


def test_a_swinir_s_classifier_resizes_its_features(tmp_path):
    network = dcpt_jax.create_model("swinir", **SMALL["swinir"])
    classifier = dcpt_jax.create_classifier(network.feature_dims, num_classes=2, num_blocks=1)
    paths = {tmp_path / "g.pth": network, tmp_path / "dc.pth": classifier}
    files.write_checkpoints({path: reference_state(module) for path, module in paths.items()})
    arguments = [str(tmp_path / "g.pth"), str(tmp_path / "w")]
    assert command.main([*arguments, "--classifier", str(tmp_path / "dc.pth")]) == 0
    assert dcpt_jax.load_classifier(tmp_path / "w")[0].resize_features


def test_a_classifier_comes_along(tmp_path, network, state):
    classifier = dcpt_jax.create_classifier(network.feature_dims, num_classes=3, num_blocks=1)
    first = write_pth(tmp_path / "g.pth", state)
    second = write_pth(tmp_path / "dc.pth", reference_state(classifier))
    arguments = [str(first), str(tmp_path / "w"), "--classifier", str(second)]
    assert command.main([*arguments, "--classes", "rain,noise,haze"]) == 0
    loaded, params, names = dcpt_jax.load_classifier(tmp_path / "w")
    assert loaded == classifier and names == ("rain", "noise", "haze")
    assert jnp.asarray(params["mixing_weights"]).shape == (2,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("encoders.0.1.conv3.bias"), "missing (1): encoders.0.1.conv3.bias"),
        (lambda s: s.update(extra=np.zeros(3, np.float32)), "unexpected (1): extra"),
        (lambda s: s.update({"intro.bias": np.zeros(9, np.float32)}), "intro.bias (9,)"),
        (lambda s: s.pop("intro.weight"), "missing (1): intro.weight"),
        (lambda s: s.clear() or s.update(other=np.zeros(3, np.float32)), "no known architecture"),
    ],
)
def test_mismatches_are_named_and_nothing_is_written(tmp_path, state, capsys, change, message):
    changed = dict(state)
    change(changed)
    path = write_pth(tmp_path / "net.pth", changed)
    assert command.main([str(path), str(tmp_path / "w")]) == 1
    error = capsys.readouterr().err
    assert message in error and "net.pth" in error
    assert not (tmp_path / "w").exists()


def test_an_existing_folder_is_not_overwritten(tmp_path, state, capsys):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "diary.txt").write_text("mine")
    path = write_pth(tmp_path / "net.pth", state)
    assert command.main([str(path), str(tmp_path / "w")]) == 1
    assert "is not a weights folder" in capsys.readouterr().err
    assert (tmp_path / "w" / "diary.txt").read_text() == "mine"


def test_a_model_json_of_another_program_is_kept(tmp_path, state, capsys):
    (tmp_path / "w").mkdir()  # as TensorFlow.js saves models
    (tmp_path / "w" / "model.json").write_text('{"format": "layers-model", "modelTopology": {}}')
    path = write_pth(tmp_path / "net.pth", state)
    before = sorted(tmp_path.rglob("*"))
    assert command.main([str(path), str(tmp_path / "w")]) == 1
    assert "is not a weights folder" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_source_inside_the_output_is_kept(tmp_path, weights_folder, state, capsys):
    folder = tmp_path / "w"
    shutil.copytree(weights_folder, folder)
    path = write_pth(folder / "net.pth", state)
    assert command.main([str(path), str(folder)]) == 1
    assert "is inside OUT" in capsys.readouterr().err and path.exists()
    other = write_pth(tmp_path / "net.pth", state)
    assert command.main([str(other), str(folder)]) == 1
    assert "contains other files" in capsys.readouterr().err and path.exists()


@pytest.mark.parametrize("part", ["downs.{}.weight", "middle_blks.{}.beta"])
def test_names_of_a_huge_network_are_refused(tmp_path, capsys, part):
    one = np.zeros(1, np.float32)
    names = [part.format(2 * i) for i in range(40)]
    state = {"intro.weight": np.zeros((8, 3, 3, 3), np.float32), "middle_blks.0.beta": one}
    write_safetensors(tmp_path / "net.safetensors", {**state, **dict.fromkeys(names, one)})
    assert command.main([str(tmp_path / "net.safetensors"), str(tmp_path / "w")]) == 1
    assert "the names imply 79 " in capsys.readouterr().err


def test_unforeseen_failures_print_no_traceback(tmp_path, state, monkeypatch, capsys):
    def fail(*_, **__):
        raise OverflowError("too \x1b[2J large")

    monkeypatch.setattr(reading, "from_torch", fail)
    path = write_pth(tmp_path / "net.pth", state)
    assert command.main([str(path), str(tmp_path / "w")]) == 1
    error = capsys.readouterr().err
    assert "net.pth: not a valid network (OverflowError: too \\x1b[2J large)" in error


def test_numbers_too_large_for_float32_are_refused(tmp_path, state, capsys):
    write_safetensors(tmp_path / "net.safetensors", {**state, "intro.bias": np.full(4, 1e300)})
    assert command.main([str(tmp_path / "net.safetensors"), str(tmp_path / "w")]) == 1
    assert "too large for float32: intro.bias" in capsys.readouterr().err


def test_a_folder_is_stored_in_half_precision(tmp_path, pretrained, state, capsys):
    small = tmp_path / "small"
    assert command.main([str(pretrained), str(small), "--dtype", "float16"]) == 0
    stored = ocp.StandardCheckpointer().restore(small)
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {jnp.dtype("float16")}
    expected, description = weights.load_weights(pretrained)
    found, copied = weights.load_weights(small)
    assert set(found) == {"network", "classifier"}
    assert dataclasses.replace(copied, checksums=description.checksums) == description
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 2**-11, 2**-24), found, expected)
    # What was stored in half precision stays as it is.
    assert command.main([str(small), str(tmp_path / "again"), "--dtype", "float16"]) == 0
    again, _ = weights.load_weights(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, again, found)

    path = write_pth(tmp_path / "net.pth", {**state, "intro.bias": np.full(4, 1e5, np.float32)})
    assert command.main([str(path), str(tmp_path / "w"), "--dtype", "float16"]) == 1
    assert "--dtype float16: network/intro/bias has numbers too large" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
    assert command.main([str(path), str(tmp_path / "w"), "--dtype", "bfloat16"]) == 0
    assert command.main([str(path), str(tmp_path / "b.pth"), "--dtype", "bfloat16"]) == 1
    assert "--dtype is for a folder OUT" in capsys.readouterr().err


def test_numbers_that_are_none_are_refused(tmp_path, state, capsys):
    wrong = {**state, "intro.bias": np.full(4, np.nan), "ending.bias": np.float32([0, np.inf, 0])}
    write_safetensors(tmp_path / "net.safetensors", wrong)
    assert command.main([str(tmp_path / "net.safetensors"), str(tmp_path / "w")]) == 1
    error = capsys.readouterr().err
    assert f"NaN or infinity in 2 of {len(state)} tensors" in error
    assert "intro.bias" in error and "ending.bias" in error
    assert not (tmp_path / "w").exists()


def test_zeros_of_an_incomplete_download_are_reported(tmp_path, state, capsys):
    path = tmp_path / "net.safetensors"
    write_safetensors(path, {**state, "intro.weight": np.zeros_like(state["intro.weight"])})
    assert command.main([str(path), str(tmp_path / "w")]) == 0
    assert "only zeros, as after an incomplete download, in intro.weight" in capsys.readouterr().out
    write_safetensors(path, {name: np.zeros_like(value) for name, value in state.items()})
    assert command.main([str(path), str(tmp_path / "x")]) == 1
    assert "all its weights are zeros" in capsys.readouterr().err


def test_the_names_of_maskdcpt_go_there_and_back(tmp_path, capsys):
    network = dcpt_jax.create_model("nafnet", **NETWORK, norm_epsilon=1e-5)
    state = reference_state(network)
    assert any(name.startswith("encoders.0.blocks.1.") for name in state)
    write_pth(tmp_path / "0.pth", state)
    for source, target in (("0.pth", "1"), ("1", "2.pth"), ("2.pth", "3.safetensors")):
        assert command.main([str(tmp_path / source), str(tmp_path / target)]) == 0
    assert "so the norms have an epsilon of 1e-5" in capsys.readouterr().out
    assert dcpt_jax.load(tmp_path / "1")[0] == network
    assert_same(read_state(tmp_path / "2.pth"), state)
    assert_same(read_state(tmp_path / "3.safetensors"), state)


@pytest.mark.parametrize(
    ("layout", "level"),
    [("maskdcpt", "encoder_level1.blocks"), ("maskdcpt_origin", "encoder_level1")],
)
def test_the_layout_is_kept_or_chosen(tmp_path, layout, level, capsys):
    network = dcpt_jax.create_model("restormer", **LEVELS, attention="softmax", norm="with_bias")
    shapes = reference_shapes(network, layout=layout)
    plain = reference_state(network)
    wrapped = dict(zip(shapes, plain.values(), strict=True))
    assert f"{level}.0.norm1.weight" in wrapped and "down1_2.conv.weight" in wrapped
    files.write_checkpoints({tmp_path / "0.pth": wrapped})
    assert command.main([str(tmp_path / "0.pth"), str(tmp_path / "w")]) == 0
    assert "assumed" not in capsys.readouterr().out
    assert dcpt_jax.load(tmp_path / "w")[0] == network
    for more, expected in (([], wrapped), (["--layout", "original"], plain)):
        path = tmp_path / f"{len(more)}.safetensors"
        assert command.main([str(tmp_path / "w"), str(path), *more]) == 0
        assert_same(read_state(path), expected)


def test_prefixes(tmp_path, network, state, capsys):
    path = write_pth(tmp_path / "net.pth", state, key="state_dict", prefix="model.")
    assert command.main([str(path), str(tmp_path / "w")]) == 0
    assert "stripped the prefix model. that all names have" in capsys.readouterr().out
    both = {f"netG.{n}": v for n, v in state.items()} | {f"ema.{n}": v for n, v in state.items()}
    write_safetensors(tmp_path / "net.safetensors", both)
    arguments = [str(tmp_path / "net.safetensors"), str(tmp_path / "w2")]
    assert command.main(arguments) == 1
    assert (
        "follow ema., netG., besides other names; choose one with --prefix"
        in capsys.readouterr().err
    )
    assert command.main([*arguments, "--prefix", "netG."]) == 0
    assert dcpt_jax.load(tmp_path / "w2")[0] == network
    assert command.main([str(tmp_path / "w2"), str(tmp_path / "out.pth"), "--prefix", "a"]) == 1
    assert "--prefix applies to a file IN" in capsys.readouterr().err


def test_a_file_is_loaded_directly(tmp_path, network, state, caplog):
    path = write_pth(tmp_path / "net.pth", state, prefix="model.")
    model, params = dcpt_jax.load(path)
    assert model == network
    assert_same(dcpt_jax.to_torch(params, model), state)
    (message,) = caplog.messages
    assert "nafnet" in message and "; stripped the prefix model." in message
    with pytest.raises(ValueError, match=r"is a file; .*python -m dcpt_jax\.convert .*net\.pth"):
        weights.load_weights(path)
    with pytest.raises(FileNotFoundError):
        dcpt_jax.load(tmp_path / "missing.pth")


@pytest.mark.parametrize(("other", "taken"), [("state_dict_ema", "params"), ("params_ema", None)])
def test_unused_weights_are_reported(tmp_path, state, other, taken):
    whole = tmp_path / "both.pth"
    arrays, tree = {}, {}
    for name in ("params", other):
        tree[name] = {}
        for key, value in state.items():
            number = str(len(arrays))
            arrays[number] = value
            strides = tuple(s // value.itemsize for s in value.strides)
            tree[name][key] = tensor(number, value.size, value.shape, strides)
    write_zip(whole, tree, arrays)
    taken, left = (taken, other) if taken else (other, "params")
    message = f"taken from its entry {taken}; --params takes another one: {left}"
    assert message in reading.read_file(whole).remarks
    assert message not in reading.read_file(whole, entry="params").remarks


def test_a_folder_without_weights_names_its_files(tmp_path, capsys):
    (tmp_path / "net_g.pth").touch()
    assert command.main([str(tmp_path), str(tmp_path / "out.pth")]) == 1
    assert "files that may be weights there: net_g.pth" in capsys.readouterr().err


@pytest.mark.slow
def test_output_that_nobody_reads_ends_nothing(tmp_path, state):
    path = write_pth(tmp_path / "net.pth", state)
    for arguments in ([str(path), str(tmp_path / "out.pth")], ["--help"]):
        done = subprocess.run(
            [sys.executable, "-u", "-c", "import sys; from dcpt_jax.convert import command;"
             "sys.exit(command.main(sys.argv[1:]))", *arguments],
            stdout=closed_pipe(), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert done.returncode == 0 and "Error" not in done.stderr
    assert_same(read_pth(tmp_path / "out.pth")["params"], state)


def closed_pipe():
    """The writing end of a pipe whose reader has ended."""
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    return writing_end


def test_class_names_are_stripped_and_differ(tmp_path, network, state, capsys):
    classifier = dcpt_jax.create_classifier(network.feature_dims, num_classes=2, num_blocks=1)
    first = write_pth(tmp_path / "g.pth", state)
    second = write_pth(tmp_path / "dc.pth", reference_state(classifier))
    arguments = [str(first), str(tmp_path / "w"), "--classifier", str(second), "--classes"]
    for wrong in ("rain,", "rain, rain"):
        assert command.main([*arguments, wrong]) == 1
        assert "has an empty name or one twice" in capsys.readouterr().err
    assert command.main([*arguments, "rain, heavy noise"]) == 0
    assert dcpt_jax.load_classifier(tmp_path / "w")[2] == ("rain", "heavy noise")


def test_an_existing_file_is_not_overwritten(tmp_path, state, capsys):
    source = write_pth(tmp_path / "net.pth", state)
    target = tmp_path / "out.safetensors"
    target.write_text("mine")
    assert command.main([str(source), str(target)]) == 1
    assert "give --overwrite" in capsys.readouterr().err and target.read_text() == "mine"
    assert command.main([str(source), str(target), "--overwrite"]) == 0
    assert_same(read_safetensors(target), state)
    # In place: the source is read before it is replaced.
    assert command.main([str(target), str(target), "--overwrite"]) == 0
    assert_same(read_safetensors(target), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("missing.pth w", "missing.pth: there is no such file or folder"),
        ("w out.pth --classes a,b", "not to a weights folder"),
        ("w out.pth --attention relu", "--attention applies to a file IN"),
        ("w out.pth --classifier c.pth", "contain no classifier"),
        ("w out.pth --classifier out.pth", "the same file as OUT"),
        ("w out.pth --classifier folder.pth/../out.pth", "the same file as OUT"),
        ("w out.pth --classifier c.bin", "c.bin must end in one of .pth"),
        ("w out --classifier c.pth", "between two folders it is included"),
        ("net.pth out.safetensors --classifier c.pth", "between two files"),
        ("net.pth out --layout original", "--layout and --force are for a file OUT"),
        ("net.pth out.pth --layout maskdcpt", "an epsilon of 1e-06 here and 1e-05 there"),
        ("net.pth out --classes a", "--classes and --label need --classifier FILE"),
        ("net.pth out.pth --label flat", "--classes and --label need --classifier FILE"),
        ("net.pth out --attention relu", "--attention is for a Restormer, but this is a nafnet"),
        ("net.pth out --params ema", "no entry 'ema'; entries: params"),
        ("w w", "is both IN and OUT"),
        ("net.pth folder.pth", "folder.pth is a folder"),
        ("folder.pth out.pth", "no weights in"),
        ("w other/net.pth", None),
        ("net.pth empty", None),
    ],
)
def test_options_that_do_not_fit_are_explained(
    tmp_path, monkeypatch, capsys, weights_folder, state, arguments, message
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(weights_folder, "w")
    write_pth(tmp_path / "net.pth", state)
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    status = command.main(arguments.split())
    assert status == (0 if message is None else 1)
    assert (message or "") in capsys.readouterr().err
    if message is not None:
        assert sorted(tmp_path.iterdir()) == before


@pytest.fixture(scope="module")
def weights_folder(tmp_path_factory, network, state):
    params = dcpt_jax.from_torch(state, network)
    description = weights.describe(network)
    folder = tmp_path_factory.mktemp("weights") / "w"
    return weights.save_weights(folder, {"network": params}, description)


def test_a_damaged_weights_folder_is_named(tmp_path, weights_folder, capsys):
    folder = tmp_path / "w"
    shutil.copytree(weights_folder, folder)
    for file in folder.rglob("*"):
        if file.is_file() and file.name != weights.DESCRIPTION:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert command.main([str(folder), str(tmp_path / "out.pth")]) == 1
    assert str(folder) in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()


def test_parameters_that_do_not_fit_their_description_are_not_written(
    tmp_path, weights_folder, capsys
):
    folder = tmp_path / "w"
    shutil.copytree(weights_folder, folder)
    description = json.loads((folder / weights.DESCRIPTION).read_text())
    description["arguments"]["width"] = 6
    (folder / weights.DESCRIPTION).write_text(json.dumps(description))
    assert command.main([str(folder), str(tmp_path / "out")]) == 1
    assert "the checksum of its content is" in capsys.readouterr().err
    del description["checksums"]
    (folder / weights.DESCRIPTION).write_text(json.dumps(description))
    for target in ("out.pth", "out"):
        assert command.main([str(folder), str(tmp_path / target)]) == 1
        assert "its shape is" in capsys.readouterr().err
    description["arguments"]["depth"] = 6
    (folder / weights.DESCRIPTION).write_text(json.dumps(description))
    assert command.main([str(folder), str(tmp_path / "out.pth")]) == 1
    assert "the key arguments.depth is 6; allowed: width," in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["w"]


def test_damaged_files_are_refused(tmp_path, state, capsys):
    files.write_checkpoints({tmp_path / "a.pth": state, tmp_path / "a.safetensors": state})
    for suffix in (".pth", ".safetensors"):
        content = (tmp_path / f"a{suffix}").read_bytes()
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(content[: len(content) // 2])
        assert command.main([str(path), str(tmp_path / "w")]) == 1
        assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_an_interruption_is_no_traceback(tmp_path, state, monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    source = write_pth(tmp_path / "net.pth", state)
    monkeypatch.setattr(files, "write_checkpoints", interrupt)
    assert command.main([str(source), str(tmp_path / "out.pth")]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_before_a_folder_is_written(tmp_path, state, monkeypatch):
    def interrupted(dtype, params):
        os.kill(os.getpid(), signal.SIGINT)
        return params

    source = write_pth(tmp_path / "net.pth", state)
    monkeypatch.setattr(command, "_stored_as", interrupted)
    assert command.main([str(source), str(tmp_path / "out")]) == 130
    assert not (tmp_path / "out").exists()


def test_help_names_every_option_and_format(capsys):
    with pytest.raises(SystemExit) as error:
        command.main(["--help"])
    assert error.value.code == 0
    output = capsys.readouterr().out
    flags = [name for action in command.parser()._actions for name in action.option_strings]
    assert all(name in output for name in [*flags, ".pth", ".safetensors", "Lightning"])


@pytest.mark.parametrize(
    "case", ["nafnet_small", "restormer_small", "promptir_tiny", "swinir_small"]
)
def test_recorded_files_go_there_and_back_exactly(tmp_path, case):
    config, file = read_json(f"models/{case}/config.json"), recording(f"models/{case}/weights.pth")
    swinir = ["--window-size", "4", "--num-heads", "2,3,2,2,3,2"] if "swinir" in case else []
    for key, salt in (("params", ""), ("params_ema", "ema:")):
        out = tmp_path / f"{key}.pth"
        arguments = [str(file), str(out), "--params", key]
        assert command.main([*arguments, *swinir]) == 0
        assert_same(read_pth(out)["params"], rule_weights(config["params"], salt))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["restormer_small", "promptir_tiny", "swinir_small"])
def test_recorded_transformers_convert_and_give_the_recorded_outputs(tmp_path, case):
    config, recorded = read_case(f"models/{case}")
    file = recording(f"models/{case}/weights.pth")
    swinir = ["--window-size", "4", "--num-heads", "2,3,2,2,3,2"] if "swinir" in case else []
    assert command.main([str(file), str(tmp_path / "w"), *swinir]) == 0
    model, params = dcpt_jax.load(tmp_path / "w")
    restored = run(model, {"params": params}, recorded["x"])
    tolerance = 10 * config["f32_vs_f64_max_abs"]["y"]
    np.testing.assert_allclose(restored, recorded["y_ema"], atol=tolerance, rtol=1e-5)


def test_recorded_files_convert_and_give_the_recorded_outputs(tmp_path):
    recorded = read_arrays("models/nafnet_small/io.npz")
    file = recording("models/nafnet_small/weights.pth")
    for key, output in (("params", "y"), ("params_ema", "y_ema")):
        out = tmp_path / key
        arguments = [str(file), str(out), "--params", key]
        assert command.main(arguments) == 0
        model, params = dcpt_jax.load(out)
        restored = run(model, {"params": params}, recorded["x"])
        np.testing.assert_allclose(restored, recorded[output], atol=1e-4)
    source = recording("pth/module_prefix_params_only.pth")
    assert command.main([str(source), str(tmp_path / "prefixed")]) == 0
    assert dcpt_jax.load(tmp_path / "prefixed")[0].width == 4
