"""The published NAFNet's training step fed by the input pipeline: how long it waits for data."""

from __future__ import annotations

import time
from pathlib import Path

import jax

from benchmarks.device import turns
from dcpt_jax import config as configs
from dcpt_jax.train import sharding
from dcpt_jax.train.setup import prepare
from dcpt_jax.train.step_log import StepLog


def main() -> None:
    """Compiles the step, starts the workers in its turn, and takes steps for some seconds."""
    options = turns.arguments()
    jax.config.update("jax_enable_compilation_cache", False)
    config = configs.restore("" if options["tiny"] else "nafnet,5d")
    config.dtype, config.data.num_workers = "bfloat16", options["workers"]
    photos = options["photos"]
    if photos and list(Path(photos).glob("*.array_record")):
        for name in config.data.sources:
            config.data.sources[name] = f"packed:{photos}"
    elif photos:
        config.data.root = photos
    if options["tiny"]:
        config.batch_size, config.data.crop_size = 4, 32
    else:
        config.batch_size = 32
    run = prepare(config)
    shapes = run.state_shapes()
    start = time.perf_counter()
    program = run.lower(shapes).compile()
    turns.wait_for_turn(**{"compile s": time.perf_counter() - start})
    state = run.create_state()
    seconds = 2 if options["tiny"] else 12
    with run.batches(start=0) as stream:
        began = time.perf_counter()
        batch = sharding.put_batch(next(stream), run.mesh)
        first = time.perf_counter() - began
        for _ in range(3):
            state, metrics = program(state, batch)
        jax.block_until_ready(metrics)
        start = time.perf_counter()
        for _ in range(10):
            state, metrics = program(state, batch)
        jax.block_until_ready(metrics)
        alone = (time.perf_counter() - start) / 10
        # What the workers made ahead while the above ran would flatter them.
        for _ in range(8):
            next(stream)
        log = StepLog(0, batch_size=config.batch_size)
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds or steps < 5:
            batch = sharding.put_batch(log.timed(stream), run.mesh)
            state, metrics = program(state, batch)
            log.add(metrics)
            steps += 1
        means = log.means()
        start, taken = time.perf_counter(), 0
        while time.perf_counter() - start < seconds / 3 or taken < 3:
            next(stream)
            taken += 1
        rate = taken * config.batch_size / (time.perf_counter() - start)
    turns.say(
        "figures",
        {
            "workers": options["workers"],
            "first batch s": first,
            "step alone ms": 1e3 * alone,
            "step fed ms": 1e3 / means["steps_per_second"],
            "data_wait": means["data_wait"],
            "steps": steps,
            "patches/s needed": config.batch_size / alone,
            "patches/s of the pipeline by itself": rate,
            "photos": photos or "bundled",
        },
    )


if __name__ == "__main__":
    main()
