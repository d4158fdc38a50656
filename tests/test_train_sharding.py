import jax
import numpy as np
import pytest

from dcpt_jax.train import sharding


def test_a_batch_that_the_devices_cannot_share_names_sizes_that_they_can(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [object()] * 4)
    with pytest.raises(ValueError, match=r"batch_size is 10, .*4 devices.*batch_size=8 or 12"):
        sharding.data_mesh(10)
    with pytest.raises(ValueError, match=r"batch_size=4,"):
        sharding.data_mesh(3)


def test_a_batch_arrives_whole():
    mesh = sharding.data_mesh(4)
    batch = {"clean": np.random.default_rng(0).random((4, 2, 2, 3)).astype(np.float32)}
    placed = sharding.put_batch(batch, mesh)["clean"]
    np.testing.assert_array_equal(placed, batch["clean"])
    assert placed.sharding.is_equivalent_to(sharding.split(mesh), 4)


def test_parts_that_a_devices_share_cannot_be_cut_into(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [object()] * 4)
    with pytest.raises(ValueError, match=r"accumulate_steps is 4, .*device, 6 .*=1 or 2 or 3 or 6"):
        sharding.data_mesh(24, 4)
