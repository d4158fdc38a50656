import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcpt_jax import create_classifier, create_model, from_torch, to_torch
from dcpt_jax.models.formulation import traced_for
from dcpt_jax.train import steps
from dcpt_jax.train.optimizer import adamw
from dcpt_jax.train.state import create_state
from dcpt_jax.train.steps import terms
from tests.golden import like, read_arrays, read_json, rule_weights, run


def _case(name):
    """(config, batches, last parameters) of a recording."""
    folder = f"train/{name}"
    batches = read_arrays(f"{folder}/batches.npz")
    if batches["gt"].dtype == np.uint8:
        batches["gt"] = batches["gt"].astype(np.float32) / np.float32(255)
    return read_json(f"{folder}/config.json"), batches, read_arrays(f"{folder}/final_f64.npz")


def _network(options, dtype):
    """The recorded network, whose keyword arguments have the reference's names."""
    if options["type"] == "Restormer_origin":
        keys = ("dim", "num_blocks", "num_refinement_blocks", "heads")
        arguments = {key: options[key] for key in keys}
        return create_model(
            "restormer", norm="with_bias", attention="relu", dtype=dtype, **arguments
        )
    return create_model(
        "nafnet",
        width=options["width"],
        encoder_blocks=options["enc_blk_nums"],
        middle_blocks=options["middle_blk_num"],
        decoder_blocks=options["dec_blk_nums"],
        dtype=dtype,
    )


def _step(case, modules, optimizers, accumulate_steps):
    """The step of a recorded case, by the reference's class."""
    train = case["options"]["train"]
    common = {"ema_decay": train.get("ema_decay", 0.0), "accumulate_steps": accumulate_steps}
    if case["model"] == "SRModel":
        return steps.make_restore_step(modules["network"], optimizers, **common)
    common["focal_gamma"] = train["classify_opt"]["gamma"]
    if case["model"] == "DCModel":
        return steps.make_classify_step(**modules, optimizers=optimizers, **common)
    if case["model"] == "DCDistModel":
        return steps.make_transfer_step(**modules, optimizers=optimizers, **common)
    first_pass = {"DCPTModel": "clean", "DCTModel": "degraded"}[case["model"]]
    return steps.make_pretrain_step(
        **modules, optimizers=optimizers, first_pass=first_pass, **common
    )


# Which parts learn, where it is not all that there are.
LEARNING = {"DCModel": ["classifier"], "DCDistModel": ["network"]}


def _replay(name, dtype, accumulate_steps=1, compute=None):
    """Runs a recorded case; returns its config, our metrics and our last state and modules."""
    case, batches, final = _case(name)
    options = case["options"]
    compute = compute or dtype  # of the modules; parameters and batches are in `dtype`
    modules = {"network": _network(options["network_g"], compute)}
    weights = {"network": rule_weights(case["params_g"], case["weight_salt_g"])}
    if "network_dc" in options:
        dc = options["network_dc"]
        modules["classifier"] = create_classifier(
            feature_dims=tuple(dc["feature_dims"]),
            num_classes=dc["num_classes"],
            num_blocks=dc["num_res_blocks"],
            dtype=compute,
        )
        weights["classifier"] = rule_weights(case["params_dc"], case["weight_salt_dc"])
    params = {
        key: jax.tree.map(lambda x: jnp.asarray(x, dtype), from_torch(value, modules[key]))
        for key, value in weights.items()
    }
    optimizers = {}
    for key in LEARNING.get(case["model"], modules):
        settings = options["train"]["optim_g" if key == "network" else "optim_dc"]
        optimizers[key] = adamw(
            settings["lr"],
            b1=settings["betas"][0],
            b2=settings["betas"][1],
            weight_decay=settings["weight_decay"],
            clip_norm=options.get("grad_clip") or 0.0,
        )
    state = create_state(
        params,
        optimizers,
        rng=jax.random.PRNGKey(0),
        averaged=optimizers if options["train"].get("ema_decay") else (),
    )
    declared = traced_for(jax.default_backend())
    step = jax.jit(declared(_step(case, modules, optimizers, accumulate_steps)))
    metrics = []
    for i in range(len(batches["label"])):
        batch = {
            "degraded": jnp.asarray(batches["lq"][i], dtype),
            "clean": jnp.asarray(batches["gt"][i], dtype),
            "task": jnp.asarray(batches["label"][i], jnp.int32),
        }
        state, values = step(state, batch)
        metrics.append(jax.device_get(values))
    return case, final, metrics, state, modules


def _recorded_losses(record):
    """(pixel loss or None, classification loss or None) of a recorded step."""
    losses = record["losses"]
    return losses.get("l_pix", losses.get("l_pixel")), losses.get("l_classify")


def _our_losses(values):
    """The same of our metrics; a single loss is named "loss"."""
    if "loss_pixel" in values:
        return values["loss_pixel"], values["loss_class"]
    return (values["loss"], None) if "psnr" in values else (None, values["loss"])


def _trees(state, modules):
    """(prefix in the recording, name there -> array) of all arrays of a run."""
    for prefix, key in (("g", "network"), ("dc", "classifier")):
        for suffix, trees in (("", state.params), ("_ema", state.ema)):
            if key in trees:
                # Restormer_origin has ReLU attention under the original's names.
                origin = getattr(modules[key], "architecture", "") == "restormer"
                layout = {"layout": "original", "force": True} if origin else {}
                yield prefix + suffix, to_torch(trees[key], modules[key], **layout)


CASES = [
    "dcpt_nafnet",
    "dct_nafnet",
    "dc_nafnet",
    "dcdist_nafnet",
    "dcdist_restormer_origin",
    "finetune_nafnet",
    "finetune_nafnet_clip",
]


# Compiling the step of 17 transformer blocks takes a minute; `finetune_nafnet_clip` is the step of
# `finetune_nafnet` with the gradients clipped, and `dct_nafnet` that of `dcpt_nafnet` with degraded
# images in its first pass.
LONG = ("dcdist_restormer_origin", "dct_nafnet", "finetune_nafnet")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in CASES],
)
def test_steps_equal_the_recorded_ones_in_float64(name):
    with jax.enable_x64(True):
        case, final, metrics, state, modules = _replay(name, jnp.float64)
        for record, values in zip(case["records_f64"], metrics, strict=True):
            for loss, expected in zip(_our_losses(values), _recorded_losses(record), strict=True):
                assert (loss is None) == (expected is None)
                if loss is not None:
                    np.testing.assert_allclose(loss, expected, rtol=1e-9)
            for key, name_there in (("network", "g"), ("classifier", "dc")):
                norm = record.get(f"grad_norm_{name_there}_before_clip")
                norm = record.get(f"grad_norm_{name_there}") if norm is None else norm
                # A part that does not learn has no gradient here, and a recorded one of zero.
                ours = values.get(f"gradient_norm_{key}", 0.0)
                np.testing.assert_allclose(ours, norm or 0.0, rtol=1e-8)
        compared = set()
        for prefix, arrays in _trees(state, modules):
            for key, value in arrays.items():
                key = f"{prefix}/{key}"
                if key in final:
                    np.testing.assert_allclose(
                        like(value, final[key]), final[key], rtol=1e-8, atol=1e-11, err_msg=key
                    )
                    compared.add(key)
        assert compared == set(final)
        for key in set(modules) - set(state.optimizer):
            _assert_frozen(case, key, state, modules[key])


def _assert_frozen(case, key, state, module):
    """A part that does not learn stays exactly as it was: not even the weight decay moves it."""
    side = "g" if key == "network" else "dc"
    start = rule_weights(case[f"params_{side}"], case[f"weight_salt_{side}"])
    jax.tree.map(np.testing.assert_array_equal, from_torch(start, module), state.params[key])
    assert key not in state.ema


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_steps_equal_the_recorded_ones_in_float32(name):
    case, final, metrics, state, modules = _replay(name, jnp.float32)
    for single, double, values in zip(
        case["records_f32"], case["records_f64"], metrics, strict=True
    ):
        recorded = zip(_recorded_losses(single), _recorded_losses(double), strict=True)
        for ours, (expected, exact) in zip(_our_losses(values), recorded, strict=True):
            if ours is not None:
                # Ten times the reference's own float32 error, but at least a few units in the
                # last place.
                atol = max(10 * abs(expected - exact), 2e-6)
                np.testing.assert_allclose(ours, exact, rtol=0, atol=atol)
    off = total = 0
    for prefix, arrays in _trees(state, modules):
        for key, value in arrays.items():
            key = f"{prefix}/{key}"
            if key in final:
                off += int((np.abs(like(value, final[key]) - final[key]) > 3e-6).sum())
                total += final[key].size
    # An entry with a gradient near zero may move by the rate either way (golden/README).
    assert off <= 0.001 * total


@pytest.fixture(scope="module")
def small():
    network = create_model(
        "nafnet", width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)
    )
    classifier = create_classifier(network.feature_dims, num_classes=3, num_blocks=1)
    rng = jax.random.PRNGKey(1)
    images = jax.random.uniform(rng, (6, 16, 16, 3))
    params = {"network": jax.jit(network.init)(rng, images)["params"]}
    features = run(network, {"params": params["network"]}, images, method="features")
    params["classifier"] = jax.jit(classifier.init)(rng, features)["params"]
    task = jnp.arange(6) % 3
    # What tells the classes apart is their brightness.
    degraded = images * (0.3 + 0.3 * task)[:, None, None, None]
    return network, classifier, params, {"degraded": degraded, "clean": images, "task": task}


def test_pretraining_learns_one_fixed_batch(small):
    network, classifier, params, batch = small
    optimizers = {key: adamw(3e-3) for key in params}
    declared = traced_for(jax.default_backend())
    step = jax.jit(declared(steps.make_pretrain_step(network, classifier, optimizers)))
    state = create_state(params, optimizers, rng=jax.random.PRNGKey(0))
    state, first = step(state, batch)
    for _ in range(160):
        state, last = step(state, batch)
    assert last["loss"] < 0.5 * first["loss"]
    assert last["accuracy"] == 1.0
    assert int(state.step) == 161


def test_pretraining_with_multi_hot_labels(shades):
    """Its loss and accuracy by hand from the logits, and that it learns."""
    network, classifier, params, batch = shades
    brightness = (0.3 + 0.3 * batch["task"])[:, None, None, None]
    batch = {**batch, "degraded": batch["clean"] * brightness}
    rows = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0]], np.uint8)
    optimizers = {key: adamw(3e-2) for key in params}
    step = jax.jit(steps.make_pretrain_step(network, classifier, optimizers, label_rows=rows))
    state = create_state(params, optimizers, rng=jax.random.PRNGKey(0))
    features = network.apply({"params": params["network"]}, batch["degraded"], method="features")
    logits = classifier.apply({"params": params["classifier"]}, features)
    right = rows[np.asarray(batch["task"])].astype(bool)
    p = 1 / (1 + np.exp(-np.where(right, logits, -logits)))
    state, first = step(state, batch)
    np.testing.assert_allclose(first["loss_class"], np.mean((1 - p) ** 2 * -np.log(p)), rtol=1e-5)
    np.testing.assert_allclose(first["accuracy"], (p > 0.5).all(-1).mean())
    np.testing.assert_allclose(first["loss"], first["loss_pixel"] + first["loss_class"], rtol=1e-6)
    for _ in range(160):
        state, last = step(state, batch)
    assert last["loss_class"] < 0.7 * first["loss_class"]


def test_a_clean_image_is_right_where_no_component_is_found():
    class Logits(nn.Module):
        def __call__(self, features):
            return features[0]

    rows = np.array([[0, 0], [1, 0]], np.uint8)  # clean, rain
    logits = jnp.array([[-1.0, -2.0], [-1.0, 3.0], [2.0, -1.0]])
    loss, accuracy = terms.classification(
        Logits(), {}, (logits,), jnp.array([0, 0, 1]), gamma=0.0, label_rows=rows
    )
    right = np.array([[1, 2], [1, -3], [2, 1]])
    np.testing.assert_allclose(loss, np.log1p(np.exp(-right)).mean(), rtol=1e-6)
    np.testing.assert_allclose(accuracy, 2 / 3)


class Shades(nn.Module):
    """A network of two layers, which compiles quickly."""

    def setup(self):
        self.layer, self.ending = nn.Dense(4), nn.Dense(3)

    def features(self, image):
        return (jnp.sin(self.layer(image)),)

    def restored_and_features(self, image):
        features = self.features(image)
        return image + self.ending(features[0]), features

    def __call__(self, image):
        return self.restored_and_features(image)[0]


class Means(nn.Module):
    """A classifier of mean features."""

    @nn.compact
    def __call__(self, features):
        return nn.Dense(3)(features[0].mean(axis=(1, 2)))


@pytest.fixture(scope="module")
def shades():
    """Network, classifier, parameters and a batch."""
    network, classifier, rng = Shades(), Means(), jax.random.PRNGKey(1)
    images = jax.random.uniform(rng, (6, 8, 8, 3))
    params = {
        "network": network.init(rng, images)["params"],
        "classifier": classifier.init(rng, (images[..., :1].repeat(4, axis=-1),))["params"],
    }
    batch = {"degraded": 0.5 * images, "clean": images, "task": jnp.arange(6) % 3}
    return network, classifier, params, batch


@pytest.mark.parametrize("first_pass", ["clean", "degraded"])
def test_pretraining_without_classification_descends_the_l1_loss_alone(shades, first_pass):
    network, classifier, params, batch = shades
    optimizers = {"network": optax.sgd(1.0), "classifier": adamw(0.1, weight_decay=0.2)}
    step = steps.make_pretrain_step(
        network, classifier, optimizers, class_weight=0.0, first_pass=first_pass
    )
    state = create_state(params, optimizers, rng=jax.random.PRNGKey(0))
    state, metrics = jax.jit(step)(state, batch)

    def l1(parameters):
        restored = network.apply({"params": parameters}, batch[first_pass])
        return jnp.mean(jnp.abs(restored - batch["clean"]))

    jax.tree.map(
        lambda new, old, gradient: np.testing.assert_allclose(new, old - gradient, atol=1e-6),
        state.params["network"],
        params["network"],
        jax.jit(jax.grad(l1))(params["network"]),
    )
    # The classifier is moved by its weight decay alone: the factor is 1 - 0.1 * 0.2.
    jax.tree.map(
        lambda new, old: np.testing.assert_allclose(new, 0.98 * old, rtol=1e-6, atol=1e-9),
        state.params["classifier"],
        params["classifier"],
    )
    assert metrics["gradient_norm_classifier"] == 0 < metrics["loss_class"]
    assert metrics["loss"] == metrics["loss_pixel"]


def test_pretraining_without_pixels_leaves_the_output_layer(shades):
    network, classifier, params, batch = shades
    optimizers = {"network": optax.sgd(1.0), "classifier": optax.sgd(1.0)}
    step = steps.make_pretrain_step(network, classifier, optimizers, pixel_weight=0.0)
    state = create_state(params, optimizers, rng=jax.random.PRNGKey(0))
    state, metrics = jax.jit(step)(state, batch)
    assert metrics["loss"] == metrics["loss_class"] and metrics["loss_pixel"] > 0
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, params)
    assert not any(jax.tree.leaves(moved["network"]["ending"]))
    assert all(jax.tree.leaves(moved["network"]["layer"]))
    assert all(jax.tree.leaves(moved["classifier"]))


def test_restoration_learns_and_leaves_no_classifier(small):
    network, _, params, batch = small
    optimizers = {"network": adamw(3e-3, clip_norm=1.0)}
    declared = traced_for(jax.default_backend())
    step = jax.jit(declared(steps.make_restore_step(network, optimizers, ema_decay=0.9)))
    state = create_state(
        {"network": params["network"]},
        optimizers,
        rng=jax.random.PRNGKey(0),
        averaged=optimizers,
    )
    before = jax.device_get(state.ema)
    state, first = step(state, batch)
    expected = jax.tree.map(
        lambda e, p: 0.9 * e + 0.1 * np.asarray(p), before["network"], state.params["network"]
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), state.ema["network"], expected
    )
    for _ in range(30):
        state, last = step(state, batch)
    assert last["loss"] < 0.5 * first["loss"]
    assert set(state.params) == {"network"}


def test_the_classifier_gets_features_and_no_image(small):
    """With constant features, the logits do not depend on the image."""
    network, classifier, params, batch = small
    features = run(network, {"params": params["network"]}, batch["degraded"], method="features")
    constant = [jnp.zeros_like(feature) for feature in features]
    logits = run(classifier, {"params": params["classifier"]}, tuple(constant))
    np.testing.assert_array_equal(logits, jnp.broadcast_to(logits[:1], logits.shape))


def test_the_classification_gradient_reaches_the_network(small):
    network, classifier, params, batch = small

    def loss(network_params):
        features = network.apply({"params": network_params}, batch["degraded"], method="features")
        logits = classifier.apply({"params": params["classifier"]}, features)
        return jnp.mean(logits[:, 0])

    gradient = jax.jit(jax.grad(loss))(params["network"])
    assert float(optax.tree.norm(gradient["intro"])) > 0
    assert float(optax.tree.norm(gradient["ending"])) == 0
