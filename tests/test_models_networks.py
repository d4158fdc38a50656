"""Properties of all backbones: sizes, batches, features, gradients, compute types, names."""

import json
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dcpt_jax.models import BACKBONES, create_model, parameter_shapes
from dcpt_jax.models.formulation import traced_for
from tests.golden import TINY, random_params, run

PARAMETERS = Path(__file__).parent / "parameters"


def slow(name):
    return pytest.param(name, marks=pytest.mark.slow)


SHORT = ["nafnet", slow("restormer"), slow("promptir"), slow("swinir")]
# Entries of the parameters behind the last feature.
TAILS = {
    "nafnet": {"ending"},
    "restormer": {"refinement", "output"},
    "promptir": {"up_1", "decoder_1", "refinement", "output"},
    "swinir": {"norm", "after_body", "last"},
}


def busy(name, scale=0.3, **changes):
    """A tiny network with random parameters, so that every part affects the output."""
    model = create_model(name, **{**TINY[name], **changes})
    return model, {"params": random_params(parameter_shapes(model), scale)}


def shallow(name, **changes):
    """`busy` with the fewest blocks: gradients take long to compile."""
    fewest = {"encoder_blocks": (1,), "decoder_blocks": (1,)} if name == "nafnet" else {}
    return busy(name, **fewest, **changes)


@cache  # so that tests of the same network share what was traced
def gradient_function(model, method):
    def loss(variables, image):
        outputs = jax.tree.leaves(model.apply(variables, image, method=method))
        return sum(jnp.square(output - 0.3).mean() for output in outputs)

    return jax.jit(traced_for(jax.default_backend())(jax.grad(loss, argnums=(0, 1))))


def loss_gradients(model, variables, image, method="__call__"):
    return gradient_function(model, method)(variables, image)


@pytest.mark.parametrize("name", BACKBONES)
def test_parameter_names_are_those_on_file(name):
    expected = json.loads((PARAMETERS / f"{name}.json").read_text())
    shapes = flatten_dict(parameter_shapes(create_model(name)), sep="/")
    assert {path: list(leaf.shape) for path, leaf in shapes.items()} == expected


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("size", [pytest.param((1, 1), marks=pytest.mark.slow), (5, 10)])
def test_any_size_gives_an_output_of_the_same_size(name, size):
    model, variables = busy(name)
    multiple = model.size_multiple
    image = jax.random.uniform(jax.random.key(1), (2, *size, 3))
    restored = run(model, variables, image)
    assert restored.shape == image.shape
    assert bool(jnp.isfinite(restored).all())
    # The same as padding by hand and cutting.
    margins = [(0, 0), *((0, -side % multiple) for side in size), (0, 0)]
    by_hand = run(model, variables, np.pad(image, margins, mode="reflect"))
    np.testing.assert_allclose(restored, by_hand[:, : size[0], : size[1]], rtol=1e-4, atol=1e-5)
    features = jax.eval_shape(partial(model.apply, method="features"), variables, image)
    h, w = (-(-side // multiple) * multiple for side in size)
    halvings = {"swinir": (0, 0, 0), "promptir": (1, 2, 3)}.get(name, range(len(features)))
    expected = [
        (2, h >> i, w >> i, channels)
        for i, channels in zip(halvings, model.feature_dims, strict=True)
    ]
    assert [feature.shape for feature in features] == expected


@pytest.mark.parametrize("name", SHORT)
def test_a_batch_equals_its_images_one_by_one(name):
    with jax.enable_x64(True):  # in float32 outputs of some hundred differ in the last digits
        model, variables = busy(name, dtype="float64")
        images = jax.random.uniform(jax.random.key(1), (3, 16, 8, 3), jnp.float64)
        restored = run(model, variables, images)
        one = jax.jit(model.apply)
        for image, expected in zip(images, restored, strict=True):
            found = one(variables, image[None])[0]
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_eager_equals_jit():
    model, variables = busy("nafnet")
    images = jax.random.uniform(jax.random.key(1), (1, 8, 8, 3))
    expected = run(model, variables, images)
    np.testing.assert_allclose(model.apply(variables, images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SHORT)
def test_nothing_behind_the_last_feature_runs_and_everything_before_gets_a_gradient(name):
    model, variables = shallow(name)
    image = jax.random.uniform(jax.random.key(1), (1, 16, 16, 3))
    gradients = flatten_dict(loss_gradients(model, variables, image, "features")[0]["params"])
    for path, gradient in gradients.items():
        in_tail = path[0] in TAILS[name]
        assert bool((gradient != 0).any()) != in_tail, path
    for part in TAILS[name]:
        del variables["params"][part]  # not even asked for
    features = run(model, variables, image, method="features")
    assert len(features) == len(model.feature_dims)
    with pytest.raises(Exception, match="|".join(TAILS[name])):
        run(model, variables, image)


@pytest.mark.parametrize("name", SHORT)
def test_gradients_of_constant_images_are_finite(name):
    model, variables = shallow(name)
    for level in (0.0, 0.5, 1.0):
        gradients = loss_gradients(model, variables, jnp.full((1, 8, 8, 3), level))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["restormer", "promptir"])
def test_gradients_of_zero_queries_are_finite(name):
    model, variables = shallow(name)
    variables = jax.tree.map(jnp.zeros_like, variables)
    gradients = loss_gradients(model, variables, jnp.zeros((1, 8, 8, 3)))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", ["nafnet", *map(slow, ("restormer", "promptir", "swinir"))])
def test_rematerialisation_changes_nothing_but_rounding(name):
    model, variables = shallow(name)
    again = model.clone(remat=True)
    assert again.arguments() == model.arguments()
    assert parameter_shapes(again) == parameter_shapes(model)
    with jax.enable_x64(True):
        image = np.random.default_rng(0).random((1, 8, 16, 3))
        wide = jax.tree.map(lambda leaf: np.float64(leaf), variables)
        model, again = (network.clone(dtype=jnp.dtype("float64")) for network in (model, again))
        expected = loss_gradients(model, wide, image)
        gradients = loss_gradients(again, wide, image)
    compare = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    jax.tree.map(compare, gradients, expected)


@pytest.mark.parametrize("remat", [True, False])
def test_blocks_over_prompts_are_rematerialised_like_the_others(remat):
    """On CPUs each block is recomputed inside a conditional."""
    model, variables = shallow("promptir", remat=remat)
    channels = 2 * model.dim + model.prompt_dims[0]

    def loss(variables, x):
        method = lambda model, x: model.mix(model.noise_1, x, None)  # noqa: E731
        return model.apply(variables, x, method=method).sum()

    with traced_for("cpu"):
        backward = jax.make_jaxpr(jax.grad(loss))(variables, jnp.ones((1, 4, 4, channels)))
    assert str(backward).count("cond[") == int(remat)


@pytest.mark.parametrize("name", SHORT)
def test_bfloat16_stays_close_to_float32(name):
    exact, variables = busy(name)
    fast = exact.clone(dtype=jnp.dtype(jnp.bfloat16))
    assert parameter_shapes(exact) == parameter_shapes(fast)
    image = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3))
    expected, restored = run(exact, variables, image), run(fast, variables, image)
    assert restored.dtype == jnp.float32
    features = jax.eval_shape(partial(fast.apply, method="features"), variables, image)
    assert {feature.dtype for feature in features} == {jnp.dtype(jnp.bfloat16)}
    # bfloat16 has steps of 1/256 or less. Measured: 0.008, 0.011, 0.008, 0.004.
    deviation = jnp.abs(restored - expected).mean() / jnp.abs(expected - image).mean()
    assert 1e-5 < float(deviation) < 0.02


@pytest.mark.slow  # each compiles two backward passes
@pytest.mark.parametrize("name", ["nafnet", "restormer", "promptir", "swinir"])
def test_gradients_in_bfloat16_stay_close_to_float32(name):
    exact, variables = busy(name, scale=0.2)
    fast = exact.clone(dtype=jnp.dtype(jnp.bfloat16))
    image = jax.random.uniform(jax.random.key(1), (2, 64, 64, 3))
    expected, gradients = (
        flatten_dict(loss_gradients(model, variables, image)[0]["params"], sep="/")
        for model in (exact, fast)
    )
    largest = max(float(jnp.linalg.norm(value)) for value in expected.values())
    for path, value in expected.items():
        norm, error = (float(jnp.linalg.norm(x)) for x in (value, gradients[path] - value))
        assert gradients[path].dtype == jnp.float32
        assert error < 0.1 * norm + 1e-3 * largest, path


@pytest.mark.parametrize("name", SHORT)
def test_a_network_without_residual_keeps_the_image_in_full_precision(name):
    model, variables = busy(name, dtype=jnp.bfloat16)
    last = variables["params"][model.output_layer]
    variables["params"][model.output_layer] = jax.tree.map(jnp.zeros_like, last)
    image = jax.random.uniform(jax.random.key(1), (1, 8, 8, 3))
    np.testing.assert_array_equal(run(model, variables, image), image)


@pytest.mark.parametrize("name", BACKBONES)
def test_unfit_images_are_refused(name):
    model, variables = busy(name)
    for method in ("__call__", "features"):
        for image, words in (
            (np.zeros((1, 8, 8, 3), np.uint8), "got dtype uint8"),
            (np.zeros((8, 8, 3), np.float32), r"image\[None\]"),
            (np.zeros((1, 8, 8, 4), np.float32), "got shape"),
            (np.zeros((1, 3, 8, 8), np.float32), "channels come last"),
        ):
            with pytest.raises(ValueError, match=words):
                model.apply(variables, image, method=method)
    with pytest.raises(ValueError, match="jax_enable_x64"):
        create_model(name, dtype="float64").init(jax.random.key(0), np.zeros((1, 8, 8, 3)))


@pytest.mark.slow  # compiles the initialisation of a stage
def test_rows_of_equal_blocks_are_drawn_differently():
    model = create_model("restormer", **{**TINY["restormer"], "num_blocks": (4, 1, 1, 1)})
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]["encoder_1"]
    kernels = [params[f"block_{i}"]["attention"]["qkv"]["kernel"] for i in range(4)]
    assert list(params) == [f"block_{i}" for i in range(4)]
    for kernel in kernels[1:]:
        assert bool((kernel != kernels[0]).all())
        assert 0.01 < float(kernel.std()) < 0.03  # normal, deviation 0.02


@pytest.mark.parametrize(
    ("name", "changes", "deviations"),
    [
        (
            "restormer",
            dict(dim=16),
            {"encoder_1/block_0/feed_forward/project_in/kernel": 0.02, "down_1/kernel": 0.02},
        ),
        pytest.param(
            "promptir",
            dict(dim=16, prompt_dims=(16, 16, 16)),
            {
                "encoder_1/block_0/attention/qkv/kernel": 1 / np.sqrt(3 * 16),
                "prompt_1/prompts": 1 / np.sqrt(12),
            },
            marks=pytest.mark.slow,
        ),
        (
            "swinir",
            dict(embed_dim=32),
            {
                "encoder_0/block_0/attention/qkv/kernel": 0.02,
                "encoder_0/block_0/mlp/expand/bias": 0,
                "first/kernel": 1 / np.sqrt(3 * 27),
            },
        ),
    ],
)
def test_initialisation_is_the_reference_s(name, changes, deviations):
    model = create_model(name, **{**TINY[name], **changes})
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    values = flatten_dict(params, sep="/")
    for path, deviation in deviations.items():
        assert float(values[path].std()) == pytest.approx(deviation, rel=0.1), path
