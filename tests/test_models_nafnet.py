import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dcpt_jax.convert import from_torch, to_torch
from dcpt_jax.models import create_classifier, create_model, parameter_shapes
from dcpt_jax.models.nafnet import moving_mean, pooled
from tests.golden import random_params, read_case, rule_weights, run

PARAMETERS = Path(__file__).parent / "parameters"
CASES = ("nafnet_small", "nafnet_multiblock")
SMALL = dict(width=4, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1))


def recorded_arguments(config):
    kwargs = config["kwargs"]
    return dict(
        width=kwargs["width"],
        encoder_blocks=kwargs["enc_blk_nums"],
        middle_blocks=kwargs["middle_blk_num"],
        decoder_blocks=kwargs["dec_blk_nums"],
    )


def recorded_model(config, dtype=jnp.float32, salt="weight_salt", **changes):
    model = create_model("nafnet", dtype=dtype, **recorded_arguments(config), **changes)
    weights = rule_weights(config["params"], config[salt])
    if dtype == jnp.float64:
        weights = {name: value.astype(np.float64) for name, value in weights.items()}
    return model, {"params": from_torch(weights, model)}


def busy_variables(model):
    return {"params": random_params(parameter_shapes(model))}


@pytest.mark.parametrize("case", CASES)
def test_float32_matches_the_reference(shared, case):
    config, recorded = read_case(shared / "golden/models" / case)
    model, variables = recorded_model(config)
    errors = config["f32_vs_f64_max_abs"]
    for x, y in (("x", "y"), ("x_nat", "y_nat")):
        restored = run(model, variables, recorded[x])
        assert restored.dtype == jnp.float32
        assert np.abs(restored - recorded[y]).max() <= 10 * errors[y]
    features = run(model, variables, recorded["x"], method="features")
    assert model.feature_dims == tuple(config["feature_dims"])
    assert [list(feature.shape) for feature in features] == config["feature_shapes"]
    for i, (feature, error) in enumerate(zip(features, errors["feats"], strict=True)):
        assert np.abs(feature - recorded[f"feat_{i}"]).max() <= 10 * error


@pytest.mark.parametrize("case", CASES)
def test_float64_matches_the_reference_to_nine_digits(shared, case):
    config, recorded = read_case(shared / "golden/models" / case)
    with jax.enable_x64(True):
        model, variables = recorded_model(config, jnp.float64)
        for x, y in (("x", "y_f64"), ("x_nat", "y_nat_f64")):
            restored = run(model, variables, recorded[x])
            assert restored.dtype == jnp.float64
            np.testing.assert_allclose(restored, recorded[y], rtol=1e-9, atol=1e-12)


def test_the_ema_weights_give_the_recorded_output(shared):
    config, recorded = read_case(shared / "golden/models/nafnet_small")
    model, variables = recorded_model(config, salt="ema_weight_salt")
    restored = run(model, variables, recorded["x"])
    # The output is up to a hundred times larger than with the other weights, and so is its error.
    scale = recorded["y_ema"].std() / recorded["y"].std()
    assert np.abs(restored - recorded["y_ema"]).max() <= 10 * scale * 3.3e-6


@pytest.mark.parametrize("case", CASES)
def test_gradient_norms_match_the_reference(shared, case):
    config, recorded = read_case(shared / "golden/models" / case)
    with jax.enable_x64(True):
        model, variables = recorded_model(config, jnp.float64)

        def loss(params):
            return jnp.abs(model.apply({"params": params}, recorded["x"]) - 0.5).mean()

        value, gradients = jax.jit(jax.value_and_grad(loss))(variables["params"])
        norms = {k: float(np.linalg.norm(v)) for k, v in to_torch(gradients, model).items()}
    assert float(value) == pytest.approx(config["grad_check"]["loss"], rel=1e-9)
    assert norms == pytest.approx(config["grad_check"]["norms"], rel=1e-8)


@pytest.mark.parametrize("size", ["64x80", "32x64", "48x48", "40x40"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_local_converter_matches_the_reference(shared, size, dtype):
    tlc, recorded = read_case(shared / "golden/tlc/tlc_small")
    config, _ = read_case(shared / "golden" / tlc["base_case"])
    with jax.enable_x64(dtype == "float64"):
        model, variables = recorded_model(
            config, jnp.dtype(dtype), tlc_size=tuple(tlc["train_size_nchw"][2:])
        )
        restored = np.asarray(run(model, variables, recorded[f"x_{size}"]))
    error = tlc["stats"][size]["f32_vs_f64"]
    if dtype == "float32":
        assert np.abs(restored - recorded[f"y_{size}"]).max() <= 10 * error
        assert np.abs(restored - recorded[f"y_{size}_f64"]).max() <= 10 * error
    else:
        np.testing.assert_allclose(restored, recorded[f"y_{size}_f64"], rtol=1e-9, atol=1e-12)


def test_local_converter_keeps_names_and_shapes_of_the_parameters():
    plain = create_model("nafnet", **SMALL)
    local = create_model("nafnet", **SMALL, tlc_size=8)
    assert parameter_shapes(plain) == parameter_shapes(local)
    assert local.tlc_size == (8, 8)
    variables = busy_variables(plain)
    image = jax.random.uniform(jax.random.key(1), (1, 24, 20, 3))
    inside = jax.random.uniform(jax.random.key(1), (1, 12, 12, 3))
    # 12 pixels, 1.5 times the training size, are one window; more are not.
    np.testing.assert_array_equal(run(plain, variables, inside), run(local, variables, inside))
    assert np.abs(run(plain, variables, image) - run(local, variables, image)).max() > 1e-3


@pytest.mark.parametrize("window", [(3, 4), (1, 7), (9, 2), (5, 30), (40, 3)])
def test_local_means_equal_a_plain_loop(window):
    x = np.random.default_rng(0).standard_normal((2, 9, 12, 3))
    h, w = x.shape[1:3]
    size = (min(window[0], h), min(window[1], w))
    inner = np.stack(
        [
            np.stack(
                [
                    x[:, i : i + size[0], j : j + size[1]].mean((1, 2))
                    for j in range(w - size[1] + 1)
                ],
                axis=1,
            )
            for i in range(h - size[0] + 1)
        ],
        axis=1,
    )
    top, left = (h - inner.shape[1]) // 2, (w - inner.shape[2]) // 2
    rows = np.clip(np.arange(h) - top, 0, inner.shape[1] - 1)
    columns = np.clip(np.arange(w) - left, 0, inner.shape[2] - 1)
    with jax.enable_x64(True):
        means = pooled(jnp.asarray(x), lambda y: y, window)
    np.testing.assert_allclose(
        np.broadcast_to(means, x.shape), inner[:, rows][:, :, columns], rtol=0, atol=1e-13
    )


def test_local_means_of_a_large_bright_map_keep_their_digits():
    # A running sum of these values reaches 2e5, where float32 has steps of 0.016.
    x = 100 + np.random.default_rng(0).standard_normal((1, 2000, 4, 1))
    exact = np.convolve(x[0, :, :, 0].mean(1), np.full(16, 1 / 16), mode="valid")
    means = pooled(jnp.asarray(x, jnp.float32), lambda y: y, (16, 4))[0, :, 0, 0]
    np.testing.assert_allclose(means[7 : 7 + len(exact)], exact, atol=5e-5)


def test_moving_mean_by_hand():
    x = jnp.asarray([1.0, 2.0, 6.0, 4.0])
    np.testing.assert_allclose(moving_mean(x, 3, axis=0), [3, 4], rtol=1e-6)
    np.testing.assert_allclose(moving_mean(x, 9, axis=0), [3.25], rtol=1e-6)


def test_the_default_network_is_the_published_one(shared):
    recorded = json.loads((shared / "golden/full/NAFNet_5d.json").read_text())
    model = create_model("nafnet")
    assert {**model.arguments(), "tlc_size": None} == {
        **recorded_arguments(recorded),
        "tlc_size": None,
    }
    shapes = flatten_dict(parameter_shapes(model))
    assert sum(np.prod(leaf.shape) for leaf in shapes.values()) == recorded["param_count"]
    assert {leaf.dtype for leaf in shapes.values()} == {np.dtype("float32")}
    weights = {name: np.broadcast_to(np.float32(0), shape) for name, shape in recorded["params"]}
    from_torch(weights, model)  # every name and shape fits


@pytest.mark.slow
def test_the_published_network_gives_the_recorded_output(shared):
    recorded = json.loads((shared / "golden/full/NAFNet_5d.json").read_text())
    with np.load(shared / "golden/full/input.npz") as arrays:
        image = arrays["x"]
    model = create_model("nafnet")
    weights = rule_weights(recorded["params"], recorded["weight_salt"])
    variables = {"params": from_torch(weights, model)}
    allowed = 10 * recorded["f32_vs_f64_max_abs"]
    restored = np.asarray(run(model, variables, image))
    assert list(restored.shape) == recorded["output"]["shape"]
    compare_samples(restored, recorded["output"], allowed)
    features = run(model, variables, image, method="features")
    for feature, expected in zip(features, recorded["features"], strict=True):
        compare_samples(np.asarray(feature), expected, allowed)

    classifier_record = recorded["classifier"]
    classifier = create_classifier(model.feature_dims, classifier_record["kwargs"]["num_classes"])
    weights = rule_weights(classifier_record["params"], classifier_record.get("weight_salt", ""))
    logits = run(classifier, {"params": from_torch(weights, classifier)}, features)
    expected, exact = (np.asarray(classifier_record[key]) for key in ("logits", "logits_f64"))
    assert np.abs(logits - expected).max() <= 10 * np.abs(expected - exact).max()


def compare_samples(array, expected, allowed):
    samples = array.reshape(-1)[expected["idx"]]
    assert np.abs(samples - expected["values"]).max() <= allowed
    assert array.mean() == pytest.approx(expected["mean"], abs=allowed)
    assert array.std() == pytest.approx(expected["std"], abs=allowed)


def test_parameter_names_are_those_on_file():
    expected = json.loads((PARAMETERS / "nafnet.json").read_text())
    shapes = flatten_dict(parameter_shapes(create_model("nafnet")), sep="/")
    assert {name: list(leaf.shape) for name, leaf in shapes.items()} == expected


def test_a_new_network_returns_its_input_plus_a_small_residual_of_identity_blocks():
    model = create_model("nafnet", width=4, encoder_blocks=(1,), decoder_blocks=(1,))
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    flat = flatten_dict(variables["params"], sep="/")
    scales = {name: value for name, value in flat.items() if name.endswith(("beta", "gamma"))}
    assert len(scales) == 2 * 3
    assert all(not value.any() for value in scales.values())
    # With both scales 0 the inside of a block has no effect.
    changed = jax.tree_util.tree_map_with_path(
        lambda path, value: value + 1 if "block" in str(path) and value.ndim == 4 else value,
        variables,
    )
    image = jax.random.uniform(jax.random.key(1), (1, 8, 8, 3))
    np.testing.assert_array_equal(run(model, variables, image), run(model, changed, image))


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 10)])
def test_any_size_gives_an_output_of_the_same_size(size):
    model = create_model("nafnet", **SMALL)
    variables = busy_variables(model)
    image = jax.random.uniform(jax.random.key(1), (2, *size, 3))
    restored = run(model, variables, image)
    assert restored.shape == image.shape
    assert bool(jnp.isfinite(restored).all())
    # The same as padding by hand and cutting.
    margins = [(0, 0), *((0, -side % 4) for side in size), (0, 0)]
    by_hand = run(model, variables, np.pad(image, margins, mode="reflect"))
    np.testing.assert_allclose(restored, by_hand[:, : size[0], : size[1]], atol=1e-6)
    features = jax.eval_shape(partial(model.apply, method="features"), variables, image)
    h, w = (-(-side // 4) * 4 for side in size)
    assert [f.shape for f in features] == [(2, h, w, 4), (2, h // 2, w // 2, 8)]


def test_a_batch_equals_its_images_one_by_one_and_eager_equals_jit():
    model = create_model("nafnet", **SMALL)
    variables = busy_variables(model)
    images = jax.random.uniform(jax.random.key(1), (3, 12, 8, 3))
    restored = run(model, variables, images)
    one = jax.jit(model.apply)
    for image, expected in zip(images, restored, strict=True):
        alone = one(variables, image[None])[0]
        np.testing.assert_allclose(alone, expected, atol=2e-5)
    np.testing.assert_allclose(model.apply(variables, images), restored, atol=2e-5)


def test_features_are_those_that_the_output_is_made_from():
    model = create_model("nafnet", **SMALL)
    variables = busy_variables(model)
    image = jax.random.uniform(jax.random.key(1), (1, 8, 8, 3))
    restored, seen = model.apply(
        variables,
        image,
        capture_intermediates=lambda module, _: (module.name or "").startswith("decoder_"),
    )
    features = model.apply(variables, image, method="features")
    decoders = seen["intermediates"]
    np.testing.assert_array_equal(features[0], decoders["decoder_1"]["__call__"][0])
    np.testing.assert_array_equal(features[1], decoders["decoder_0"]["__call__"][0])
    ending = variables["params"]["ending"]
    last = jax.lax.conv_general_dilated(
        features[0], ending["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(image + last + ending["bias"], restored, atol=1e-5)


def test_nothing_behind_the_last_feature_runs():
    model = create_model("nafnet", **SMALL)
    variables = busy_variables(model)
    image = jax.random.uniform(jax.random.key(1), (1, 8, 8, 3))
    del variables["params"]["ending"]  # not even asked for
    features = run(model, variables, image, method="features")
    assert len(features) == 2
    with pytest.raises(Exception, match="ending"):
        run(model, variables, image)


def test_features_leave_the_ending_without_gradient_and_reach_everything_else():
    model = create_model("nafnet", **SMALL)
    variables = busy_variables(model)
    image = jax.random.uniform(jax.random.key(1), (1, 8, 8, 3))

    def loss(variables):
        features = model.apply(variables, image, method="features")
        return sum(jnp.square(feature).mean() for feature in features)

    gradients = flatten_dict(jax.jit(jax.grad(loss))(variables)["params"], sep="/")
    for name, gradient in gradients.items():
        assert bool((gradient != 0).any()) != name.startswith("ending/"), name


@pytest.mark.parametrize("tlc_size", [None, 4])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_gradients_of_constant_images_are_finite(level, tlc_size):
    model = create_model("nafnet", **SMALL, tlc_size=tlc_size)
    variables = busy_variables(model)
    image = jnp.full((1, 8, 8, 3), level)

    def loss(variables, image):
        return jnp.abs(model.apply(variables, image) - 0.5).mean()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, image)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


def test_bfloat16_stays_close_to_float32():
    arguments = {**SMALL, "width": 8}
    exact = create_model("nafnet", **arguments)
    fast = create_model("nafnet", **arguments, dtype=jnp.bfloat16)
    assert parameter_shapes(exact) == parameter_shapes(fast)
    variables = busy_variables(exact)
    image = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3))
    expected, restored = run(exact, variables, image), run(fast, variables, image)
    assert restored.dtype == jnp.float32
    features = jax.eval_shape(partial(fast.apply, method="features"), variables, image)
    assert {feature.dtype for feature in features} == {jnp.dtype(jnp.bfloat16)}
    # bfloat16 has steps of 1/256 or less; measured 0.009.
    deviation = jnp.abs(restored - expected).mean() / jnp.abs(expected - image).mean()
    assert 1e-5 < float(deviation) < 0.02


def test_a_bfloat16_network_without_residual_keeps_the_image_in_full_precision():
    model = create_model("nafnet", **SMALL, dtype=jnp.bfloat16)
    variables = busy_variables(model)
    variables["params"]["ending"] = jax.tree.map(jnp.zeros_like, variables["params"]["ending"])
    image = jax.random.uniform(jax.random.key(1), (1, 8, 8, 3))
    np.testing.assert_array_equal(run(model, variables, image), image)


def test_float64_without_64_bit_types_is_refused():
    model = create_model("nafnet", **SMALL, dtype=jnp.float64)
    with pytest.raises(ValueError, match="jax_enable_x64"):
        model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(encoder_blocks=()), "encoder_blocks"),
        (dict(encoder_blocks=(1, 1, 1)), "same length"),
        (dict(decoder_blocks=(1, 0)), "decoder_blocks"),
        (dict(middle_blocks=0), "middle_blocks"),
        (dict(width=2.5), "width"),
        (dict(tlc_size=6), "multiples of 4"),
        (dict(tlc_size=(8, 8, 8)), "height, width"),
        (dict(tlc_size=-4), "tlc_size"),
        (dict(dtype="float16"), "bfloat16"),
    ],
)
def test_unfit_arguments_are_refused_at_creation(changes, words):
    with pytest.raises(ValueError, match=words):
        create_model("nafnet", **{**SMALL, **changes})


def test_unfit_images_are_refused():
    model = create_model("nafnet", **SMALL)
    variables = busy_variables(model)
    for method in ("__call__", "features"):
        with pytest.raises(ValueError, match="got dtype uint8"):
            model.apply(variables, np.zeros((1, 4, 4, 3), np.uint8), method=method)
