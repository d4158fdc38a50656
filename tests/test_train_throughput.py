import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax.train import throughput


def test_operations_of_a_matrix_product():
    product = jax.jit(jnp.matmul).lower(jnp.ones((8, 16)), jnp.ones((16, 4)))
    assert throughput.flops_of(product) == 2 * 8 * 16 * 4


def test_operations_of_a_step_in_parts():
    def in_parts(x):
        return jax.lax.scan(lambda total, part: (total + part @ part, None), jnp.eye(64), x)[0]

    lowered = jax.jit(in_parts).lower(jnp.ones((4, 64, 64)))
    whole = jax.jit(lambda x: x @ x).lower(jnp.ones((64, 64)))
    found = throughput.flops_of(lowered, accumulate_steps=4)
    assert found == pytest.approx(4 * throughput.flops_of(whole), rel=0.1)


def test_operations_that_a_backend_does_not_count():
    assert throughput.flops_of(types.SimpleNamespace(cost_analysis=lambda: None)) is None
    assert throughput.flops_of(types.SimpleNamespace(cost_analysis=dict)) is None


def device(kind):
    return types.SimpleNamespace(device_kind=kind)


@pytest.mark.parametrize(
    ("kind", "dtype", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
        ("NVIDIA H100 PCIe", "bfloat16", 756.0),
        ("NVIDIA H200", "float32", 494.7),
        ("NVIDIA H100 NVL", "bfloat16", 835.5),
        ("NVIDIA H200 NVL", "float32", 417.8),
        ("NVIDIA L4", "bfloat16", 121.0),
        ("NVIDIA L40", "float32", 90.5),
        ("NVIDIA L40S", "bfloat16", 362.0),
        ("NVIDIA A100-SXM4-40GB", "float32", 156.0),
        ("TPU v4", "bfloat16", 275.0),
    ],
)
def test_the_peak_of_two_devices(kind, dtype, tera):
    assert throughput.peak_flops([device(kind)] * 2, dtype) == pytest.approx(2e12 * tera)


def test_the_peak_of_an_unknown_device():
    assert throughput.peak_flops(jax.devices(), "float32") is None
    for kind in ("NVIDIA L400", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 3090 Ti"):
        assert throughput.peak_flops([device(kind)], "float32") is None


def test_memory_of_the_host_and_of_a_device():
    held = np.ones(2**24, np.float64)  # 128 MB
    found = throughput.memory(jax.devices()[0])
    assert held.nbytes / 2**30 < found["host_memory_gb"] < 64
    assert set(found) == {"host_memory_gb"}
    statistics = types.SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 3 * 2**30})
    assert throughput.memory(statistics)["device_memory_peak_gb"] == 3
    assert throughput.resident_bytes() <= throughput.peak_resident_bytes() * 1.1
