"""Masked pre-training: its step, its configs, and whole runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dcpt_jax import config as configs
from dcpt_jax import create_classifier, create_model, weights
from dcpt_jax.config import ConfigError
from dcpt_jax.models import ReconstructionHead, masking, parameter_shapes
from dcpt_jax.train import loop, steps
from dcpt_jax.train import run as training
from dcpt_jax.train.optimizer import adamw
from dcpt_jax.train.state import create_state
from tests import parts
from tests.conftest import TINY_BACKBONES, run_on_eight_devices, tiny_config
from tests.golden import random_params

SIZE, PATCH = 16, 4


class Pixels(nn.Module):
    """A network of one layer, and a tail that no feature needs."""

    def setup(self):
        self.layer = nn.Dense(4, param_dtype=jnp.float64)
        self.ending = self.param("ending", nn.initializers.ones, (3,), jnp.float64)

    def features(self, degraded, visible):
        return (masking.hide(jnp.sin(self.layer(degraded)), visible),)


class Means(nn.Module):
    """A classifier of mean features."""

    @nn.compact
    def __call__(self, features):
        return nn.Dense(3, param_dtype=jnp.float64)(features[0].mean(axis=(1, 2)))


class Painted(nn.Module):
    """A head of one layer, which sees the mask."""

    @nn.compact
    def __call__(self, features, visible):
        return nn.Dense(3, param_dtype=jnp.float64)(features[0] + visible)


def simple_parts():
    """A network, classifier and head that compile quickly, in float64, and their parameters."""
    built = Pixels(), Means(), Painted()
    images = jnp.zeros((1, SIZE, SIZE, 3))
    feature, visible = jnp.zeros((1, SIZE, SIZE, 4)), images[..., :1]
    shapes = {
        "network": jax.eval_shape(
            lambda key: built[0].init(key, images, visible, method="features"), jax.random.key(0)
        )["params"],
        "classifier": jax.eval_shape(built[1].init, jax.random.key(0), (feature,))["params"],
        "reconstruction": jax.eval_shape(built[2].init, jax.random.key(0), (feature,), visible)[
            "params"
        ],
    }
    return built, random_params(shapes)


def tiny_parts(dtype, remat=False):
    """A tiny network, its classifier and head, and random parameters of all three."""
    network = create_model("nafnet", **TINY_BACKBONES["nafnet"], dtype=dtype, remat=remat)
    classifier = create_classifier(network.feature_dims, 3, num_blocks=1, dtype=dtype)
    head = ReconstructionHead(network.feature_dims, patch=PATCH, width=4, dtype=dtype)
    feature = jnp.zeros((1, SIZE, SIZE, 4), dtype)
    shapes = {
        "network": parameter_shapes(network),
        "classifier": parameter_shapes(classifier),
        "reconstruction": jax.eval_shape(
            head.init, jax.random.key(0), (feature,), feature[..., :1]
        )["params"],
    }
    return (network, classifier, head), random_params(shapes)


def two_steps(built, params, **options):
    """(metrics of each step, state, batch) as numpy."""
    optimizers = {name: adamw(1e-3) for name in params}
    step = jax.jit(
        steps.make_mask_pretrain_step(
            *built, optimizers, mask_ratio=0.5, mask_patch=PATCH, ema_decay=0.9, **options
        )
    )
    state = create_state(params, optimizers, rng=jax.random.PRNGKey(3), averaged=optimizers)
    rng = np.random.default_rng(0)
    clean = rng.random((6, SIZE, SIZE, 3))
    batch = {"clean": clean, "degraded": clean**2, "task": np.array([0, 1, 2, 0, 2, 1])}
    batch = {key: jnp.asarray(value) for key, value in batch.items()}
    found = []
    for _ in range(2):
        state, metrics = step(state, batch)
        found.append(metrics)
    return jax.device_get((found, state, batch))


def assert_close(ours, wanted):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), ours, wanted
    )


@pytest.fixture(scope="module")
def plain():
    with jax.enable_x64(True):
        return two_steps(*simple_parts())


def test_a_batch_in_parts_gives_the_same(plain):
    """So the masks are those of the whole batch."""
    with jax.enable_x64(True):
        assert_close(two_steps(*simple_parts(), accumulate_steps=3), plain)


@pytest.mark.slow
def test_saving_memory_changes_nothing():
    with jax.enable_x64(True):
        wanted = two_steps(*tiny_parts(jnp.float64))
        assert_close(two_steps(*tiny_parts(jnp.float64), accumulate_steps=3), wanted)
        assert_close(two_steps(*tiny_parts(jnp.float64, remat=True)), wanted)


def test_losses_by_hand(plain):
    """With the mask of the state's key and of each step's number."""
    found, state, batch = plain
    assert set(found[0]) == {
        "loss", "loss_pixel", "loss_class", "accuracy", "gradient_norm_network",
        "gradient_norm_classifier", "gradient_norm_reconstruction",
    }  # fmt: skip
    with jax.enable_x64(True):
        _, params = simple_parts()
        masks = []
        for number in (0, 1):
            key = jax.random.fold_in(jax.random.PRNGKey(3), number)
            mask = masking.random_mask(
                key, (6, SIZE, SIZE), ratio=0.5, patch=PATCH, dtype=jnp.float64
            )
            masks.append(np.asarray(mask))
    assert (masks[0] != masks[1]).any()

    def layer(x, name, key="Dense_0"):
        return x @ params[name][key]["kernel"] + params[name][key]["bias"]

    feature = np.sin(layer(batch["degraded"], "network", "layer")) * masks[0]
    loss_pixel = np.abs(layer(feature + masks[0], "reconstruction") - batch["clean"]).mean()
    logits = layer(feature.mean(axis=(1, 2)), "classifier")
    p = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[range(6), batch["task"]]
    loss_class = ((1 - p) ** 2 * -np.log(p)).mean()
    np.testing.assert_allclose(found[0]["loss_pixel"], loss_pixel, rtol=1e-9)
    np.testing.assert_allclose(found[0]["loss_class"], loss_class, rtol=1e-9)
    np.testing.assert_allclose(found[0]["loss"], loss_pixel + loss_class, rtol=1e-9)
    assert found[0]["accuracy"] == (logits.argmax(axis=-1) == batch["task"]).mean()
    # The tail stays exactly as it was, all else learns.
    for path, leaf in jax.tree.leaves_with_path(params):
        moved = state.params
        for key in path:
            moved = moved[key.key]
        assert (np.asarray(leaf) == moved).all() == (path[1].key == "ending"), path


def test_the_terms_of_the_loss_are_weighted(plain):
    with jax.enable_x64(True):
        (first, _), state, _ = two_steps(*simple_parts(), pixel_weight=2.0, class_weight=0.0)
        _, params = simple_parts()
    usual = plain[0][0]
    np.testing.assert_allclose(first["loss"], 2 * usual["loss_pixel"], rtol=1e-12)
    np.testing.assert_allclose(first["loss_class"], usual["loss_class"], rtol=1e-12)
    np.testing.assert_allclose(
        first["gradient_norm_reconstruction"], 2 * usual["gradient_norm_reconstruction"], rtol=1e-12
    )
    assert first["gradient_norm_classifier"] == 0
    jax.tree.map(np.testing.assert_array_equal, state.params["classifier"], params["classifier"])


@pytest.mark.slow
def test_it_learns_one_fixed_batch():
    built, _ = tiny_parts(jnp.float32)
    network, classifier, head = built
    rng = jax.random.PRNGKey(1)
    images = jax.random.uniform(rng, (6, 1, 1, 3)) * jnp.ones((1, SIZE, SIZE, 1))
    task = jnp.arange(6) % 3
    degraded = images * (0.3 + 0.3 * task)[:, None, None, None]
    features, _ = network.init_with_output(rng, images, method="features")
    params = {
        "network": network.init(rng, images)["params"],
        "classifier": classifier.init(rng, features)["params"],
        "reconstruction": head.init(rng, features, images[..., :1])["params"],
    }
    optimizers = {key: adamw(3e-3) for key in params}
    step = jax.jit(steps.make_mask_pretrain_step(*built, optimizers, mask_patch=PATCH))
    state = create_state(params, optimizers, rng=rng)
    batch = {"degraded": degraded, "clean": images, "task": task}
    state, first = step(state, batch)
    for _ in range(200):
        state, last = step(state, batch)
    assert last["loss_class"] < 0.5 * first["loss_class"]
    assert last["loss_pixel"] < 0.5 * first["loss_pixel"]


_EIGHT = """
import jax, numpy as np
from dcpt_jax.train import sharding
from dcpt_jax.train.optimizer import adamw
from dcpt_jax.train.state import create_state
from dcpt_jax.train.steps import make_mask_pretrain_step
from tests.test_train_mask_pretrain import PATCH, SIZE, tiny_parts

built, params = tiny_parts(np.float32)
optimizers = {name: adamw(1e-3) for name in params}
state = create_state(params, optimizers, rng=jax.random.PRNGKey(0))
clean = np.random.default_rng(0).random((16, SIZE, SIZE, 3)).astype(np.float32)
batch = {"clean": clean, "degraded": clean**2, "task": np.arange(16, dtype=np.int32) % 3}
mesh = sharding.make_mesh(16, 1)
assert len(mesh.devices) == 8
everywhere, split = sharding.replicated(mesh), sharding.split(mesh)
step = make_mask_pretrain_step(*built, optimizers, mask_patch=PATCH)
spread = jax.jit(step, in_shardings=(everywhere, split), out_shardings=everywhere)
ours = jax.device_get(spread(state, sharding.put_batch(batch, mesh))[1])
alone = jax.device_get(jax.jit(step)(state, batch)[1])
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, alone)
print("equal")
"""


@pytest.mark.slow
def test_eight_devices_see_the_same_masks():
    done = run_on_eight_devices(_EIGHT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["equal"]


def test_the_recipe():
    """That of the publication; its repeats times the data of the fine-tuning."""
    for name in configs.BACKBONES:
        config = configs.load("mask_pretrain", f"{name},5d")
        configs.validate(config)
        assert (config.data.crop_size, config.batch_size, config.num_steps) == (256, 16, 100_000)
        assert (config.mask_ratio, config.mask_patch, config.focal_gamma) == (0.5, 16, 2)
        rates = {}
        for key in ("optimizer", "classifier_optimizer", "reconstruction_optimizer"):
            optimizer = config[key]
            rates[key] = optimizer.learning_rate
            assert (optimizer.schedule, optimizer.weight_decay) == ("constant", 0)
            assert (optimizer.b1, optimizer.b2, optimizer.clip_norm) == (0.9, 0.999, 0)
        assert tuple(rates.values()) == (3e-4, 1e-4, 1e-4)
        published = {task.name: task.published("restore") for task in configs.tasks_of(config)}
        assert published == {
            "rain": (("rain200h", "rain200l"), 200 * 300),
            "noise": (("dfwb",), 85_443 * 15),
            "haze": (("reside_ots",), 72_135),
            "low_light": (("lol",), 485 * 60),
            "motion_blur": (("gopro",), 16_824 * 5),
        }
    for arg in ("nafnet,10d", "nafnet,cdd11", "swinir,cdd11"):
        found, plain = (
            [task.published("restore") for task in configs.tasks_of(configs.load(mode, arg))]
            for mode in ("mask_pretrain", "restore")
        )
        assert found == plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ratio": 1.0}, r"config\.mask_ratio is 1\.0; it must be in \[0, 1\), and at least"),
        ({"mask_ratio": -0.1}, r"config\.mask_ratio is -0\.1; it must be in \[0, 1\)"),
        ({"mask_ratio": 0.98}, r"config\.mask_ratio is 0\.98; .* one of the 16 patches of a crop"),
        ({"mask_patch": 64}, r"config\.mask_ratio is 0\.5; .* one of the 1 patches of a crop"),
        ({"mask_patch": 0}, r"config\.mask_patch is 0; it must be 1 or larger"),
        ({"mask_patch": 24}, r"config\.mask_patch is 24; it must divide config\.data\.crop_size"),
        ({"focal_gamma": -1.0}, r"config\.focal_gamma is -1\.0"),
        ({"tasks": "rain"}, "a single class"),
    ],
)
def test_values_that_are_refused(changes, message):
    config = configs.load("mask_pretrain")
    configs.validate(config)
    config.update(changes)
    with pytest.raises(ConfigError, match=message):
        configs.validate(config)


def test_patches_have_to_fit_the_network():
    config = configs.load("mask_pretrain")
    config.mask_patch = 4
    configs.validate(config)
    network, _ = parts.network_and_classifier(config, num_classes=5)
    with pytest.raises(ConfigError, match=r"config\.mask_patch: patches of 4 .* a multiple of 8"):
        parts.reconstruction_head(config, network)
    config.reconstruction_optimizer.schedule = "linear"
    with pytest.raises(ConfigError, match=r"config\.reconstruction_optimizer\.schedule"):
        configs.validate(config)


def test_a_network_with_local_averages_is_refused(tmp_path, photo_folder):
    """Before tracing, if it comes with the weights."""
    arguments = TINY_BACKBONES["nafnet"]
    network = create_model("nafnet", **arguments, tlc_size=16)
    params = {"network": random_params(parameter_shapes(network))}
    description = weights.describe(network)
    folder = weights.save_weights(tmp_path / "w", params, description)
    config = short_config("mask_pretrain", photo_folder)
    config.init_from = str(folder)
    with pytest.raises(ConfigError, match=r'tlc_size is \(16, 16\); .* set "tlc_size" to null in'):
        training.prepare(config)
    saved = folder / weights.DESCRIPTION
    text = saved.read_text()
    content = json.loads(text) | {"arguments": {**arguments, "tlc_size": None}}
    del content["checksums"]
    saved.write_text(json.dumps(content))
    assert training.prepare(config).network.tlc_size is None


@pytest.mark.slow  # tracing a full network takes up to fifteen seconds
@pytest.mark.parametrize("name", TINY_BACKBONES)
def test_the_papers_step_builds(name):
    """Shapes only: the full network, the recipe's batch, one whole step."""
    config = configs.load("mask_pretrain", f"{name},5d")
    tasks = configs.tasks_of(config)
    network, classifier = parts.network_and_classifier(config, num_classes=len(tasks))
    head = parts.reconstruction_head(config, network)
    _, optimizers = parts.schedules_and_optimizers(config)
    step = parts.step(config, network, classifier, head, optimizers)
    size = config.data.crop_size
    images = jax.ShapeDtypeStruct((config.batch_size, size, size, 3), jnp.float32)
    params = {"network": parameter_shapes(network), "classifier": parameter_shapes(classifier)}
    features = jax.eval_shape(
        lambda p, x: network.apply({"params": p}, x, method="features"), params["network"], images
    )
    visible = jax.ShapeDtypeStruct((*images.shape[:3], 1), jnp.float32)
    params["reconstruction"] = jax.eval_shape(head.init, jax.random.key(0), features, visible)[
        "params"
    ]
    count = sum(leaf.size for leaf in jax.tree.leaves(params["reconstruction"]))
    assert count < 300_000  # a light head
    state = jax.eval_shape(lambda p: create_state(p, optimizers, rng=jax.random.PRNGKey(0)), params)
    task = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
    new, metrics = jax.eval_shape(step, state, {"degraded": images, "clean": images, "task": task})
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert all(value.shape == () and value.dtype == jnp.float32 for value in metrics.values())


def short_config(mode, photos, name="nafnet"):
    """Four steps."""
    config = tiny_config(mode, photos, name)
    config.batch_size, config.num_steps = 4, 4
    config.log.every_steps = config.checkpoint.every_steps = 2
    if mode == "mask_pretrain":
        config.mask_patch, config.reconstruction.width = 8, 4
    return config


def test_a_run_of_two_steps(tmp_path, photo_folder):
    config = short_config("mask_pretrain", photo_folder)
    config.tasks = "haze,rain"
    config.num_steps = 2
    config.validation.update(every_steps=2, root=str(photo_folder), photos_per_class=1)
    result = loop.train(config, tmp_path)
    assert result.finished and np.isfinite(result.metrics["loss"])
    params, description = weights.load_weights(tmp_path)
    assert set(params) == {"network", "classifier"}
    assert description.best["metrics"]["accuracy"] in (0, 0.5, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY_BACKBONES)
def test_it_pretrains_and_restores(tmp_path, photo_folder, name, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    result = loop.train(short_config("mask_pretrain", photo_folder, name), first)
    assert set(result.state.params) == {"network", "classifier", "reconstruction"}
    assert np.isfinite(result.metrics["loss"])
    params, description = weights.load_weights(first)
    assert set(params) == {"network", "classifier"}
    assert (description.architecture, description.mode) == (name, "mask_pretrain")
    config = short_config("restore", photo_folder, name)
    config.init_from = str(first)
    result = loop.train(config, second)
    assert "network: taken over from" in capsys.readouterr().out
    assert np.isfinite(result.metrics["psnr"])
    model, params = weights.load(second)
    assert model.apply({"params": params}, jnp.full((1, 13, 9, 3), 0.5)).shape == (1, 13, 9, 3)


@pytest.mark.slow
def test_the_next_modes_take_it_as_they_take_a_pretraining(tmp_path, photo_folder, capsys):
    config = short_config("mask_pretrain", photo_folder)
    config.log.image_every_steps = 2  # pictures of the head's images
    loop.train(config, tmp_path / "first")
    for mode in ("mask_pretrain", "classify", "transfer"):
        config = short_config(mode, photo_folder)
        config.init_from = str(tmp_path / "first")
        assert loop.train(config, tmp_path / mode).finished
        assert "classifier: taken over from" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, photo_folder):
    """Its weights are readable before the end, without the head."""
    config = short_config("mask_pretrain", photo_folder)
    at_once = loop.train(config, tmp_path / "at_once").state
    config.num_steps = 2
    loop.train(config, tmp_path / "stopped")
    (tmp_path / "stopped" / "weights").rename(tmp_path / "away")
    assert set(weights.load_weights(tmp_path / "stopped")[0]) == {"network", "classifier"}
    config.num_steps = 4
    stopped = loop.train(config, tmp_path / "stopped").state
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(stopped), jax.device_get(at_once))
