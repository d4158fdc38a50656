import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dcpt_jax.models.activations import gated_gelu, gelu


def plain(x):
    return nn.gelu(x, approximate=False)


def test_gelu_and_its_slope_by_hand():
    """Phi(1) = 0.8413447460685429 and phi(1) = 0.24197072451914337."""
    with jax.enable_x64(True):
        x = jnp.array([-1.0, 0.0, 1.0])
        values = [-0.15865525393145707, 0, 0.8413447460685429]
        np.testing.assert_allclose(gelu(x), values, rtol=1e-14)
        slopes = [0.15865525393145707 - 0.24197072451914337, 0.5, 1.0833154705876863]
        found = jax.grad(lambda x: gelu(x).sum())(x)
        np.testing.assert_allclose(found, slopes, rtol=1e-13)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-14)])
def test_both_are_what_jax_computes(dtype, tolerance):
    with jax.enable_x64(True):
        x = jnp.linspace(-12, 12, 4001, dtype=dtype)
        factor = jnp.cos(7 * x)
        for ours, theirs, inputs in (
            (gelu, plain, (x,)),
            (gated_gelu, lambda x, factor: plain(x) * factor, (x, factor)),
        ):
            found, pull = jax.vjp(ours, *inputs)
            expected, pull_plain = jax.vjp(theirs, *inputs)
            assert found.dtype == dtype
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=2 * tolerance)
            for mine, other in zip(pull(factor), pull_plain(factor), strict=True):
                assert mine.dtype == dtype
                np.testing.assert_allclose(mine, other, rtol=tolerance, atol=12 * tolerance)


def test_bfloat16_loses_no_digits_inside():
    x = jnp.linspace(-4, 4, 257).astype(jnp.bfloat16)
    expected = plain(x.astype(jnp.float32)).astype(jnp.bfloat16)
    for found in (gelu(x), gated_gelu(x, jnp.ones_like(x))):
        assert found.dtype == jnp.bfloat16
        assert (abs(found.view(jnp.int16) - expected.view(jnp.int16)) <= 1).all()


def test_far_from_zero_gradients_are_finite():
    x = jnp.array([-1e30, -100.0, 0.0, 100.0, 1e30])
    np.testing.assert_array_equal(jax.grad(lambda x: gelu(x).sum())(x), [0, 0, 0.5, 1, 1])
