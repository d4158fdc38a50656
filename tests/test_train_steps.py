import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcpt_jax import create_classifier, create_model, from_torch, to_torch
from dcpt_jax.train import steps
from dcpt_jax.train.optimizer import adamw
from dcpt_jax.train.state import create_state
from tests.golden import rule_weights


def _case(shared, name):
    folder = shared / "golden" / "train" / name
    return (
        json.loads((folder / "config.json").read_text()),
        dict(np.load(folder / "batches.npz")),
        dict(np.load(folder / "final_f64.npz")),
    )


def _replay(shared, name, dtype):
    """Runs a recorded case; returns its config, our metrics and our last state and modules."""
    case, batches, final = _case(shared, name)
    options = case["options"]
    arguments = options["network_g"]
    network = create_model(
        "nafnet",
        width=arguments["width"],
        encoder_blocks=arguments["enc_blk_nums"],
        middle_blocks=arguments["middle_blk_num"],
        decoder_blocks=arguments["dec_blk_nums"],
        dtype=dtype,
    )
    modules = {"network": network}
    weights = {"network": rule_weights(case["params_g"], case["weight_salt_g"])}
    settings = {"network": options["train"]["optim_g"]}
    if "network_dc" in options:
        dc = options["network_dc"]
        modules["classifier"] = create_classifier(
            feature_dims=tuple(dc["feature_dims"]),
            num_classes=dc["num_classes"],
            num_blocks=dc["num_res_blocks"],
            dtype=dtype,
        )
        weights["classifier"] = rule_weights(case["params_dc"], case["weight_salt_dc"])
        settings["classifier"] = options["train"]["optim_dc"]
    params = {
        key: jax.tree.map(lambda x: jnp.asarray(x, dtype), from_torch(value, modules[key]))
        for key, value in weights.items()
    }
    optimizers = {
        key: adamw(
            s["lr"],
            b1=s["betas"][0],
            b2=s["betas"][1],
            weight_decay=s["weight_decay"],
            clip_norm=options.get("grad_clip") or 0.0,
        )
        for key, s in settings.items()
    }
    decay = options["train"].get("ema_decay", 0.0)
    if "classifier" in modules:
        gamma = options["train"]["classify_opt"]["gamma"]
        step = steps.make_pretrain_step(**modules, optimizers=optimizers, focal_gamma=gamma)
    else:
        step = steps.make_restore_step(network, optimizers, ema_decay=decay)
    state = create_state(params, optimizers, rng=jax.random.PRNGKey(0), with_ema=decay > 0)
    step = jax.jit(step)
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


CASES = ["dcpt_nafnet", "finetune_nafnet", "finetune_nafnet_clip"]


@pytest.mark.parametrize("name", CASES)
def test_steps_equal_the_recorded_ones_in_float64(shared, name):
    with jax.enable_x64(True):
        case, final, metrics, state, modules = _replay(shared, name, jnp.float64)
        for record, values in zip(case["records_f64"], metrics, strict=True):
            pixel = values.get("loss_pixel", values["loss"])
            np.testing.assert_allclose(pixel, record["losses"]["l_pix"], rtol=1e-9)
            norm = record.get("grad_norm_g_before_clip", record["grad_norm_g"])
            np.testing.assert_allclose(values["gradient_norm_network"], norm, rtol=1e-8)
            if "l_classify" in record["losses"]:
                np.testing.assert_allclose(
                    values["loss_class"], record["losses"]["l_classify"], rtol=1e-9
                )
                np.testing.assert_allclose(
                    values["gradient_norm_classifier"], record["grad_norm_dc"], rtol=1e-8
                )
        trees = {"g": state.params["network"], "dc": state.params.get("classifier")}
        trees["g_ema"] = state.ema.get("network")
        compared = 0
        for prefix, tree in trees.items():
            if tree is None:
                continue
            module = modules["classifier" if prefix == "dc" else "network"]
            for key, value in to_torch(tree, module).items():
                np.testing.assert_allclose(
                    value, final[f"{prefix}/{key}"], rtol=1e-8, atol=1e-11, err_msg=key
                )
                compared += 1
        assert compared == len(final)


@pytest.mark.parametrize(
    "name", [CASES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in CASES[1:])]
)
def test_steps_equal_the_recorded_ones_in_float32(shared, name):
    case, final, metrics, state, modules = _replay(shared, name, jnp.float32)
    for single, double, values in zip(
        case["records_f32"], case["records_f64"], metrics, strict=True
    ):
        pixel = values.get("loss_pixel", values["loss"])
        # Ten times the reference's own float32 error, but at least a few units in the last place.
        expected, exact = single["losses"]["l_pix"], double["losses"]["l_pix"]
        atol = max(10 * abs(expected - exact), 2e-6)
        np.testing.assert_allclose(pixel, exact, rtol=0, atol=atol)
    ours = to_torch(state.params["network"], modules["network"])
    off = sum(int((np.abs(value - final[f"g/{key}"]) > 3e-6).sum()) for key, value in ours.items())
    # An entry with a gradient near zero may move by the rate either way (golden/README).
    assert off <= 0.001 * sum(value.size for value in ours.values())


@pytest.fixture(scope="module")
def small():
    network = create_model(
        "nafnet", width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)
    )
    classifier = create_classifier(network.feature_dims, num_classes=3, num_blocks=1)
    rng = jax.random.PRNGKey(1)
    images = jax.random.uniform(rng, (6, 16, 16, 3))
    params = {"network": network.init(rng, images)["params"]}
    features = network.apply({"params": params["network"]}, images, method="features")
    params["classifier"] = classifier.init(rng, features)["params"]
    task = jnp.arange(6) % 3
    # What tells the classes apart is their brightness.
    degraded = images * (0.3 + 0.3 * task)[:, None, None, None]
    return network, classifier, params, {"degraded": degraded, "clean": images, "task": task}


def test_pretraining_learns_one_fixed_batch(small):
    network, classifier, params, batch = small
    optimizers = {key: adamw(3e-3) for key in params}
    step = jax.jit(steps.make_pretrain_step(network, classifier, optimizers))
    state = create_state(params, optimizers, rng=jax.random.PRNGKey(0))
    state, first = step(state, batch)
    for _ in range(160):
        state, last = step(state, batch)
    assert last["loss"] < 0.5 * first["loss"]
    assert last["accuracy"] == 1.0
    assert int(state.step) == 161


def test_restoration_learns_and_leaves_no_classifier(small):
    network, _, params, batch = small
    optimizers = {"network": adamw(3e-3, clip_norm=1.0)}
    step = jax.jit(steps.make_restore_step(network, optimizers, ema_decay=0.9))
    state = create_state(
        {"network": params["network"]}, optimizers, rng=jax.random.PRNGKey(0), with_ema=True
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
    """With the network's features cut off from the image, the logits cannot depend on it."""
    network, classifier, params, batch = small
    features = network.apply({"params": params["network"]}, batch["degraded"], method="features")
    constant = [jnp.zeros_like(feature) for feature in features]
    logits = classifier.apply({"params": params["classifier"]}, tuple(constant))
    np.testing.assert_array_equal(logits, jnp.broadcast_to(logits[:1], logits.shape))


def test_the_classification_gradient_reaches_the_network(small):
    network, classifier, params, batch = small

    def loss(network_params):
        features = network.apply({"params": network_params}, batch["degraded"], method="features")
        logits = classifier.apply({"params": params["classifier"]}, features)
        return jnp.mean(logits[:, 0])

    gradient = jax.grad(loss)(params["network"])
    assert float(optax.tree.norm(gradient["intro"])) > 0
    assert float(optax.tree.norm(gradient["ending"])) == 0
