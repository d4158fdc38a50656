import time

import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax.train.step_log import StepLog


def test_means_and_rates():
    log = StepLog(0, batch_size=6, flops=3e12, peak=1e15)
    for loss in (1.0, 2.0, 6.0):
        log.add({"loss": jnp.float32(loss)})
    time.sleep(0.05)
    means = log.means()
    assert means["loss"] == 3.0
    rate = means["steps_per_second"]
    assert 0 < rate < 3 / 0.05
    assert means["images_per_second"] == pytest.approx(6 * rate)
    assert means["tflops_per_second"] == pytest.approx(3 * rate)
    assert means["share_of_peak"] == pytest.approx(3e12 * rate / 1e15)
    log.add({"loss": jnp.float32(5.0)})  # a new interval
    assert log.means()["loss"] == 5.0


def test_unknown_values_are_omitted():
    log = StepLog(0, batch_size=1)
    log.add({"loss": jnp.float32(1)})
    assert not {"tflops_per_second", "share_of_peak"} & set(log.means())


def test_two_steps_stay_in_flight():
    log = StepLog(0)
    for i in range(5):
        log.add({"loss": jnp.float32(i)})
        assert len(log.pending) <= log.BEHIND
    assert len(log.pending) == log.BEHIND


def test_waiting_for_data_is_counted(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def slowly():
        nonlocal now
        while True:
            now += 3
            yield {}

    log, stream = StepLog(0), slowly()
    for _ in range(3):
        log.timed(stream)
        now += 1
        log.add({"loss": jnp.float32(0)})
    assert log.means()["data_wait"] == pytest.approx(0.75)


def test_a_loss_that_is_not_finite_names_its_step():
    log = StepLog(40)
    log.add({"loss": jnp.float32(1)})
    log.add({"loss": jnp.float32("nan")})
    with pytest.raises(FloatingPointError, match="step 42: loss = nan"):
        log.check()


def test_the_summary_splits_its_time():
    log = StepLog(0)
    log.add({"loss": jnp.float32(1)})
    line = log.summary(1)
    assert line.startswith("1 steps in 0 s, checkpoints and validations included, ")
    assert "compilation of the step not; 0.0% of it waiting for data" in line


def test_a_pause_is_not_counted(monkeypatch):
    now = 10.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    log = StepLog(0, batch_size=8, flops=4e12)
    paused_at, now = now, now + 100
    log.resume(paused_at, batch_size=2, flops=1e12)
    now += 2
    log.add({"loss": np.float32(1)})
    means = log.means()
    assert means["steps_per_second"] == pytest.approx(1 / 2)
    assert means["images_per_second"] == pytest.approx(2 / 2)
    assert means["tflops_per_second"] == pytest.approx(1 / 2)
    assert log.summary(1).startswith("1 steps in 2 s")
