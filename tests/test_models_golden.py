"""Every recorded network: outputs, features, gradients, names and sizes equal the reference's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax.convert.naming import from_torch, to_torch
from dcpt_jax.models import create_classifier, create_model, parameter_shapes
from dcpt_jax.models.formulation import traced_for
from tests.golden import (
    like,
    network_arguments,
    read_arrays,
    read_case,
    read_json,
    recorded_network,
    rule_weights,
    run,
)

CASES = (
    "nafnet_small",
    "nafnet_multiblock",
    "restormer_small",
    "restormer_withbias",
    "restormer_origin_small",
    "promptir_tiny",
    "promptir_min",
    "swinir_small",
    "swinir_ws8_3conv",
)


def default(*cases):
    """All cases; those not listed here run only with the slow tests."""
    return [case if case in cases else pytest.param(case, marks=pytest.mark.slow) for case in CASES]


FULL = ("NAFNet_5d", "Restormer_5d", "Restormer_origin_default", "PromptIR_5d", "SwinIR_5d")


@pytest.mark.parametrize("case", default("nafnet_small", "promptir_tiny", "swinir_ws8_3conv"))
def test_float32_outputs_and_features_match_the_reference(case):
    config, recorded = read_case(f"models/{case}")
    model, variables = recorded_network(config, salt=config["weight_salt"])
    errors = config["f32_vs_f64_max_abs"]
    assert model.feature_dims == tuple(config["feature_dims"])
    for x in ("x", "x_sq"):
        if x not in recorded:
            continue
        restored, features = run(model, variables, recorded[x], method="restored_and_features")
        assert restored.dtype == jnp.float32
        y = x.replace("x", "y")
        expected = recorded[y]
        assert np.abs(like(restored, expected) - expected).max() <= 10 * errors[y], x
        prefix = {"x": "feat_", "x_sq": "feat_sq_"}.get(x)
        for i, feature in enumerate(features if prefix else ()):
            expected = recorded[f"{prefix}{i}"]
            assert np.abs(like(feature, expected) - expected).max() <= 10 * errors["feats"][i]


@pytest.mark.parametrize("case", default("nafnet_multiblock", "restormer_small", "swinir_small"))
def test_float64_outputs_and_gradients_match_the_reference(case):
    config, recorded = read_case(f"models/{case}")
    with jax.enable_x64(True):
        model, variables = recorded_network(config, jnp.float64, config["weight_salt"])

        def loss(params, x):
            restored = model.apply({"params": params}, x)
            return jnp.abs(restored - 0.5).mean(), restored

        step = traced_for(jax.default_backend())(jax.value_and_grad(loss, has_aux=True))
        (value, restored), gradients = jax.jit(step)(variables["params"], recorded["x"])
        assert restored.dtype == jnp.float64
        expected = recorded["y_f64"]
        np.testing.assert_allclose(like(restored, expected), expected, rtol=1e-9, atol=1e-12)
        norms = {k: float(np.linalg.norm(v)) for k, v in to_torch(gradients, model).items()}
    expected = in_our_layout(config["grad_check"]["norms"], norms)
    assert float(value) == pytest.approx(config["grad_check"]["loss"], rel=1e-9)
    # SwinIR's key biases have no gradient at all but for rounding.
    assert norms == pytest.approx(expected, rel=1e-8, abs=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_other_sizes_match_the_reference(case):
    config, recorded = read_case(f"models/{case}")
    model, variables = recorded_network(config, salt=config["weight_salt"])
    restored = run(model, variables, recorded["x_nat"])
    assert np.abs(restored - recorded["y_nat"]).max() <= 10 * config["f32_vs_f64_max_abs"]["y_nat"]
    with jax.enable_x64(True):
        model, variables = recorded_network(config, jnp.float64, config["weight_salt"])
        for x in ("x_nat", "x_sq"):
            if x in recorded:
                restored = run(model, variables, recorded[x])
                expected = recorded[x.replace("x", "y") + "_f64"]
                np.testing.assert_allclose(restored, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["nafnet_small", "restormer_small", "promptir_tiny", "swinir_small"]
)
def test_the_ema_weights_give_the_recorded_output(case):
    config, recorded = read_case(f"models/{case}")
    model, variables = recorded_network(config, salt=config["ema_weight_salt"])
    restored = run(model, variables, recorded["x"])
    # The error grows with the output, which can be far larger than with the other weights.
    scale = max(1, recorded["y_ema"].std() / recorded["y"].std())
    allowed = 10 * scale * config["f32_vs_f64_max_abs"]["y"]
    assert np.abs(restored - recorded["y_ema"]).max() <= allowed


@pytest.mark.parametrize("name", FULL)
def test_names_shapes_and_count_of_the_published_networks(name):
    record = read_json(f"full/{name}.json")
    architecture, arguments = network_arguments(record)
    model = create_model(architecture, **arguments)
    if name.endswith("_5d"):
        assert model.arguments() == create_model(architecture).arguments()
    shapes = jax.tree.leaves(parameter_shapes(model))
    assert sum(np.prod(leaf.shape) for leaf in shapes) == record["param_count"]
    assert {leaf.dtype for leaf in shapes} == {np.dtype("float32")}
    weights = {name: np.broadcast_to(np.float32(0), shape) for name, shape in record["params"]}
    from_torch(weights, model)  # every name and shape fits


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_the_published_networks_give_the_recorded_outputs(name):
    record = read_json(f"full/{name}.json")
    if "output" not in record:
        pytest.skip("names and shapes only")
    image = read_arrays("full/input.npz")["x"]
    model, variables = recorded_network(record, salt=record["weight_salt"])
    allowed = 10 * record["f32_vs_f64_max_abs"]
    restored, features = run(model, variables, image, method="restored_and_features")
    assert list(restored.shape) == record["output"]["shape"]
    compare_samples(restored, record["output"], allowed)
    for feature, expected in zip(features, record["features"], strict=True):
        # The recorded error is the output's; SwinIR's features are far larger, and so is theirs.
        scale = max(1, expected["std"] / record["output"]["std"])
        compare_samples(feature, expected, scale * allowed)

    recorded = record["classifier"]
    classifier = create_classifier(
        model.feature_dims,
        recorded["kwargs"]["num_classes"],
        resize_features=model.equal_feature_sizes,
    )
    weights = rule_weights(recorded["params"], recorded.get("weight_salt", ""))
    logits = run(classifier, {"params": from_torch(weights, classifier)}, features)
    expected, exact = (np.asarray(recorded[key]) for key in ("logits", "logits_f64"))
    assert np.abs(logits - expected).max() <= 10 * np.abs(expected - exact).max()


def compare_samples(array, expected, allowed):
    array = np.asarray(array)
    samples = array.reshape(-1)[expected["idx"]]
    assert np.abs(samples - expected["values"]).max() <= allowed
    assert array.mean() == pytest.approx(expected["mean"], abs=allowed)
    assert array.std() == pytest.approx(expected["std"], abs=allowed)


def in_our_layout(norms, ours):
    """Renames a Restormer's levels to our layout of names."""
    with_body = any("level1.body." in name for name in ours)
    if with_body == any("level1.body." in name for name in norms):
        return norms
    return {
        name: norms[name.replace(".body.", ".", 1) if _in_level(name) else name] for name in ours
    }


def _in_level(name):
    return name.startswith(("encoder_level", "decoder_level", "latent.", "refinement."))
