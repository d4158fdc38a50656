"""Measures the waiting time for data when NAFNet is trained with the input pipeline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax

from benchmarks.device import messages
from dcpt_jax import config as configs
from dcpt_jax.train import sharding
from dcpt_jax.train.run import Run, prepare
from dcpt_jax.train.step_log import StepLog


def configured(options: dict[str, Any]) -> Any:
    """NAFNet's published restoration config with the paper's batch; a small one for a rehearsal."""
    config = configs.load("restore", "" if options["tiny"] else "nafnet,5d")
    config.dtype, config.batch_size = "bfloat16", 32
    config.data.num_workers = options["workers"]
    if options["tiny"]:
        config.dtype, config.batch_size, config.data.crop_size = "float32", 4, 32
        config.model.update(width=4, encoder_blocks=(1,), decoder_blocks=(1,))
    photos = options["photos"]
    if photos and list(Path(photos).glob("*.array_record")):
        for task in configs.tasks_of(config):
            config.data.sources[task.name] = f"packed:{photos}"
    elif photos:
        config.data.root = photos
    return config


def measure(run: Run, program: jax.stages.Compiled, seconds: float) -> dict[str, float]:
    """Times steps on a fixed batch, steps with the pipeline, and the pipeline alone."""
    state, size = run.create_state(), run.batch_size
    with run.batches(start=0) as stream:
        pipeline_start = time.perf_counter()
        batch = sharding.put_batch(next(stream), run.mesh)
        figures = {"first batch s": time.perf_counter() - pipeline_start}
        for steps in (3, 10):  # the first ones are warm-up
            start = time.perf_counter()
            for _ in range(steps):
                state, metrics = program(state, batch)
            jax.block_until_ready(metrics)
        step_seconds = (time.perf_counter() - start) / steps
        for _ in range(8):  # skips batches prepared meanwhile, which would flatter the pipeline
            next(stream)
        log = StepLog(0, batch_size=size)
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds or steps < 5:
            batch = sharding.put_batch(log.timed(stream), run.mesh)
            state, metrics = program(state, batch)
            log.add(metrics)
            steps += 1
        means = log.means()
        start, batches = time.perf_counter(), 0
        while time.perf_counter() - start < seconds / 3 or batches < 3:
            next(stream)
            batches += 1
        rate = batches * size / (time.perf_counter() - start)
    return figures | {
        "step alone ms": 1e3 * step_seconds,
        "step fed ms": 1e3 / means["steps_per_second"],
        "data_wait": means["data_wait"],
        "steps": steps,
        "patches/s needed": size / step_seconds,
        "patches/s of the pipeline by itself": rate,
    }


def main() -> None:
    """Compiles the step, and measures it in this process's turn."""
    options = messages.arguments()
    jax.config.update("jax_enable_compilation_cache", False)
    run = prepare(configured(options))
    start = time.perf_counter()
    program = run.lower(run.state_shapes()).compile()
    messages.wait_for_turn(**{"compile s": time.perf_counter() - start})
    figures = measure(run, program, seconds=1 if options["tiny"] else 12)
    facts = {"workers": options["workers"], "photos": options["photos"] or "bundled"}
    messages.send("figures", facts | figures)


if __name__ == "__main__":
    main()
