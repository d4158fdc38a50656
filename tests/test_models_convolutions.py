import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dcpt_jax.models import convolutions
from dcpt_jax.models.convolutions import depthwise_conv, patch_conv, pointwise_conv, square_conv


def naive(x, kernel, stride, padding, groups):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


CASES = {
    "depthwise": (depthwise_conv, (3, 3, 1, 6), dict(stride=1, padding=1, groups=6)),
    "pointwise": (pointwise_conv, (1, 1, 6, 5), dict(stride=1, padding=0, groups=1)),
    "square": (square_conv, (3, 3, 6, 5), dict(stride=1, padding=1, groups=1)),
    "patch": (patch_conv, (2, 2, 6, 5), dict(stride=2, padding=0, groups=1)),
}


@pytest.mark.parametrize(
    ("case", "how"), [*itertools.product(CASES, ("slices", "convolution")), ("depthwise", "taps")]
)
@pytest.mark.parametrize("size", [(8, 4), (2, 6)])
def test_value_and_both_gradients_equal_plain_autodiff(case, how, size, monkeypatch):
    monkeypatch.setattr(convolutions, "_WIDE", 1)
    conv, kernel_shape, settings = CASES[case]
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        x = jnp.asarray(rng.standard_normal((2, *size, 6)))
        kernel = jnp.asarray(rng.standard_normal(kernel_shape))
        y, pull = jax.vjp(lambda x, k: conv(x, k, how=how), x, kernel)
        expected, expected_pull = jax.vjp(lambda x, k: naive(x, k, **settings), x, kernel)
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
        direction = jnp.asarray(rng.standard_normal(y.shape))
        gradients, expected_gradients = pull(direction), expected_pull(direction)
        for gradient, wanted in zip(gradients, expected_gradients, strict=True):
            assert gradient.dtype == wanted.dtype == jnp.float64
            np.testing.assert_allclose(gradient, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("cache", "rows"), [(10**6, 6), (500, 3), (1, 1)])
def test_the_kernel_gradient_is_summed_over_parts_that_fit_into_the_cache(monkeypatch, cache, rows):
    monkeypatch.setattr(convolutions, "_WIDE", 1)
    monkeypatch.setattr(convolutions, "_CACHE_BYTES", cache)
    rng = np.random.default_rng(6)
    x = jnp.asarray(rng.standard_normal((2, 6, 4, 3)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 3, 5)), jnp.float32)
    assert convolutions._rows_in_cache(6, 2 * 4 * 5 * 4) == rows
    gradients = (
        jax.grad(lambda k, how=how: jnp.sin(square_conv(x, k, how=how)).sum())(kernel)
        for how in ("slices", "convolution")
    )
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 1)])
def test_depthwise_on_lines_and_single_pixels(size):
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.standard_normal((1, *size, 3)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 1, 3)), jnp.float32)
    loss = {
        how: jax.grad(lambda x, k, how=how: jnp.sin(depthwise_conv(x, k, how=how)).sum(), (0, 1))
        for how in ("slices", "convolution")
    }
    for fast, plain in zip(*(f(x, kernel) for f in loss.values()), strict=True):
        np.testing.assert_allclose(fast, plain, atol=1e-5)


@pytest.mark.parametrize("how", ["slices", "taps"])
def test_depthwise_keeps_bfloat16_and_sums_its_kernel_gradient_in_float32(how):
    # 4096 ones: a bfloat16 sum would stop growing at 256.
    x = jnp.ones((1, 64, 64, 2), jnp.bfloat16)
    kernel = jnp.ones((3, 3, 1, 2), jnp.bfloat16)
    y, pull = jax.vjp(lambda x, k: depthwise_conv(x, k, how=how), x, kernel)
    to_x, to_kernel = pull(jnp.ones_like(y))
    assert (y.dtype, to_x.dtype, to_kernel.dtype) == (jnp.bfloat16,) * 3
    assert to_kernel[1, 1, 0, 0] == 4096


def test_depthwise_under_vmap_and_jit():
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.standard_normal((3, 2, 4, 4, 2)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 3, 1, 2)), jnp.float32)

    def gradient(x, kernel):
        return jax.grad(lambda k: jnp.square(depthwise_conv(x, k, how="slices")).sum())(kernel)

    together = jax.jit(jax.vmap(gradient))(x, kernel)
    alone = jnp.stack([gradient(x[i], kernel[i]) for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize(
    ("backend", "expected"), [("cpu", "slices"), ("gpu", "convolution"), ("tpu", "convolution")]
)
def test_the_backend_chooses_the_formulation(monkeypatch, backend, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert convolutions.formulation() == expected
    # A new function each time, as JAX remembers what it traced.
    traced = jax.make_jaxpr(lambda x, kernel: depthwise_conv(x, kernel))
    text = str(traced(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))))
    assert ("conv_general_dilated" in text) == (expected == "convolution")


def test_single_operations_can_be_formulated():
    with convolutions.formulated(depthwise="taps"):
        assert convolutions.formulation("depthwise") == "taps"
        assert convolutions.formulation("pointwise") == "slices"  # as the backend has it
    with convolutions.formulated("convolution", depthwise="taps"):
        assert convolutions.formulation("depthwise") == "taps"
        assert convolutions.formulation("norm") == "convolution"
    assert convolutions.formulation("depthwise") == "slices"
