import json

import jax.numpy as jnp
import numpy as np
import pytest

import dcpt_jax
from dcpt_jax.convert import command
from dcpt_jax.convert.recognise import recognise, state_dict_of
from tests.golden import rule_weights
from tests.test_convert_pth import tensor, write_zip

NETWORK = {"width": 4, "encoder_blocks": (2, 1), "middle_blocks": 1, "decoder_blocks": (1, 2)}


def reference_state(module):
    """A state dict of random weights in the reference's names."""
    from dcpt_jax.models import parameter_shapes

    zeros = {}

    def fill(tree):
        return {
            k: fill(v) if isinstance(v, dict) else np.zeros(v.shape, np.float32)
            for k, v in tree.items()
        }

    zeros = dcpt_jax.to_torch(fill(parameter_shapes(module)), module)
    return rule_weights([(name, value.shape) for name, value in zeros.items()])


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


def test_half_precision_becomes_float32(tmp_path, state):
    path = write_pth(tmp_path / "net.pth", state, dtype=np.float16)
    assert command.main([str(path), str(tmp_path / "w")]) == 0
    _, params = dcpt_jax.load(tmp_path / "w")
    assert params["intro"]["kernel"].dtype == np.float32


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
        (lambda s: s.pop("intro.weight"), "no known architecture"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(
    tmp_path, state, capsys, change, message
):
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
    assert "is no weights folder" in capsys.readouterr().err
    assert (tmp_path / "w" / "diary.txt").read_text() == "mine"


def test_unknown_entries_are_listed(state):
    with pytest.raises(ValueError, match=r"no entry 'ema'; entries: params"):
        state_dict_of({"params": dict(state), "epoch": 3}, "ema")
    with pytest.raises(ValueError, match="found list"):
        state_dict_of([1, 2])


def test_the_published_network_is_recognised_from_its_recorded_shapes(shared):
    recorded = json.loads((shared / "golden" / "full" / "NAFNet_5d.json").read_text())
    shapes = {name: np.broadcast_to(np.float32(0), shape) for name, shape in recorded["params"]}
    architecture, arguments = recognise(shapes)
    assert dcpt_jax.create_model(architecture, **arguments) == dcpt_jax.create_model("nafnet")


def test_recorded_files_convert_and_compute_what_was_recorded(tmp_path, shared):
    folder = shared / "golden" / "models" / "nafnet_small"
    recorded = np.load(folder / "io.npz")
    for key, output in (("params", "y"), ("params_ema", "y_ema")):
        out = tmp_path / key
        arguments = [str(folder / "weights.pth"), str(out), "--params", key]
        assert command.main(arguments) == 0
        model, params = dcpt_jax.load(out)
        restored = model.apply({"params": params}, recorded["x"])
        np.testing.assert_allclose(restored, recorded[output], atol=1e-4)
    source = shared / "golden" / "pth" / "module_prefix_params_only.pth"
    assert command.main([str(source), str(tmp_path / "prefixed")]) == 0
    assert dcpt_jax.load(tmp_path / "prefixed")[0].width == 4
