"""MaskDCPT's networks: recognised by their names, with the outputs of the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax.convert.naming import from_torch, to_torch
from dcpt_jax.convert.reading import read_file
from dcpt_jax.convert.recognise import recognise
from dcpt_jax.models import create_model
from tests.golden import (
    like,
    read_arrays,
    read_case,
    read_json,
    recording,
    rule_weights,
    run,
)

CASES = ("restore_nafnet", "restore_restormer", "restore_promptir_tiny", "restore_swinir")
SLOW = [pytest.param(c, marks=pytest.mark.slow) for c in CASES[1:]]


def told(config):
    """Arguments of a recorded network that names and shapes do not determine."""
    kwargs = config["kwargs"]
    if not config["arch"].endswith("SwinIR"):
        return {}
    return {"window_size": kwargs["window_size"], "num_heads": tuple(kwargs["num_heads"])}


@pytest.mark.parametrize("case", [CASES[0], *SLOW])
def test_float64_outputs_and_features_match_the_reference(case):
    config, recorded = read_case(f"mask_models/{case}")
    weights = rule_weights(config["params"], config["weight_salt"])
    found = recognise(weights, **told(config))
    with jax.enable_x64(True):
        model = create_model(found.architecture, dtype=jnp.float64, **found.arguments)
        params = from_torch({n: np.float64(v) for n, v in weights.items()}, model)
        restored, features = run(
            model, {"params": params}, recorded["x"], method="restored_and_features"
        )
        expected = recorded["y_f64"]
        np.testing.assert_allclose(like(restored, expected), expected, rtol=1e-9, atol=1e-11)
    for i, feature in enumerate(features):
        expected = recorded[f"feat_{i}_f64"]
        np.testing.assert_allclose(like(feature, expected), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_other_sizes_and_gradients_match_the_reference(case):
    config, recorded = read_case(f"mask_models/{case}")
    weights = rule_weights(config["params"], config["weight_salt"])
    found = recognise(weights, **told(config))
    with jax.enable_x64(True):
        model = create_model(found.architecture, dtype=jnp.float64, **found.arguments)
        params = from_torch({n: np.float64(v) for n, v in weights.items()}, model)
        restored = run(model, {"params": params}, recorded["x_nat"])
        np.testing.assert_allclose(restored, recorded["y_nat_f64"], rtol=1e-9, atol=1e-11)

        def loss(params):
            return jnp.abs(model.apply({"params": params}, recorded["x"]) - 0.5).mean()

        gradients = to_torch(jax.jit(jax.grad(loss))(params), model, **layout(found))
    norms = {name: float(np.linalg.norm(value)) for name, value in gradients.items()}
    assert norms == pytest.approx(config["grad_check"]["norms"], rel=1e-8, abs=1e-13)


def layout(found):
    return {"layout": "maskdcpt"} if found.architecture != "swinir" else {}


@pytest.mark.parametrize("case", CASES)
def test_names_go_there_and_back(case):
    config, _ = read_case(f"mask_models/{case}")
    weights = rule_weights(config["params"], config["weight_salt"])
    found = recognise(weights, **told(config))
    model = create_model(found.architecture, **found.arguments)
    back = to_torch(from_torch(weights, model), model, **layout(found))
    assert back.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    if found.architecture != "swinir":
        plain = to_torch(from_torch(weights, model), model, layout="dcpt", force=True)
        assert not any(".blocks." in name for name in plain)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[:3])
def test_recorded_files_give_the_recorded_output(case):
    config, recorded = read_case(f"mask_models/{case}")
    read = read_file(recording(f"mask_models/{case}/weights.pth"))
    assert read.source == {"file": "weights.pth", "entry": "params_ema", "layout": "maskdcpt"}
    restored = run(read.module, {"params": read.params}, recorded["x"])
    scale = max(1, recorded["y_ema"].std() / recorded["y"].std())
    allowed = 10 * scale * config["f32_vs_f64_max_abs"]["y"]
    assert np.abs(restored - recorded["y_ema"]).max() <= allowed


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NAFNet", {"norm_epsilon": 1e-5, "encoder_blocks": (1, 1, 1, 28)}),
        ("Restormer", {"attention": "softmax", "norm": "with_bias", "bias": False}),
        ("Restormer_origin_default", {"attention": "softmax", "norm": "with_bias"}),
        ("PromptIR", {"bias": True, "norm": "with_bias", "num_blocks": (4, 6, 6, 8)}),
        ("SwinIR", {"embed_dim": 180}),
    ],
)
def test_the_published_networks_are_recognised(name, expected):
    record = read_json(f"mask_models/full/{name}.json")
    weights = {n: np.broadcast_to(np.float32(0), shape) for n, shape in record["params"]}
    found = recognise(weights)
    assert {key: found.arguments[key] for key in expected} == expected
    model = create_model(found.architecture, **found.arguments)
    from_torch(weights, model)  # every name and shape fits


MASKED = (
    "mask_nafnet_p16",
    "mask_nafnet_w32",
    "mask_restormer",
    "mask_promptir_tiny",
    "mask_promptir_min",
    "mask_swinir",
)


@pytest.mark.parametrize(
    "case", [MASKED[0], *(pytest.param(c, marks=pytest.mark.slow) for c in MASKED[1:])]
)
def test_partly_hidden_images_give_the_recorded_features_where_visible(case):
    config, recorded = read_case(f"mask_models/{case}")
    weights = rule_weights(config["params"], config["weight_salt"])
    found = recognise(weights, **told(config))
    if found.architecture != "restormer":  # the same in both ways of masking
        found.arguments["masking"] = "maskdcpt"
    patch = config["mask_patch"]
    cells = recorded["mask"][..., None].astype(np.float64)
    visible = cells.repeat(patch, axis=1).repeat(patch, axis=2)
    with jax.enable_x64(True):
        model = create_model(found.architecture, dtype=jnp.float64, **found.arguments)
        params = from_torch({n: np.float64(v) for n, v in weights.items()}, model)
        features = run(model, {"params": params}, recorded["x"], visible, method="features")
    for i, feature in enumerate(features):
        expected = recorded[f"feat_{i}_f64"]
        step = visible.shape[1] // feature.shape[1]
        shown = visible[:, ::step, ::step] > 0
        assert shown.any() and not shown.all()
        shown = like(np.broadcast_to(shown, feature.shape), expected)
        expected = np.where(shown, expected, 0)
        np.testing.assert_allclose(like(feature, expected), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["NAFNet", "Restormer", "PromptIR", "SwinIR"])
def test_the_published_networks_give_the_recorded_outputs(name):
    record = read_json(f"mask_models/full/{name}.json")
    image = read_arrays("full/input.npz")["x"]
    weights = rule_weights(record["params"], record["weight_salt"])
    found = recognise(weights, **told(record))
    model = create_model(found.architecture, **found.arguments)
    restored = run(model, {"params": from_torch(weights, model)}, image)
    assert list(restored.shape) == record["output"]["shape"]
    samples = np.asarray(restored).reshape(-1)[record["output"]["idx"]]
    error = np.abs(samples - record["output"]["values"]).max()
    assert error <= 10 * record["f32_vs_f64_max_abs"]
