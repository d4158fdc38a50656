import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcpt_jax.train.optimizer import (
    adamw,
    clip_by_global_norm,
    constant_schedule,
    cosine_schedule,
)
from tests.golden import read_json


def test_schedule_equals_the_reference():
    compared = 0
    for case in read_json("lr/schedules.json"):
        scheduler = case["scheduler"]
        if scheduler["type"] != "CosineAnnealingRestartLR" or len(scheduler["periods"]) > 1:
            continue
        with jax.enable_x64(True):
            schedule = cosine_schedule(
                case["base_lr"],
                decay_steps=scheduler["periods"][0],
                minimum=scheduler["eta_min"],
                warmup_steps=max(case["warmup_iter"], 0),
            )
            for iteration, rate in case["lr_used_at_iteration"]:
                count = jnp.asarray(iteration - 1, jnp.int32)  # the type of Optax's counts
                np.testing.assert_allclose(schedule(count), rate, rtol=1e-12)
        compared += 1
    assert compared >= 1


def test_schedule_by_hand():
    schedule = cosine_schedule(1.0, decay_steps=10, minimum=0.2)
    np.testing.assert_allclose(schedule(jnp.asarray(0)), 1.0, rtol=1e-6)
    np.testing.assert_allclose(schedule(jnp.asarray(5)), 0.6, rtol=1e-6)
    np.testing.assert_allclose(schedule(jnp.asarray(25)), 0.2, rtol=1e-6)


def test_warmup_replaces_the_first_rates():
    schedule = cosine_schedule(1.0, decay_steps=10**9, warmup_steps=4)
    rates = [float(schedule(jnp.asarray(k))) for k in range(5)]
    np.testing.assert_allclose(rates, [0.25, 0.5, 0.75, 1.0, 1.0], rtol=1e-6)
    constant = constant_schedule(1.0, warmup_steps=4)
    assert [float(constant(jnp.asarray(k))) for k in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_clipping_bounds_the_norm_over_all_arrays():
    clip = clip_by_global_norm(1.0)
    gradients = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    clipped, _ = clip.update(gradients, clip.init(gradients))
    np.testing.assert_allclose(optax.tree.norm(clipped), 5 / (5 + 1e-6), rtol=1e-6)
    small = {"a": jnp.array([0.3]), "b": jnp.array([0.4])}
    same, _ = clip.update(small, clip.init(small))
    np.testing.assert_array_equal(same["a"], small["a"])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_first_adamw_update_by_hand(weight_decay):
    optimizer = adamw(0.01, weight_decay=weight_decay)
    params = {"w": jnp.array([2.0, -1.0])}
    updates, _ = optimizer.update({"w": jnp.array([0.5, -3.0])}, optimizer.init(params), params)
    # Bias correction makes the first step the sign of the gradient.
    expected = -0.01 * (np.array([1.0, -1.0]) + weight_decay * np.array([2.0, -1.0]))
    np.testing.assert_allclose(updates["w"], expected, rtol=1e-5)
