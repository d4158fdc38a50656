import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax.models.convolutions import formulated
from dcpt_jax.models.nafnet import NAFBlock
from dcpt_jax.models.stage import Stage, rematerialised
from tests.golden import random_params


@pytest.mark.parametrize("how", ["slices", "convolution"])
def test_both_ways_to_rematerialise_give_the_plain_gradients(how):
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.standard_normal((4, 4)), jnp.float32)}
    x = jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)

    def function(params, x):
        return jnp.sin(x @ params["a"]) * x

    def gradients(function):
        return jax.jit(jax.grad(lambda p, x: jnp.cos(function(p, x)).sum(), (0, 1)))(params, x)

    again = gradients(rematerialised(function, how=how))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), again, gradients(function)
    )
    nothing = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    assert bool(jnp.isnan(rematerialised(function, how=how)(nothing, x)).all())


@pytest.mark.parametrize("how", ["slices", "convolution"])
def test_a_mask_goes_through_rematerialisation(how):
    """As a second input that no gradient is asked of."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 4, 4, 3)), jnp.float32)
    visible = jnp.ones((2, 8, 8, 1)).at[0, :4].set(0).at[1].set(0)
    block = NAFBlock()
    params = random_params(jax.eval_shape(block.init, jax.random.key(0), x)["params"])

    def function(params, inputs):
        return block.apply({"params": params}, *inputs)

    def gradients(function):
        def loss(params, x):
            return jnp.sin(function(params, (x, visible))).sum()

        return jax.jit(jax.grad(loss, (0, 1)))(params, x)

    again = gradients(rematerialised(function, how=how))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), again, gradients(function)
    )


def test_rematerialisation_saves_memory():
    x = jax.ShapeDtypeStruct((1, 64, 64, 8), jnp.float32)
    needed = []
    for remat in (False, True):
        stage = Stage(6, kinds=(functools.partial(NAFBlock, dtype=jnp.float32),), remat=remat)
        params = jax.eval_shape(stage.init, jax.random.key(0), x)
        step = jax.jit(jax.grad(lambda p, x, stage=stage: jnp.square(stage.apply(p, x)).sum()))
        needed.append(step.lower(params, x).compile().memory_analysis().temp_size_in_bytes)
    assert needed[1] < 0.5 * needed[0]


def test_keeping_products_alone_gives_the_plain_gradients_from_fewer_bytes():
    """In bfloat16, for which JAX would keep float32 maps of each norm."""
    kept, gradients = {}, {}
    for block in ("products", "convolution"):
        stage = Stage(2, kinds=(functools.partial(NAFBlock, dtype=jnp.bfloat16),))
        x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 16, 16, 8)), jnp.bfloat16)
        with formulated("convolution", depthwise="taps", block=block):
            params = random_params(jax.eval_shape(stage.init, jax.random.key(0), x)["params"])
            apply = jax.jit(lambda p, x, stage=stage: stage.apply({"params": p}, x))
            y, pull = jax.vjp(apply, params, x)
        kept[block] = sum(leaf.nbytes for leaf in jax.tree.leaves(pull))
        gradients[block] = pull(jnp.sin(y))
    assert kept["products"] < 0.2 * kept["convolution"]
    for a, b in zip(*map(jax.tree.leaves, gradients.values()), strict=True):
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a.astype("f4"), b.astype("f4"), atol=0.02 * scale)


def test_many_blocks_are_made_without_running_them():
    stage = Stage(3, kinds=(functools.partial(NAFBlock, dtype=jnp.float32),))
    x = jnp.zeros((1, 8, 8, 4))
    params = stage.init(jax.random.key(0), x)["params"]
    shapes = NAFBlock().init(jax.random.key(0), x)["params"]
    for i in range(3):
        same = jax.tree.map(lambda a, b: a.shape == b.shape, params[f"block_{i}"], shapes)
        assert all(jax.tree.leaves(same))
    busy = random_params(params)
    one_by_one = x + 0.5
    for i in range(3):
        one_by_one = NAFBlock().apply({"params": busy[f"block_{i}"]}, one_by_one)
    together = stage.apply({"params": busy}, x + 0.5)
    np.testing.assert_allclose(together, one_by_one, rtol=1e-4, atol=1e-4)
