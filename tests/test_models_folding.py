import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax.models import convolutions, folding
from dcpt_jax.models.layers import Conv, Linear
from dcpt_jax.models.norms import LayerNorm


def value_and_gradients(centred, use_bias, layer, with_factor):
    """Of a norm, a layer and a factor, at random parameters, in float64."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 5, 6, 4)))
    norm = LayerNorm(centred=centred, dtype=jnp.float64)
    second = layer(3, use_bias=use_bias, dtype=jnp.float64)
    shapes = jax.eval_shape(
        lambda: (norm.init(jax.random.key(0), x), second.init(jax.random.key(0), x))
    )
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), shapes)
    factor = (jnp.asarray(rng.standard_normal(3)),) if with_factor else ()

    def loss(params, factor, x):
        normed = norm.apply(params[0], x, method="for_kernel")
        y = second.apply(params[1], normed, *factor)
        assert y.dtype == jnp.float64
        return jnp.sin(y).sum(), y

    gradients, y = jax.grad(loss, (0, 1, 2), has_aux=True)(params, factor, x)
    return jax.tree.leaves((y, gradients))


@pytest.mark.parametrize(("layer", "with_factor"), [(Conv, True), (Conv, False), (Linear, False)])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("centred", [True, False])
def test_what_is_folded_into_a_kernel_changes_nothing(
    monkeypatch, centred, use_bias, layer, with_factor
):
    with jax.enable_x64(True):
        found = {}
        for folded in (True, False):
            monkeypatch.setattr(folding, "_PIXELS_FOR_A_CHANNEL", 1 if folded else 1000)
            found[folded] = value_and_gradients(centred, use_bias, layer, with_factor)
        for folded, plain in zip(found[True], found[False], strict=True):
            np.testing.assert_allclose(folded, plain, rtol=1e-11, atol=1e-12)


def test_a_norm_is_folded_where_the_map_is_larger_than_the_kernel():
    normed = folding.Normed(jnp.ones((1, 4, 4, 2)), jnp.full(2, 3.0), jnp.ones(2))
    kernel, bias = jnp.ones((1, 1, 2, 5)), jnp.zeros(5)
    x, folded, offset = folding.fold_norm(normed, kernel, bias)
    assert x is normed.map
    np.testing.assert_array_equal(folded, 3)
    np.testing.assert_array_equal(offset, 2)
    small = folding.Normed(jnp.ones((1, 2, 2, 2)), normed.scale, normed.bias)
    x, same, same_bias = folding.fold_norm(small, kernel, bias)
    np.testing.assert_array_equal(x, 4)
    assert same is kernel and same_bias is bias


def test_nothing_is_folded_where_compilers_fuse(monkeypatch):
    x = jnp.ones((1, 64, 64, 2))
    assert folding.is_folded(x, 2)
    with convolutions.formulated("convolution"):
        assert not folding.is_folded(x, 2)
