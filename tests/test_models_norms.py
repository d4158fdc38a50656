import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax.models.norms import LayerNorm, normalise


def naive_normal(x, epsilon, centred):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean if centred else x) / jnp.sqrt(variance + epsilon)


@pytest.mark.parametrize("how", ["slices", "convolution"])
@pytest.mark.parametrize("centred", [True, False])
def test_normalising_and_its_gradient_equal_plain_autodiff(how, centred):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        x = jnp.asarray(rng.standard_normal((2, 3, 4, 5)) + 0.5)
        y, pull = jax.vjp(lambda x: normalise(x, 1e-2, centred=centred, how=how), x)
        expected, expected_pull = jax.vjp(lambda x: naive_normal(x, 1e-2, centred), x)
        np.testing.assert_allclose(y, expected, rtol=1e-12)
        direction = jnp.asarray(rng.standard_normal(y.shape))
        np.testing.assert_allclose(
            pull(direction)[0], expected_pull(direction)[0], rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("centred", [True, False])
def test_scale_and_bias_come_last(centred):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    params = {"scale": jnp.arange(5.0)} | ({"bias": 10 * jnp.ones(5)} if centred else {})
    norm = LayerNorm(1e-2, centred=centred)
    shapes = jax.tree.map(jnp.shape, norm.init(jax.random.key(0), x)["params"])
    assert shapes == dict.fromkeys(params, (5,))
    expected = naive_normal(x, 1e-2, centred) * params["scale"] + params.get("bias", 0)
    np.testing.assert_allclose(norm.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_has_float32_statistics():
    # In bfloat16 these would have mean 256 and no variance.
    x = jnp.asarray([[256.0, 258.0]], jnp.bfloat16)
    y = LayerNorm(dtype=jnp.bfloat16).apply(
        {"params": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}}, x
    )
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), [[-1, 1]], atol=1e-2)


@pytest.mark.parametrize("level", [0.0, 0.7])
@pytest.mark.parametrize("centred", [True, False])
def test_constant_pixels_have_finite_gradients(level, centred):
    x = jnp.full((1, 2, 2, 8), level)
    gradient = jax.grad(lambda x: jnp.sum(normalise(x, 1e-6, centred=centred) * jnp.arange(8.0)))(x)
    assert bool(jnp.isfinite(gradient).all())
