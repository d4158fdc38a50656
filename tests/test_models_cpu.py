"""Every formulation of an operation equals plain JAX: values, gradients, dtypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dcpt_jax.models import cpu
from dcpt_jax.models.formulation import ACCELERATOR, CPU, formulated
from dcpt_jax.models.layers import (
    Conv,
    DepthwiseConv,
    LayerNorm,
    Linear,
    convolve,
    depthwise_conv,
    gated_gelu,
    gelu,
    normalise,
    plain_conv,
    project_and_split,
    scale_channels,
)
from tests.golden import random_params

BOTH = (CPU, ACCELERATOR)


def formulated_as(how, function):
    """The function, always traced in this formulation."""

    def call(*args):
        with formulated(how):
            return function(*args)

    return call


def assert_equal_with_gradients(function, expected, *inputs, rtol=1e-10):
    y, pull = jax.vjp(function, *inputs)
    wanted, expected_pull = jax.vjp(expected, *inputs)
    np.testing.assert_allclose(y, wanted, rtol=rtol, atol=rtol)
    direction = jnp.asarray(np.random.default_rng(9).standard_normal(y.shape), y.dtype)
    for found, other in zip(pull(direction), expected_pull(direction), strict=True):
        assert found.dtype == other.dtype
        np.testing.assert_allclose(found, other, rtol=rtol, atol=rtol)


CONVOLUTIONS = {
    "depthwise": (depthwise_conv, (3, 3, 1, 6), dict(padding=1, groups=6)),
    "1x1": (convolve, (1, 1, 6, 5), {}),
    "3x3": (convolve, (3, 3, 6, 5), dict(padding=1)),
    "patch": (functools.partial(convolve, stride=2), (2, 2, 6, 5), dict(stride=2)),
    "7x7": (functools.partial(convolve, stride=2), (7, 7, 6, 5), dict(stride=2, padding=3)),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("size", [(8, 4), (2, 6)])
def test_convolutions(case, how, size, monkeypatch):
    monkeypatch.setattr(cpu.convolutions, "WIDE", 1)
    conv, kernel_shape, settings = CONVOLUTIONS[case]
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        x, kernel = (jnp.asarray(rng.standard_normal(s)) for s in ((2, *size, 6), kernel_shape))
        plain = functools.partial(plain_conv, **settings)
        assert_equal_with_gradients(formulated_as(how, conv), plain, x, kernel)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 1)])
def test_depthwise_on_lines_and_single_pixels(size):
    rng = np.random.default_rng(4)
    with jax.enable_x64(True):
        x, kernel = (jnp.asarray(rng.standard_normal(s)) for s in ((1, *size, 3), (3, 3, 1, 3)))
        plain = functools.partial(plain_conv, padding=1, groups=3)
        assert_equal_with_gradients(formulated_as("cpu", depthwise_conv), plain, x, kernel)


@pytest.mark.parametrize(("cache", "rows"), [(10**6, 6), (500, 3), (1, 1)])
def test_the_kernel_gradient_is_summed_over_parts_that_fit_into_the_cache(monkeypatch, cache, rows):
    monkeypatch.setattr(cpu.convolutions, "_CACHE_BYTES", cache)
    rng = np.random.default_rng(6)
    x = jnp.asarray(rng.standard_normal((2, 6, 4, 3)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 3, 5)), jnp.float32)
    assert cpu.convolutions._rows_in_cache(6, 2 * 4 * 5 * 4) == rows
    plain = functools.partial(plain_conv, padding=1)
    assert_equal_with_gradients(cpu.convolutions.square_conv, plain, x, kernel, rtol=1e-4)


def test_depthwise_keeps_bfloat16_and_sums_its_kernel_gradient_in_float32():
    # 4096 ones: a bfloat16 sum would stop growing at 256.
    x = jnp.ones((1, 64, 64, 2), jnp.bfloat16)
    kernel = jnp.ones((3, 3, 1, 2), jnp.bfloat16)
    y, pull = jax.vjp(formulated_as("cpu", depthwise_conv), x, kernel)
    to_x, to_kernel = pull(jnp.ones_like(y))
    assert (y.dtype, to_x.dtype, to_kernel.dtype) == (jnp.bfloat16,) * 3
    assert to_kernel[1, 1, 0, 0] == 4096


def test_depthwise_under_vmap_and_jit():
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.standard_normal((3, 2, 4, 4, 2)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 3, 1, 2)), jnp.float32)

    def gradient(x, kernel):
        return jax.grad(lambda k: jnp.square(depthwise_conv(x, k)).sum())(kernel)

    together = jax.jit(jax.vmap(gradient))(x, kernel)
    alone = jnp.stack([gradient(x[i], kernel[i]) for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def plain_norm(x, epsilon, centred):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean if centred else x) / jnp.sqrt(variance + epsilon)


@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("centred", [True, False])
def test_normalising(how, centred):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, 4, 5)) + 0.5)
        norm = formulated_as(how, lambda x: normalise(x, 1e-2, centred=centred))
        assert_equal_with_gradients(norm, lambda x: plain_norm(x, 1e-2, centred), x)


@pytest.mark.parametrize("centred", [True, False])
def test_scale_and_bias_come_last(centred):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    params = {"scale": jnp.arange(5.0)} | ({"bias": 10 * jnp.ones(5)} if centred else {})
    norm = LayerNorm(1e-2, centred=centred)
    shapes = jax.tree.map(jnp.shape, norm.init(jax.random.key(0), x)["params"])
    assert shapes == dict.fromkeys(params, (5,))
    expected = plain_norm(x, 1e-2, centred) * params["scale"] + params.get("bias", 0)
    np.testing.assert_allclose(norm.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-5)


def test_a_bfloat16_norm_has_float32_statistics():
    # In bfloat16 these would have mean 256 and no variance.
    x = jnp.asarray([[256.0, 258.0]], jnp.bfloat16)
    y = LayerNorm(dtype=jnp.bfloat16).apply(
        {"params": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}}, x
    )
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), [[-1, 1]], atol=1e-2)


@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("centred", [True, False])
def test_constant_pixels_have_finite_gradients(how, centred):
    norm = formulated_as(how, lambda x: normalise(x, 1e-6, centred=centred))
    for level in (0.0, 0.7):
        x = jnp.full((1, 2, 2, 8), level)
        gradient = jax.grad(lambda x: jnp.sum(norm(x) * jnp.arange(8.0)))(x)
        assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize("how", BOTH)
def test_gelu_and_its_slope_by_hand(how):
    """Phi(1) = 0.8413447460685429 and phi(1) = 0.24197072451914337."""
    with jax.enable_x64(True):
        x = jnp.array([-1.0, 0.0, 1.0])
        values = [-0.15865525393145707, 0, 0.8413447460685429]
        y, pull = jax.vjp(formulated_as(how, gelu), x)
        np.testing.assert_allclose(y, values, rtol=1e-14)
        slopes = [0.15865525393145707 - 0.24197072451914337, 0.5, 1.0833154705876863]
        np.testing.assert_allclose(pull(jnp.ones(3))[0], slopes, rtol=1e-13)


@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-13)])
def test_gelu_and_its_gated_form(how, dtype, tolerance):
    plain = functools.partial(jax.nn.gelu, approximate=False)
    check = functools.partial(assert_equal_with_gradients, rtol=tolerance)
    with jax.enable_x64(True):
        x = jnp.linspace(-12, 12, 4001, dtype=dtype)
        check(formulated_as(how, gelu), plain, x)
        gated = formulated_as(how, gated_gelu)
        check(gated, lambda x, factor: plain(x) * factor, x, jnp.cos(7 * x))


@pytest.mark.parametrize("how", BOTH)
def test_gelu_in_bfloat16_loses_no_digits_and_is_finite_far_from_zero(how):
    x = jnp.linspace(-4, 4, 257).astype(jnp.bfloat16)
    expected = jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(jnp.bfloat16)
    for found in (formulated_as(how, gelu)(x), formulated_as(how, gated_gelu)(x, x**0)):
        assert found.dtype == jnp.bfloat16
        assert (abs(found.view(jnp.int16) - expected.view(jnp.int16)) <= 1).all()
    x = jnp.array([-1e30, -100.0, 0.0, 100.0, 1e30])
    gradient = jax.grad(lambda x: formulated_as(how, gelu)(x).sum())(x)
    np.testing.assert_array_equal(gradient, [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("layer", [Conv, Linear])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("centred", [True, False])
def test_a_norm_and_a_factor_folded_into_a_kernel_change_nothing(
    monkeypatch, centred, use_bias, layer
):
    folded = []
    monkeypatch.setattr(cpu.folding, "_PIXELS_FOR_A_CHANNEL", 1)
    is_worthwhile = cpu.folding.is_worthwhile
    monkeypatch.setattr(
        cpu.folding, "is_worthwhile", lambda *args: folded.append(args) or is_worthwhile(*args)
    )
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal((2, 5, 6, 4)))
        norm = LayerNorm(centred=centred, dtype=jnp.float64)
        second = layer(3, use_bias=use_bias, dtype=jnp.float64)
        shapes = jax.eval_shape(
            lambda: (norm.init(jax.random.key(0), x), second.init(jax.random.key(0), x))
        )
        params = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), shapes)
        leaves, structure = jax.tree.flatten(params)

        def apply(x, factor, *leaves):
            params = jax.tree.unflatten(structure, leaves)
            return scale_channels(second.apply(params[1], norm.apply(params[0], x)), factor)

        inputs = (x, jnp.asarray(rng.standard_normal(3)), *leaves)
        assert_equal_with_gradients(
            formulated_as("cpu", apply), formulated_as("accelerator", apply), *inputs
        )
    assert len(folded) == 2  # the norm and the factor


def test_small_maps_are_not_folded():
    assert cpu.folding.is_worthwhile(jnp.ones((1, 4, 4, 2)), 4)
    assert not cpu.folding.is_worthwhile(jnp.ones((1, 4, 4, 2)), 5)
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((1, 1, 2, 5))
    with formulated(CPU):  # nothing is known of x
        assert cpu.folding.fold_norm(x, kernel, None) == (x, kernel, None)
        assert cpu.folding.scaled(x, jnp.ones(2)) is None


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("use_bias", [True, False])
def test_a_map_in_parts_is_the_map(mixed, use_bias):
    x = jax.random.normal(jax.random.key(0), (2, 8, 4, 3))
    visible = jnp.ones((2, 8, 4, 1)).at[:, :4].set(0)
    project, mix = Conv(6, use_bias=use_bias), DepthwiseConv(use_bias=use_bias) if mixed else None

    class Split(nn.Module):
        @nn.compact
        def __call__(self, x):
            bound = [None if m is None else m.clone(parent=self) for m in (project, mix)]
            return project_and_split(x, 3, *bound, visible)

    params = random_params(jax.eval_shape(Split().init, jax.random.key(0), x)["params"])
    found, expected = (
        formulated_as(how, Split().apply)({"params": params}, x) for how in ("cpu", "accelerator")
    )
    assert [part.shape[-1] for part in found] == [2, 2, 2]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
