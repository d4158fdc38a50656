import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dcpt_jax.convert.naming import from_torch, to_torch
from dcpt_jax.models import create_classifier, parameter_shapes
from dcpt_jax.models.classifier import subsample
from tests.golden import random_params, read_arrays, read_case, rule_weights, run

PARAMETERS = Path(__file__).parent / "parameters"


def recorded_case(case, dtype):
    config, recorded = read_case(f"classifiers/{case}")
    kwargs = config["kwargs"]
    classifier = create_classifier(
        kwargs["feature_dims"],
        kwargs["num_classes"],
        num_blocks=kwargs["num_res_blocks"],
        resize_features=kwargs.get("downsample", False),
        image_input=config["arch"] == "PromptIR_DC",
        dtype=dtype,
    )
    weights = rule_weights(config["params"], config["weight_salt"])
    if dtype == jnp.float64:
        weights = {name: value.astype(np.float64) for name, value in weights.items()}
    arrays = read_arrays(config["features_from"])
    features = [jnp.asarray(arrays[key], dtype) for key in config["feature_keys"]]
    if kwargs.get("downsample"):  # the reference has lists of tokens, of square images
        sides = [round(feature.shape[1] ** 0.5) for feature in features]
        features = [
            feature.reshape(feature.shape[0], side, side, -1)
            for feature, side in zip(features, sides, strict=True)
        ]
    inputs = (features, jnp.asarray(recorded["lq"], dtype)) if "lq" in recorded else (features,)
    return config, recorded, classifier, {"params": from_torch(weights, classifier)}, inputs


# The features of all four networks are recorded, so the networks are not needed.
CASES = ("dc_nafnet", "dc_restormer", "dc_promptir_tiny", "dc_img_promptir_tiny", "dc_swinir")


@pytest.mark.parametrize("case", CASES)
def test_float32_logits_match_the_reference(case):
    config, recorded, classifier, variables, inputs = recorded_case(case, jnp.float32)
    logits = run(classifier, variables, *inputs)
    assert logits.dtype == jnp.float32
    assert np.abs(logits - recorded["logits"]).max() <= 10 * config["f32_vs_f64_max_abs"]


# Of NAFNet's and Restormer's features only the numbers of channels are others.
@pytest.mark.parametrize(
    "case", [*(pytest.param(case, marks=pytest.mark.slow) for case in CASES[:2]), *CASES[2:]]
)
def test_float64_logits_and_gradients_match_the_reference(case):
    with jax.enable_x64(True):
        config, recorded, classifier, variables, inputs = recorded_case(case, jnp.float64)
        logits = run(classifier, variables, *inputs)
        np.testing.assert_allclose(logits, recorded["logits_f64"], rtol=1e-9)
        labels = jnp.arange(len(logits))

        def loss(params, features, *image):
            logits = classifier.apply({"params": params}, features, *image)
            return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean()

        value, (to_params, to_features) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
            variables["params"], *inputs
        )
        norms = {k: float(np.linalg.norm(v)) for k, v in to_torch(to_params, classifier).items()}
    check = config["grad_check"]
    assert float(value) == pytest.approx(check["loss"], rel=1e-9)
    assert norms == pytest.approx(check["norms"], rel=1e-8)
    norms = [float(np.linalg.norm(gradient)) for gradient in to_features]
    assert norms == pytest.approx(check["feature_norms"], rel=1e-8)


@pytest.mark.parametrize(
    ("dims", "blocks", "resize", "count"),
    [
        ((64, 128, 256, 512), 2, False, 49_290_505),
        ((64, 128, 256, 512), 1, False, 24_863_625),
        ((96, 96, 192), 2, False, 7_449_800),
        ((96, 192, 192), 2, False, 9_691_208),
        ((180, 180, 180), 2, True, 10_480_508),
    ],
)
def test_parameter_counts_of_the_published_classifiers(dims, blocks, resize, count):
    classifier = create_classifier(dims, 5, num_blocks=blocks, resize_features=resize)
    leaves = jax.tree.leaves(parameter_shapes(classifier))
    assert sum(np.prod(leaf.shape) for leaf in leaves) == count


def test_the_classifier_with_image_input_explains_its_inputs():
    features = random_features((4, 8), 8)
    with_image = create_classifier((4, 8), 3, num_blocks=1, image_input=True)
    for image, words in (
        (None, "degraded images too"),
        (jnp.zeros((1, 8, 8, 3)), "twice the size"),
        (jnp.zeros((1, 16, 16, 4)), "images"),
    ):
        with pytest.raises(ValueError, match=words):
            with_image.init(jax.random.key(0), features, image)
    with pytest.raises(ValueError, match="features alone"):
        create_classifier((4, 8), 3).init(jax.random.key(0), features, jnp.zeros((1, 16, 16, 3)))


def test_parameter_names_are_those_on_file():
    expected = json.loads((PARAMETERS / "classifier.json").read_text())
    shapes = flatten_dict(parameter_shapes(create_classifier((64, 128, 256, 512), 5)), sep="/")
    assert {name: list(leaf.shape) for name, leaf in shapes.items()} == expected


def test_initialisation():
    classifier = create_classifier((32,), 5, num_blocks=1)
    features = random_features((32,), 8)
    params = classifier.init(jax.random.key(0), features)["params"]
    np.testing.assert_array_equal(params["mixing_weights"], [1])
    block = params["level_0"]["block_0"]
    for name, fan_out in (("conv_1", 64), ("conv_2", 9 * 64), ("conv_3", 32)):
        kernel = block[name]["kernel"]
        assert float(kernel.std()) == pytest.approx(np.sqrt(2 / fan_out), rel=0.06)
        assert float(jnp.abs(kernel).max()) > 2.5 * np.sqrt(2 / fan_out)  # normal, not uniform
    for kernel in (params["down_0"]["kernel"], params["head"]["kernel"]):
        assert 0.9 / np.sqrt(32) < float(jnp.abs(kernel).max()) <= 1 / np.sqrt(32)


def random_features(dims, size, batch=2, resize=False, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(7), len(dims))
    sizes = [size if resize else size >> i for i in range(len(dims))]
    return tuple(
        jax.random.normal(key, (batch, side, side, channels), dtype)
        for key, side, channels in zip(keys, sizes, dims, strict=True)
    )


def test_odd_sizes_are_rounded_down():
    classifier = create_classifier((4, 6), 3, num_blocks=1)
    features = random_features((4, 6), 9)
    assert features[1].shape == (2, 4, 4, 6)
    variables = {"params": random_params(parameter_shapes(classifier))}
    assert run(classifier, variables, features).shape == (2, 3)


def test_resizing_takes_every_second_or_fourth_pixel():
    np.testing.assert_array_equal(
        subsample(jnp.arange(7.0).reshape(1, 1, 7, 1).repeat(7, 1), 2)[0, 0, :, 0], [0, 2, 4]
    )
    classifier = create_classifier((4, 4), 3, num_blocks=1, resize_features=True)
    features = random_features((4, 4), 8, resize=True)
    variables = {"params": random_params(parameter_shapes(classifier))}
    halving = create_classifier((4, 4), 3, num_blocks=1)
    shrunk = (features[0], features[1][:, ::2, ::2])
    np.testing.assert_array_equal(
        run(classifier, variables, features), run(halving, variables, shrunk)
    )


def test_bfloat16_stays_close_to_float32():
    features = random_features((8, 16), 16)
    exact = create_classifier((8, 16), 5)
    variables = {"params": random_params(parameter_shapes(exact))}
    fast = create_classifier((8, 16), 5, dtype=jnp.bfloat16)
    expected, logits = run(exact, variables, features), run(fast, variables, features)
    assert logits.dtype == jnp.float32
    deviation = jnp.abs(logits - expected).max() / jnp.abs(expected).max()
    assert 1e-5 < float(deviation) < 0.005  # measured 0.0017


def test_gradients_of_constant_features_are_finite():
    classifier = create_classifier((4, 8), 3, num_blocks=1)
    features = tuple(jnp.zeros_like(feature) for feature in random_features((4, 8), 8))
    variables = {"params": random_params(parameter_shapes(classifier))}
    gradient = jax.grad(lambda v, f: classifier.apply(v, f).sum(), (0, 1))
    gradients = jax.jit(gradient)(variables, features)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f[:1], "got 1 features"),
        (lambda f: f[0], "got one array"),
        (lambda f: f[::-1], r"\(4, 8\) channels"),
        (lambda f: (f[0], f[1][..., :7]), r"\(4, 8\) channels"),
        (lambda f: (f[0], f[1][0]), r"\[b, h, w, c\]"),
        (lambda f: (f[0], f[1][:, :3]), "half the size"),
        (lambda f: (f[0], f[1][:1]), "half the size"),
        (lambda f: tuple(x[:, :2, :2] if i == 0 else x[:, :1, :1] for i, x in enumerate(f)), "2x2"),
        (lambda f: tuple(x.astype(jnp.int32) for x in f), "floating-point"),
    ],
)
def test_unfit_features_are_refused(change, words):
    classifier = create_classifier((4, 8), 3, num_blocks=1)
    features = random_features((4, 8), 8)
    variables = {"params": random_params(parameter_shapes(classifier))}
    with pytest.raises(ValueError, match=words):
        classifier.apply(variables, change(features))


def test_features_of_unequal_size_are_refused_when_they_are_to_be_resized():
    classifier = create_classifier((4, 8), 3, resize_features=True)
    with pytest.raises(ValueError, match="of one size"):
        classifier.init(jax.random.key(0), random_features((4, 8), 8))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((), 5), "feature_dims"),
        (((4, 8), 0), "num_classes"),
        (((4, 8), 5, 0), "num_blocks"),
    ],
)
def test_unfit_arguments_are_refused(arguments, words):
    dims, classes, *blocks = arguments
    with pytest.raises(ValueError, match=words):
        create_classifier(dims, classes, **({"num_blocks": blocks[0]} if blocks else {}))


def test_arguments_rebuild_the_classifier():
    classifier = create_classifier([4, 8], 3, num_blocks=1, resize_features=True)
    stored = json.loads(json.dumps(classifier.arguments()))
    assert create_classifier(**stored) == classifier
