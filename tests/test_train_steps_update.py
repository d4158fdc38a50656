import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcpt_jax import create_classifier, create_model, losses
from dcpt_jax.models import parameter_shapes
from dcpt_jax.models.formulation import traced_for
from dcpt_jax.train import steps
from dcpt_jax.train.optimizer import adamw
from dcpt_jax.train.state import create_state
from dcpt_jax.train.steps import terms
from tests.conftest import TINY_BACKBONES, run_on_eight_devices
from tests.golden import random_params, run


def _guided_step(*, remat=False, accumulate_steps=1):
    """Metrics and state, as numpy, after two guided steps of a tiny network in float64."""
    network = create_model("nafnet", **TINY_BACKBONES["nafnet"], remat=remat, dtype=jnp.float64)
    classifier = create_classifier(network.feature_dims, 3, num_blocks=1, dtype=jnp.float64)
    params = {
        "network": random_params(parameter_shapes(network)),
        "classifier": random_params(parameter_shapes(classifier)),
    }
    optimizers = {"network": adamw(1e-3, clip_norm=0.1)}
    step = steps.make_transfer_step(
        network,
        classifier,
        optimizers,
        label_of_task=(2, 0),
        ema_decay=0.9,
        accumulate_steps=accumulate_steps,
    )
    step = jax.jit(traced_for(jax.default_backend())(step))
    state = create_state(params, optimizers, rng=jax.random.PRNGKey(0), averaged=optimizers)
    rng = np.random.default_rng(0)
    for _ in range(2):
        clean = rng.random((6, 8, 8, 3))
        batch = {"clean": clean, "degraded": clean**2, "task": np.array([0, 1, 1, 0, 0, 1])}
        state, metrics = step(state, batch)
    return jax.device_get((metrics, state.params, state.ema))


@pytest.fixture(scope="module")
def plain():
    with jax.enable_x64(True):
        return _guided_step()


@pytest.mark.parametrize(
    "options",
    [pytest.param({"remat": True}, marks=pytest.mark.slow), {"accumulate_steps": 3}],
    ids=["rematerialised", "accumulated"],
)
def test_saving_memory_changes_nothing(plain, options):
    """Losses, PSNR, accuracy, gradient norm, parameters and moving average, in float64."""
    with jax.enable_x64(True):
        ours = _guided_step(**options)
    assert set(ours[0]) == {
        "loss", "loss_pixel", "loss_class", "accuracy", "psnr", "gradient_norm_network",
    }  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), ours, plain)


def test_a_batch_that_cannot_be_parted_is_refused():
    network = create_model("nafnet", **TINY_BACKBONES["nafnet"])
    params = {"network": random_params(parameter_shapes(network))}
    optimizers = {"network": adamw(1e-3)}
    step = steps.make_restore_step(network, optimizers, accumulate_steps=3)
    state = create_state(params, optimizers, rng=jax.random.PRNGKey(0))
    batch = {key: jnp.zeros((4, 8, 8, 3)) for key in ("degraded", "clean")}
    with pytest.raises(ValueError, match="accumulate_steps = 3 does not divide 'clean', a batch"):
        jax.eval_shape(step, state, batch)


def test_guidance_reads_the_classifiers_label_of_each_task():
    """A task's own number is not its label in the classifier."""
    network = create_model("nafnet", **TINY_BACKBONES["nafnet"])
    classifier = create_classifier(network.feature_dims, 3, num_blocks=1)
    params = {
        "network": random_params(parameter_shapes(network)),
        "classifier": random_params(parameter_shapes(classifier)),
    }
    image = jax.random.uniform(jax.random.PRNGKey(1), (2, 8, 8, 3))
    features = run(network, {"params": params["network"]}, image, method="features")
    logits = run(classifier, {"params": params["classifier"]}, features)
    expected = -jax.nn.log_softmax(logits)[jnp.arange(2), jnp.array([2, 1])].mean()
    optimizers = {"network": adamw(1e-3)}
    step = steps.make_transfer_step(
        network, classifier, optimizers, label_of_task=(1, 2), guidance=0.5
    )
    state = create_state(params, optimizers, rng=jax.random.PRNGKey(0))
    batch = {"degraded": image, "clean": image, "task": jnp.array([1, 0])}
    metrics = jax.jit(lambda s, b: step(s, b)[1])(state, batch)
    np.testing.assert_allclose(metrics["loss_class"], expected, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["loss"], metrics["loss_pixel"] + 0.5 * metrics["loss_class"], rtol=1e-6
    )


def test_without_guidance_it_is_plain_restoration():
    network = create_model("nafnet", **TINY_BACKBONES["nafnet"])
    params = {"network": random_params(parameter_shapes(network))}
    optimizers = {"network": adamw(1e-3)}
    state = create_state(params, optimizers, rng=jax.random.PRNGKey(0))
    image = jnp.full((2, 8, 8, 3), 0.5)
    batch = {"degraded": image, "clean": image, "task": jnp.zeros(2, jnp.int32)}
    step = steps.make_transfer_step(network, None, optimizers, guidance=0.0)
    assert set(jax.eval_shape(step, state, batch)[1]) == {"loss", "psnr", "gradient_norm_network"}


def test_terms_of_a_loss_are_weighted():
    loss, metrics = terms.joint(0.5, 2.0, 0.25, pixel_weight=3.0, class_weight=0.1)
    assert loss == metrics["loss"] == pytest.approx(1.7)
    assert (metrics["loss_pixel"], metrics["loss_class"]) == (0.5, 2.0)  # as they are
    assert terms.joint(0.5, float("nan"), 0.25, class_weight=0.0)[0] == 0.5
    with pytest.raises(ValueError, match="pixel_weight and class_weight are both 0"):
        terms.joint(0.5, 2.0, 0.25, pixel_weight=0.0, class_weight=0.0)


def test_an_unknown_first_pass():
    with pytest.raises(ValueError, match="first_pass is 'both'; known: clean, degraded"):
        steps.make_pretrain_step(None, None, {}, first_pass="both")


_EIGHT = """
import jax, jax.numpy as jnp, numpy as np
from dcpt_jax.train import sharding
from dcpt_jax.train.optimizer import adamw
from dcpt_jax.train.state import create_state
from dcpt_jax.train.steps.update import make_step

def loss_fn(params, batch):
    loss = jnp.mean(jnp.square(jnp.tanh(batch["x"] @ params["network"]["w"])))
    return loss, {"loss": loss}

optimizers = {"network": adamw(0.1)}
rng = np.random.default_rng(0)
params = {"network": {"w": jnp.asarray(rng.standard_normal((5, 3)), jnp.float32)}}
state = create_state(params, optimizers, rng=jax.random.PRNGKey(0))
batch = {"x": rng.standard_normal((32, 5)).astype(np.float32)}
mesh = sharding.make_mesh(32, 4)
assert len(mesh.devices) == 8
everywhere, split = sharding.replicated(mesh), sharding.split(mesh)
results = {}
for parts in (1, 4):
    step = jax.jit(
        make_step(loss_fn, optimizers, accumulate_steps=parts),
        in_shardings=(everywhere, split), out_shardings=everywhere,
    )
    compiled = step.lower(state, batch).compile()
    moved = [name for name in ("all-to-all", "all-gather", "collective-permute")
             if name in compiled.as_text()]
    assert not moved, moved
    results[parts] = jax.device_get(step(state, sharding.put_batch(batch, mesh)))
plain = make_step(loss_fn, optimizers)(state, batch)
for result in results.values():
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                 result, jax.device_get(plain))
print("equal")
"""


def test_parts_of_a_batch_stay_on_their_devices():
    """Eight devices, four parts: the same result, and no part of the batch moves between them."""
    done = run_on_eight_devices(_EIGHT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["equal"]


class Shift(nn.Module):
    """Adds one learned number to every pixel; its feature is the image."""

    @nn.compact
    def __call__(self, images):
        return images + self.param("shift", nn.initializers.zeros, ())

    def restored_and_features(self, images):
        return self(images), (images,)


class Constant(nn.Module):
    """The same two logits for every image."""

    def __call__(self, features):
        return jnp.zeros((features[0].shape[0], 2))


@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_the_fft_term_joins_the_loss_of_a_restoration(guidance):
    """A difference of 0.5 in all pixels of 4x4: L1 0.5, FFT 16 * 0.5 / 12 / 2 = 1 / 3."""
    optimizers = {"network": optax.sgd(1.0)}
    params = {"network": {"shift": jnp.zeros(())}, "classifier": {}}
    state = create_state(params, optimizers, rng=jax.random.PRNGKey(0))
    batch = {
        "degraded": jnp.full((2, 4, 4, 3), 0.25),
        "clean": jnp.full((2, 4, 4, 3), 0.75),
        "task": jnp.zeros(2, jnp.int32),
    }
    step = steps.make_transfer_step(
        Shift(),
        Constant(),
        optimizers,
        guidance=guidance,
        loss_terms=losses.weighted_terms("", fft_weight=0.3),
    )
    new, metrics = step(state, batch)
    assert metrics["loss_l1"] == pytest.approx(0.5)
    assert metrics["loss_fft"] == pytest.approx(1 / 3)
    assert metrics["loss"] == pytest.approx(0.5 + 0.1 + guidance * np.log(2))
    # Both terms pull the shift up: by 1, and by 0.3 * 16 / 12 / 2.
    assert new.params["network"]["shift"] == pytest.approx(1.2)
    if guidance:
        assert metrics["loss_pixel"] == pytest.approx(0.6)
    without = steps.make_restore_step(Shift(), optimizers)(state, batch)[1]
    assert set(without) == {"loss", "psnr", "gradient_norm_network"}
    assert without["loss"] == pytest.approx(0.5)
