import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from dcpt_jax import config as configs
from dcpt_jax.train import sharding
from dcpt_jax.train.state import create_state
from tests import parts


class Device:
    def __init__(self, number, process=0):
        self.id, self.process_index = number, process


def test_a_batch_that_the_devices_cannot_share_names_sizes_that_they_can(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [Device(i) for i in range(4)])
    with pytest.raises(ValueError, match=r"batch_size is 10, .*4 devices.*use 8 or 12,"):
        sharding.make_mesh(10)
    with pytest.raises(ValueError, match=r"use 4,"):
        sharding.make_mesh(3)


def test_a_batch_arrives_whole():
    mesh = sharding.make_mesh(4)
    batch = {"clean": np.random.default_rng(0).random((4, 2, 2, 3)).astype(np.float32)}
    placed = sharding.put_batch(batch, mesh)["clean"]
    np.testing.assert_array_equal(placed, batch["clean"])
    assert placed.sharding.is_equivalent_to(sharding.split(mesh), 4)


def test_parts_that_a_devices_share_cannot_be_cut_into(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [Device(i) for i in range(4)])
    with pytest.raises(ValueError, match=r"accumulate_steps is 4, .*device, 6 .*=1 or 2 or 3 or 6"):
        sharding.make_mesh(24, 4)


def test_devices_that_cannot_be_grouped(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [Device(i) for i in range(8)])
    assert sharding.make_mesh(8, 1, 4).shape == {"data": 2, "fsdp": 4}
    assert sharding.make_mesh(8, 1, -1).shape == {"data": 1, "fsdp": 8}
    with pytest.raises(ValueError, match=r"fsdp_devices is 3, .* devices, 8; .*=1 or 2 or 4 or 8,"):
        sharding.make_mesh(8, 1, 3)


def test_processes_with_different_numbers_of_devices(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [Device(i, i // 2) for i in range(3)])
    with pytest.raises(ValueError, match="process 0 has 2, process 1 has 1"):
        sharding.make_mesh(6)


def test_long_axes_of_large_arrays_are_split():
    mesh = AbstractMesh((2, 4), sharding.AXES)
    arrays = {
        "kernel": (3, 3, 64, 128),
        "of_equal_axes_the_last": (1, 1, 128, 128),
        "second_longest": (3, 3, 2042, 1000),
        "by_nothing": (1023, 1023),
        "small": (128,),
        "step": (),
    }
    found = sharding.state_shardings(
        {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in arrays.items()}, mesh
    )
    assert {name: found[name].spec for name in arrays} == {
        "kernel": P(None, None, None, "fsdp"),
        "of_equal_axes_the_last": P(None, None, None, "fsdp"),
        "second_longest": P(None, None, None, "fsdp"),
        "by_nothing": P(),
        "small": P(),
        "step": P(),
    }
    alone = sharding.state_shardings({"a": jax.ShapeDtypeStruct((128, 128), "float32")},
                                     AbstractMesh((8, 1), sharding.AXES))  # fmt: skip
    assert alone["a"].spec == P()


# Of SwinIR's 180 channels 8 devices can share little, but 4 a lot.
@pytest.mark.parametrize(
    ("backbone", "devices", "most"),
    [
        ("nafnet", 8, 0.135),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("restormer", 8, 0.155),
                ("promptir", 8, 0.155),
                ("swinir", 8, 0.41),
                ("swinir", 4, 0.27),
            )
        ),
    ],
)
def test_state_per_device_of_the_published_networks(backbone, devices, most):
    config = configs.load("pretrain", f"{backbone},5d")
    network, classifier = parts.network_and_classifier(config, num_classes=5, inherited=None)
    _, optimizers = parts.schedules_and_optimizers(config)

    def initialise():
        image, rng = jnp.zeros((1, 64, 64, 3)), jax.random.PRNGKey(0)
        params = {"network": network.init(rng, image)["params"]}
        features = network.apply({"params": params["network"]}, image, method="features")
        params["classifier"] = classifier.init(rng, features)["params"]
        return create_state(params, optimizers, rng=rng, averaged=optimizers)

    state = jax.eval_shape(initialise)
    shardings = sharding.state_shardings(state, AbstractMesh((1, devices), sharding.AXES))
    pairs = list(zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True))
    state_bytes = sum(
        math.prod(s.shard_shape(leaf.shape)) for leaf, s in pairs
    )  # raises if not divisible
    whole = sum(math.prod(leaf.shape) for leaf, _ in pairs)
    assert 1 / devices < state_bytes / whole < most
