"""Masked networks: visible outputs do not depend on hidden inputs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax import create_model
from dcpt_jax.models import masking, parameter_shapes
from dcpt_jax.models.formulation import ACCELERATOR, CPU, formulated
from dcpt_jax.models.layers import attend_in_windows
from dcpt_jax.models.nafnet import NAFBlock
from dcpt_jax.models.swinir import ResidualStage, SwinBlock, ThreeConvs
from dcpt_jax.models.transformer import BlockStyle, TransformerBlock
from tests.conftest import TINY_BACKBONES
from tests.golden import random_params

PATCH = 8
# Compiling takes seconds. PromptIR is made of Restormer's parts, but for its prompts; SwinIR's
# window attention is tested alone, too.
NETWORKS = [
    "nafnet",
    "restormer",
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("promptir", "swinir")),
]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in TINY_BACKBONES]
SHORT = ["nafnet", *SLOW[1:]]
# Everything in a network that has to be masked: biases, two blocks in a row (shifted windows).
MORE = {
    "nafnet": {"encoder_blocks": (2,)},
    "restormer": {"bias": True, "norm": "with_bias", "attention": "softmax"},
    "promptir": {"bias": True},
    "swinir": {"depths": (2, 1, 1, 1, 1, 2), "resi_connection": "3conv"},
}


def busy(name, **changes):
    """A tiny network with random parameters, so that every part affects the output."""
    model = create_model(name, **{**TINY_BACKBONES[name], **MORE[name], **changes})
    return model, {"params": random_params(parameter_shapes(model))}


def images_and_mask(dtype=np.float32):
    """Three images of 16x24: half hidden; all but one patch; nothing visible at all."""
    rng = np.random.default_rng(0)
    cells = np.array([[[1, 0, 0], [0, 1, 1]], [[0, 0, 0], [0, 1, 0]], [[0] * 3] * 2])
    mask = cells.repeat(PATCH, 1).repeat(PATCH, 2)[..., None].astype(dtype)
    return rng.random((3, 16, 24, 3)).astype(dtype), mask


@functools.cache
def features_of(name):
    model, variables = busy(name)
    return model, jax.jit(lambda *inputs: model.apply(variables, *inputs, method="features"))


@pytest.mark.parametrize("name", NETWORKS)
def test_hidden_pixels_have_no_influence_and_no_features(name):
    model, features = features_of(name)
    images, visible = images_and_mask()
    others = np.where(visible > 0, images, np.random.default_rng(1).normal(0, 9, images.shape))
    others[0, 0, 10] = np.nan
    found = features(images, visible)
    jax.tree.map(np.testing.assert_array_equal, found, features(others.astype(np.float32), visible))
    for feature, channels in zip(found, model.feature_dims, strict=True):
        step = images.shape[1] // feature.shape[1]
        seen = np.broadcast_to(visible[:, ::step, ::step], (*feature.shape[:3], channels)) > 0
        assert not np.asarray(feature)[~seen].any()
        assert np.asarray(feature)[seen].all()


@pytest.mark.parametrize("name", SHORT)
def test_a_mask_that_hides_nothing_changes_nothing(name):
    _, features = features_of(name)
    images, visible = images_and_mask()
    found = (features(images, mask) for mask in (visible**0, visible))
    for ours, masked, plain in zip(*found, features(images), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4 * np.abs(plain).max())
        assert np.abs(masked - plain)[0, :4, :4].max() > 1e-3  # one that hides something does


@pytest.mark.slow  # compiles two gradients of each network in float64
@pytest.mark.parametrize("name", TINY_BACKBONES)
def test_gradients_are_finite_and_the_same_rematerialised(name):
    images, visible = images_and_mask(np.float64)
    with jax.enable_x64(True):
        gradients = []
        for remat in (False, True):
            model, variables = busy(name, remat=remat, dtype=jnp.float64)

            def loss(params, images, model=model):
                found = model.apply({"params": params}, images, visible, method="features")
                return sum(jnp.sin(feature).sum() for feature in found)

            gradients.append(jax.jit(jax.grad(loss, (0, 1)))(variables["params"], images))
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all()
    to_images = np.asarray(gradients[0][1])
    assert not to_images[np.broadcast_to(visible == 0, images.shape)].any()
    assert np.abs(to_images).max() > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), *gradients)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY_BACKBONES)
def test_gradients_in_float32_and_bfloat16_are_finite(name):
    images, visible = images_and_mask()
    for dtype in (jnp.float32, jnp.bfloat16):
        model, variables = busy(name, dtype=dtype, remat=True)

        def loss(params, model=model):
            found = model.apply({"params": params}, images, visible, method="features")
            return sum(jnp.sin(feature.astype(jnp.float32)).sum() for feature in found)

        for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(variables["params"])):
            assert np.isfinite(leaf).all()


def norm_by_hand(y, p, epsilon):
    y = y - y.mean(-1, keepdims=True)
    return y / np.sqrt((y**2).mean(-1, keepdims=True) + epsilon) * p["scale"] + p["bias"]


def pointwise(y, p):
    return y @ p["kernel"][0, 0] + p["bias"]


def test_a_nafnet_block_by_hand():
    """Its depthwise convolution sees visible neighbours only, its attention their mean."""
    rng = np.random.default_rng(0)
    x, visible = rng.standard_normal((1, 4, 8, 2)), np.zeros((1, 4, 8, 1))
    visible[:, :, 2:4] = visible[:, :2, 4:6] = 1
    with jax.enable_x64(True):
        block = NAFBlock(dtype=jnp.float64)
        shapes = jax.eval_shape(block.init, jax.random.key(0), x)["params"]
        params = random_params(shapes)
        found = np.asarray(block.apply({"params": params}, x, visible))

    y = pointwise(norm_by_hand(x, params["norm_1"], 1e-6), params["conv_1"])
    mixed = np.zeros_like(y) + params["conv_2"]["bias"]
    for row, column in np.argwhere(visible[0, ..., 0]):
        for i, j in np.ndindex(3, 3):
            r, c = row + i - 1, column + j - 1
            if 0 <= r < 4 and 0 <= c < 8 and visible[0, r, c]:
                mixed[0, row, column] += y[0, r, c] * params["conv_2"]["kernel"][i, j, 0]
    y = mixed[..., :2] * mixed[..., 2:]
    mean = y[0][visible[0, ..., 0] > 0].mean(axis=0)
    y = pointwise(y * pointwise(mean, params["attention"]), params["conv_3"])
    x = x + y * params["beta"]
    y = pointwise(norm_by_hand(x, params["norm_2"], 1e-6), params["conv_4"])
    y = pointwise(y[..., :2] * y[..., 2:], params["conv_5"])
    expected = x + y * params["gamma"]
    seen = visible[0, ..., 0] > 0
    np.testing.assert_allclose(found[0][seen], expected[0][seen], rtol=1e-10)


def test_a_block_of_maskdcpts_promptir_by_hand():
    """Depthwise convolutions see biases where hidden; the attention hides its maps after them."""
    rng = np.random.default_rng(0)
    style = BlockStyle(
        ffn_expansion=1.5,
        use_bias=True,
        norm="with_bias",
        epsilon=1e-5,
        attention="softmax",
        kernel_init=None,
        bias_init=None,
        dtype=jnp.float64,
        masking="maskdcpt",
    )
    x, visible = rng.standard_normal((1, 4, 6, 4)), np.zeros((1, 4, 6, 1))
    visible[:, :, 2:4] = visible[:, :2, 4:6] = 1
    with jax.enable_x64(True):
        block = TransformerBlock(2, style)
        shapes = jax.eval_shape(block.init, jax.random.key(0), x)["params"]
        params = random_params(shapes)
        found = np.asarray(block.apply({"params": params}, x, visible))

    def depthwise(y, p):
        padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
        taps = (padded[:, i : i + 4, j : j + 6] * p["kernel"][i, j, 0] for i, j in np.ndindex(3, 3))
        return sum(taps) + p["bias"]

    p = params["attention"]
    y = pointwise(norm_by_hand(x, params["norm_1"], 1e-5) * visible, p["qkv"])
    y = (depthwise(y, p["qkv_depthwise"]) * visible).reshape(24, 3, 2, 2)
    query, key, value = y.transpose(1, 2, 3, 0)  # each [heads, channels, pixels]
    query = query / np.linalg.norm(query, axis=-1, keepdims=True)
    key = key / np.linalg.norm(key, axis=-1, keepdims=True)
    scores = np.exp(query @ key.swapaxes(1, 2) * p["temperature"][:, None, None])
    y = (scores / scores.sum(-1, keepdims=True) @ value).reshape(4, 24).T.reshape(1, 4, 6, 4)
    x = x + pointwise(y, p["project_out"])
    p = params["feed_forward"]
    y = depthwise(
        pointwise(norm_by_hand(x, params["norm_2"], 1e-5) * visible, p["project_in"]),
        p["depthwise"],
    )
    gate = y[..., :6] * (1 + np.vectorize(math.erf)(y[..., :6] / math.sqrt(2))) / 2
    expected = x + pointwise(gate * y[..., 6:], p["project_out"]) * visible
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_a_stage_of_maskdcpts_swinir_hides_the_output_of_its_convolutions():
    """Of "3conv" only the last one, so that hidden positions take part in between."""
    rng = np.random.default_rng(0)
    x, visible = rng.standard_normal((1, 8, 8, 4)), np.zeros((1, 8, 8, 1))
    visible[:, :, 4:] = 1
    with jax.enable_x64(True):
        block = functools.partial(
            SwinBlock, heads=1, window=4, hidden=4, qkv_bias=True, shift=0, masking="maskdcpt"
        )
        stage = ResidualStage(
            1,
            kinds=(functools.partial(block, dtype=jnp.float64),),
            resi_connection="3conv",
            masking="maskdcpt",
            dtype=jnp.float64,
        )
        params = random_params(jax.eval_shape(stage.init, jax.random.key(0), x)["params"])
        found = stage.apply({"params": params}, x, visible)
        y = block(dtype=jnp.float64).apply({"params": params["block_0"]}, x, visible)
        y = np.asarray(ThreeConvs(jnp.float64).apply({"params": params["conv"]}, y))
    np.testing.assert_allclose(found, x + y * visible, rtol=1e-10, atol=1e-12)


def test_convolutions_hide_input_or_output():
    x, visible = jnp.ones((1, 1, 4, 1)), np.float32([1, 1, 0, 0]).reshape(1, 1, 4, 1)

    def shifted(x):
        return jnp.roll(x, 1, axis=2) + 1

    for how, expected in (("sparse", [1, 2, 2, 1]), ("maskdcpt", [2, 2, 0, 0])):
        found = masking.masked(shifted, x, visible, how)
        np.testing.assert_array_equal(found[0, 0, :, 0], expected)


def test_means_and_hidden_maps_of_coarser_size():
    x = jnp.arange(16.0).reshape(1, 2, 4, 2)
    visible = np.zeros((1, 4, 8, 1), np.float32)
    visible[:, 2:, :4] = 1  # the first two pixels of the second row of x
    hidden = np.asarray(masking.hide(x, visible))
    np.testing.assert_array_equal(hidden[0, 1, :2], x[0, 1, :2])
    assert hidden.sum() == x[0, 1, :2].sum()
    np.testing.assert_array_equal(masking.visible_mean(x, visible), [[9, 10]])
    np.testing.assert_array_equal(masking.visible_mean(x, visible * 0), [[0, 0]])
    np.testing.assert_array_equal(masking.visible_mean(x, None, keepdims=True)[0, 0], [[7, 8]])
    half = masking.hide(jnp.full((1, 4, 8, 1), jnp.nan, jnp.bfloat16), visible)
    assert half.dtype == jnp.bfloat16 and int(jnp.isnan(half).sum()) == 8


@pytest.mark.parametrize("how", [CPU, ACCELERATOR])
def test_window_attention_leaves_hidden_keys_out(how):
    """As if they were missing; a window without visible pixels becomes zero."""
    rng = np.random.default_rng(0)
    qkv = jnp.asarray(rng.standard_normal((1, 2, 1, 4, 12)), jnp.float32)
    visible = jnp.asarray([[[[1, 0, 1, 1]], [[0, 0, 0, 0]]]], jnp.float32)

    def attend(qkv, visible=None):
        with formulated(how):
            return attend_in_windows(*jnp.split(qkv, 3, axis=-1), 2, visible)

    found = attend(qkv, visible)
    rest = attend(qkv[:, :1, :, jnp.array([0, 2, 3])])
    np.testing.assert_allclose(found[0, 0, 0, jnp.array([0, 2, 3])], rest[0, 0, 0], rtol=1e-5)
    assert not found[0, 1].any()
    gradient = jax.grad(lambda qkv: jnp.sin(attend(qkv, visible)).sum())(qkv)
    assert bool(jnp.isfinite(gradient).all())
    assert not gradient[0, 1].any() and not gradient[0, 0, 0, 1].any()


def test_random_masks():
    def draw(seed, count=3, ratio=0.5):
        return np.asarray(
            masking.random_mask(
                jax.random.key(seed), (count, 16, 24), ratio=ratio, patch=4, dtype=jnp.float32
            )
        )

    mask = draw(0)
    assert mask.shape == (3, 16, 24, 1) and set(np.unique(mask)) == {0.0, 1.0}
    cells = mask[:, ::4, ::4]
    np.testing.assert_array_equal(cells.repeat(4, 1).repeat(4, 2), mask)
    for ratio, hidden in ((0.0, 0), (0.5, 12), (0.27, 6), (0.95, 23)):
        counts = (draw(1, ratio=ratio)[:, ::4, ::4] == 0).sum(axis=(1, 2, 3))
        np.testing.assert_array_equal(counts, hidden)
    assert len({one.tobytes() for one in (*mask, *draw(1))}) == 6  # all different
    np.testing.assert_array_equal(mask, draw(0))
    # Each patch is hidden as often as any other: 2000 fair throws, within five deviations.
    share = draw(2, count=2000)[:, ::4, ::4].mean(axis=0)
    assert np.abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(2000)


@pytest.mark.parametrize(
    ("patches", "visible"),
    [(3, 2), (5, 2), (7, 4), (9, 4), (15, 8), (25, 12), (63, 32), (256, 128)],
)
def test_the_number_of_visible_patches_is_rounded_as_in_maskdcpt(patches, visible):
    assert masking.hidden_count(0.5, 8, 8, 8 * patches) == patches - visible


def test_masks_that_do_not_fit():
    model, variables = busy("restormer")

    def features(images, visible):
        return jax.eval_shape(lambda: model.apply(variables, images, visible, method="features"))

    images = jnp.zeros((1, 16, 16, 3))
    for visible in (jnp.ones((1, 16, 16)), jnp.ones((1, 8, 8, 1)), jnp.ones((1, 16, 16, 1), int)):
        with pytest.raises(ValueError, match=r"visible must be a float array \(1, 16, 16, 1\)"):
            features(images, visible)
    with pytest.raises(ValueError, match=r"\(12, 16\) must be multiples of 8"):
        features(images[:, :12], jnp.ones((1, 12, 16, 1)))
    for arguments, message in (
        ((0, 16, 16, 8), "patches of 0 pixels; for this network .* a multiple of 8"),
        ((12, 24, 24, 8), "patches of 12 pixels; for this network .* a multiple of 8"),
        ((16, 16, 24, 8), "patches of 16 pixels do not divide images of 16x24"),
    ):
        with pytest.raises(ValueError, match=message):
            masking.check_patch(*arguments)
    masking.check_patch(16, 32, 48, 8)
    model = create_model("nafnet", **TINY_BACKBONES["nafnet"], tlc_size=16)
    variables = {"params": parameter_shapes(model)}
    with pytest.raises(ValueError, match=r"tlc_size is \(16, 16\), .* tlc_size None"):
        jax.eval_shape(
            lambda v: model.apply(v, images, images[..., :1], method="features"), variables
        )
