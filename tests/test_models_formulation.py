"""The device of a network selects its formulation, at lowering."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax.models import create_model, parameter_shapes
from dcpt_jax.models.formulation import (
    ACCELERATOR,
    CPU,
    by_platform,
    formulated,
    on_cpu,
    traced_for,
)
from dcpt_jax.models.layers import depthwise_conv
from tests.conftest import TINY_BACKBONES
from tests.golden import random_params

IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
NETWORKS = [
    "nafnet",
    *(pytest.param(n, marks=pytest.mark.slow) for n in TINY_BACKBONES if n != "nafnet"),
]


def exported_text(function, *inputs, platform):
    return jax.export.export(jax.jit(function), platforms=[platform])(*inputs).mlir_module()


def step_of(model):
    def loss(params, image):
        return jnp.square(model.apply({"params": params}, image)).mean()

    return jax.value_and_grad(loss)


def test_exported_training_steps_have_the_formulation_of_their_platform():
    model = create_model("nafnet", **TINY_BACKBONES["nafnet"])
    step, params = jax.jit(step_of(model)), parameter_shapes(model)
    for platform in ("cpu", "cuda", "tpu"):
        text = jax.export.export(step, platforms=[platform])(params, IMAGE).mlir_module()
        grouped = f"feature_group_count = {2 * model.width} : i64" in text
        row_loops = "stablehlo.while" in text  # of the depthwise kernel's gradient on CPUs
        recomputed = "optimization_barrier" in text
        assert (grouped, row_loops) == ((False, True) if platform == "cpu" else (True, False))
        assert recomputed


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_a_declared_platform_is_the_only_one_traced(platform):
    traced = []

    def shifted(x):
        traced.append(on_cpu())
        return x + (1 if on_cpu() else 2)

    step = jax.jit(traced_for(platform)(lambda x: by_platform(shifted, x)))
    assert step(0) == (1 if platform == "cpu" else 2)
    assert traced == [platform == "cpu"]
    undeclared = jax.jit(lambda x: by_platform(shifted, x))
    assert undeclared(0) == 1
    assert sorted(traced[1:]) == [False, True]


def test_an_export_for_two_platforms_has_both():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))
    both = jax.export.export(jax.jit(depthwise_conv), platforms=["cpu", "cuda"])(x, kernel)
    assert "stablehlo.convolution" in both.mlir_module()
    np.testing.assert_array_equal(both.call(x, kernel), depthwise_conv(x, kernel))


@pytest.mark.parametrize("name", NETWORKS)
def test_an_export_with_a_symbolic_batch_takes_any(name):
    model = create_model(name, **TINY_BACKBONES[name])
    variables = {"params": random_params(parameter_shapes(model), 0.1)}
    images = np.random.default_rng(0).random((3, 16, 16, 3), np.float32)
    restore = jax.jit(lambda images: model.apply(variables, images))
    batch = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), 16, 16, 3), jnp.float32)
    exported = jax.export.export(restore, platforms=["cpu", "cuda"])(batch)
    np.testing.assert_allclose(exported.call(images), restore(images), rtol=1e-4, atol=1e-5)


def test_committed_inputs_and_the_default_device_decide():
    function = jax.jit(lambda x: by_platform(lambda x: x + (1 if on_cpu() else 2), x))
    cpu = jax.devices("cpu")[0]
    assert function(jax.device_put(0, cpu)) == 1
    with jax.default_device(cpu):
        assert function(0) == by_platform(lambda x: x + (1 if on_cpu() else 2), 0) == 1
    assert "dense<2>" in exported_text(function, 0, platform="cuda")


def test_a_forced_formulation_holds_on_every_platform():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))

    def forced(formulation):
        def call(x, kernel):
            with formulated(formulation):
                return depthwise_conv(x, kernel)

        return call

    for platform in ("cpu", "cuda"):
        for formulation, plain in ((CPU, False), (ACCELERATOR, True)):
            text = exported_text(forced(formulation), x, kernel, platform=platform)
            assert ("stablehlo.convolution" in text) == plain
    with formulated(CPU), formulated(ACCELERATOR):
        assert not on_cpu()


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_mode_off_the_cpu(name):
    """On a CPU with the forced formulation, and exported for a GPU."""
    with jax.enable_x64(True):
        model = create_model(name, **TINY_BACKBONES[name], dtype=jnp.float64)
        params = random_params(parameter_shapes(model), 0.3)
        params = jax.tree.map(np.float64, params)
        rng = np.random.default_rng(0)
        image, tangent = jnp.asarray(rng.random((2, 1, 8, 8, 3)))

        def apply(image):
            return model.apply({"params": params}, image)

        def both(image, tangent):
            y, pushed = jax.jvp(apply, (image,), (tangent,))
            return pushed, jax.linearize(apply, image)[1](tangent), jax.vjp(apply, image)[1](y)[0]

        with formulated(ACCELERATOR):
            pushed, linear, pulled = jax.jit(both)(image, tangent)
        np.testing.assert_allclose(linear, pushed, rtol=1e-9, atol=1e-12)
        y = jax.jit(apply)(image)
        assert float((pushed * y).sum()) == pytest.approx(float((pulled * tangent).sum()))
        exported_text(both, image, tangent, platform="cuda")


def test_forward_mode_on_a_cpu_is_refused_unless_forced():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))

    def push():
        # A new function each time, as JAX remembers what it traced.
        return jax.jit(lambda: jax.jvp(depthwise_conv, (x, kernel), (x, kernel)))()

    with pytest.raises(TypeError, match="forward-mode"):
        push()
    with formulated(ACCELERATOR):
        push()
