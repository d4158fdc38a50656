import re

import jax
import jax.numpy as jnp
import pytest

from dcpt_jax.evaluate import run as evaluation
from dcpt_jax.precision import matmul_precision
from dcpt_jax.train import run as training
from dcpt_jax.train.validation import Validation
from tests.conftest import tiny_config

PRODUCT = re.compile(r"stablehlo\.(dot_general|convolution)")


def products(text):
    """The lines of a lowered program that multiply matrices or convolve."""
    return [line for line in text.splitlines() if PRODUCT.search(line)]


@pytest.mark.parametrize(("precision", "there"), [("highest", "HIGHEST"), ("high", "HIGH")])
def test_products_have_the_precision_also_of_gradients(precision, there):
    def loss(x):
        return jnp.tanh(x @ x).sum()

    gradient = jax.jit(matmul_precision(precision)(jax.grad(loss)))
    found = products(gradient.lower(jnp.ones((4, 4))).as_text())
    assert len(found) == 3
    assert all(re.search(rf"\b{there}\b", line) for line in found)


def test_default_changes_nothing():
    with (
        matmul_precision("default"),
        jax.default_matmul_precision("high"),
        matmul_precision("default"),
    ):
        text = jax.jit(jnp.matmul).lower(jnp.ones((4, 4)), jnp.ones((4, 4))).as_text()
    assert "HIGH" in text


def test_another_name_is_refused():
    with (
        pytest.raises(ValueError, match="'tf32'; known: default, high, highest"),
        matmul_precision("tf32"),
    ):
        pass


def test_step_and_validation_are_traced_in_it(photo_folder):
    config = tiny_config("restore", photo_folder)
    config.matmul_precision = "highest"
    config.log.image_every_steps = 1
    run = training.prepare(config)
    state = run.state_shapes()
    step = products(run.lower(state).as_text())
    image = jax.ShapeDtypeStruct((8, 16, 16, 3), jnp.float32)
    params = state.averaged_params()
    forward = products(Validation(run)._forward.lower(params, image, images=True).as_text())
    assert len(step) > len(forward) > 1
    assert all(re.search(r"\bHIGHEST\b", line) for line in (*step, *forward))


def test_evaluation_is_done_in_it(photo_folder, pretrained, tmp_path, monkeypatch):
    seen = []

    def restore(network, params, degraded):
        seen.append(jax.config.jax_default_matmul_precision)
        return degraded

    monkeypatch.setattr(evaluation, "_restore", restore)
    config = tiny_config("evaluate", photo_folder)
    config.init_from, config.tasks, config.matmul_precision = str(pretrained), "noise", "high"
    evaluation.evaluate(config, tmp_path)
    assert set(seen) == {"high"}
