import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from dcpt_jax.models import stage as stages
from dcpt_jax.models.formulation import ACCELERATOR, CPU, formulated, traced_for
from dcpt_jax.models.layers import Conv
from dcpt_jax.models.nafnet import NAFBlock
from dcpt_jax.models.stage import Stage, block_function
from tests.golden import random_params


def gradients(function, params, inputs):
    def loss(params, x):
        return jnp.sin(function(params, (x, *inputs[1:]))).sum()

    return jax.jit(jax.grad(loss, (0, 1)))(params, inputs[0])


@pytest.mark.parametrize("how", [CPU, ACCELERATOR])
@pytest.mark.parametrize("masked", [False, True])
def test_rematerialised_and_plain_blocks_have_the_same_gradients(how, masked):
    """The mask is a second input without gradient."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 4, 4, 3)), jnp.float32)
    visible = jnp.ones((2, 8, 8, 1)).at[0, :4].set(0).at[1].set(0) if masked else None
    block = NAFBlock()
    params = random_params(jax.eval_shape(block.init, jax.random.key(0), x)["params"])
    with formulated(how):
        again = gradients(block_function(block, remat=True), params, (x, visible))
        plain = gradients(block_function(block), params, (x, visible))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), again, plain)


@pytest.mark.slow  # compiles two deep networks
def test_rematerialisation_saves_memory():
    x = jax.ShapeDtypeStruct((1, 64, 64, 8), jnp.float32)
    needed = []
    for remat in (False, True):
        stage = Stage(6, kinds=(functools.partial(NAFBlock, dtype=jnp.float32),), remat=remat)
        params = jax.eval_shape(stage.init, jax.random.key(0), x)
        loss = lambda p, x, stage=stage: jnp.square(stage.apply(p, x)).sum()  # noqa: E731
        step = jax.jit(traced_for(jax.default_backend())(jax.grad(loss)))
        needed.append(step.lower(params, x).compile().memory_analysis().temp_size_in_bytes)
    assert needed[1] < 0.5 * needed[0]


def test_keeping_products_alone_gives_the_plain_gradients_from_fewer_bytes(monkeypatch):
    """In bfloat16, for which JAX would keep float32 maps of each norm."""
    kept, found = {}, {}
    for keep in (True, False):
        stage = Stage(2, kinds=(functools.partial(NAFBlock, dtype=jnp.bfloat16),))
        x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 16, 16, 8)), jnp.bfloat16)
        if not keep:
            monkeypatch.setattr(stages, "checkpointed", lambda function: function)
        with formulated(ACCELERATOR):
            params = random_params(jax.eval_shape(stage.init, jax.random.key(0), x)["params"])
            apply = jax.jit(lambda p, x, stage=stage: stage.apply({"params": p}, x))
            y, pull = jax.vjp(apply, params, x)
        kept[keep] = sum(leaf.nbytes for leaf in jax.tree.leaves(pull))
        found[keep] = pull(jnp.sin(y))
    assert kept[True] < 0.4 * kept[False]
    for a, b in zip(*map(jax.tree.leaves, found.values()), strict=True):
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a.astype("f4"), b.astype("f4"), atol=0.02 * scale)


class Block(nn.Module):
    """A block that is not the identity at first, unlike NAFNet's."""

    @nn.compact
    def __call__(self, x, visible=None):
        return jnp.sin(Conv(x.shape[-1], name="conv")(x))


@pytest.mark.parametrize("blocks", [2, 3])
@pytest.mark.parametrize("jitted", [True, False])
def test_initialising_returns_the_output(blocks, jitted):
    x = jax.random.normal(jax.random.key(1), (1, 4, 4, 4))
    init = Stage(blocks, kinds=(Block,)).init_with_output
    y, variables = (jax.jit(init) if jitted else init)(jax.random.key(0), x)
    expected = x
    assert list(variables["params"]) == [f"block_{i}" for i in range(blocks)]
    for i in range(blocks):
        expected = Block().apply({"params": variables["params"][f"block_{i}"]}, expected)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(y - x).max()) > 0.1
    np.testing.assert_allclose(
        Stage(blocks, kinds=(Block,)).apply(variables, x), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("remat", [False, True])
def test_intermediate_values_of_every_block_are_captured(remat):
    x = jax.random.normal(jax.random.key(1), (1, 4, 4, 4))
    stage = Stage(3, kinds=(Block,), remat=remat)
    variables = stage.init(jax.random.key(0), x)
    plain = jax.jit(stage.apply)(variables, x)

    @jax.jit
    def capture(variables, x):
        return stage.apply(variables, x, capture_intermediates=True)

    y, captured = capture(variables, x)
    flat = flatten_dict(captured["intermediates"], sep="/")
    assert {f"block_{i}/conv/__call__" for i in range(3)} <= flat.keys()
    np.testing.assert_allclose(flat["block_2/__call__"][0], y, rtol=1e-5)
    np.testing.assert_allclose(y, plain, rtol=1e-5, atol=1e-6)


def test_tabulate_lists_every_block():
    table = nn.tabulate(Stage(3, kinds=(Block,)), jax.random.key(0), console_kwargs={"width": 200})(
        jnp.ones((1, 4, 4, 4))
    )
    for i in range(3):
        assert f"block_{i} " in table and f"block_{i}/conv " in table
    assert "Total Parameters: 60" in table
