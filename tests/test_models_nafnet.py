from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dcpt_jax.models import create_model, parameter_shapes
from dcpt_jax.models.nafnet import moving_mean, pooled
from tests.golden import TINY, random_params, read_case, recorded_network, run

PARAMETERS = Path(__file__).parent / "parameters"
CASES = ("nafnet_small", "nafnet_multiblock")
SMALL = TINY["nafnet"]


def busy_variables(model):
    return {"params": random_params(parameter_shapes(model))}


@pytest.mark.parametrize("size", ["64x80", "32x64", "48x48", "40x40"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_local_converter_matches_the_reference(size, dtype):
    tlc, recorded = read_case("tlc/tlc_small")
    config, _ = read_case(tlc["base_case"])
    with jax.enable_x64(dtype == "float64"):
        model, variables = recorded_network(
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
    small = {**SMALL, "encoder_blocks": (1,), "decoder_blocks": (1,)}
    plain = create_model("nafnet", **small)
    local = create_model("nafnet", **small, tlc_size=8)
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


def test_a_new_network_returns_its_input_plus_a_small_residual_of_identity_blocks():
    model = create_model("nafnet", width=4, encoder_blocks=(1,), decoder_blocks=(1,))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
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
