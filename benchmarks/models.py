"""Times the networks: compiling, a forward pass and a training step; beside PyTorch if installed.

    python -m benchmarks.models --output models.json

A training step is forward, L1 loss, backward and AdamW. Where torch and spandrel are installed
(spandrel also needs torchvision), its NAFNet of the same size runs in turn with ours, so that
other load on the machine meets both alike; then read the ratio, not the times. Set the number of
threads by --threads; XLA takes all cores it is allowed (`taskset` restricts it).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dcpt_jax.models import create_model


@dataclasses.dataclass(frozen=True)
class Case:
    """One network at one image size."""

    name: str
    arguments: dict[str, Any]
    batch: int
    size: int


CASES = (
    Case(
        "nafnet-32",
        dict(width=32, encoder_blocks=(1, 1, 1, 4), middle_blocks=1, decoder_blocks=(1, 1, 1, 1)),
        batch=4,
        size=128,
    ),
    Case(
        "nafnet-16",
        dict(width=16, encoder_blocks=(1, 1, 1, 1), middle_blocks=1, decoder_blocks=(1, 1, 1, 1)),
        batch=16,
        size=64,
    ),
)


def jax_runners(case: Case, dtype: str) -> tuple[dict[str, Callable[[], None]], dict[str, float]]:
    """Compiles our network; returns functions that run it once, and the cost of compiling."""
    model = create_model("nafnet", dtype=dtype, **case.arguments)
    degraded, clean = images(case)
    params = model.init(jax.random.key(0), degraded[:1, :16, :16])["params"]
    optimizer = optax.adamw(3e-4)

    def forward(params, degraded):
        return model.apply({"params": params}, degraded)

    def step(params, state, degraded, clean):
        def loss(params):
            return jnp.abs(forward(params, degraded) - clean).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    facts = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}
    compiled = {}
    for name, function, inputs, donated in (
        ("forward", forward, (params, degraded), ()),
        ("training step", step, (params, state, degraded, clean), (0, 1)),
    ):
        start = time.perf_counter()
        compiled[name] = jax.jit(function, donate_argnums=donated).lower(*inputs).compile()
        facts[f"{name}: compile s"] = time.perf_counter() - start
        memory = compiled[name].memory_analysis()
        facts[f"{name}: temporary MB"] = memory.temp_size_in_bytes / 1e6

    # A step consumes its state, so the forward pass has a copy of the parameters to itself.
    kept, carried = jax.tree.map(jnp.copy, params), [params, state]

    def run_forward():
        jax.block_until_ready(compiled["forward"](kept, degraded))

    def run_step():
        *carried[:], value = compiled["training step"](*carried, degraded, clean)
        jax.block_until_ready((carried, value))

    return {"forward": run_forward, "training step": run_step}, facts


def torch_runners(case: Case, threads: int, channels_last: bool) -> dict[str, Callable[[], None]]:
    """Functions that run spandrel's NAFNet of the same size once; ImportError without it."""
    import torch
    from spandrel.architectures.NAFNet import NAFNet

    torch.set_num_threads(threads)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    model = NAFNet(
        width=case.arguments["width"],
        enc_blk_nums=list(case.arguments["encoder_blocks"]),
        middle_blk_num=case.arguments["middle_blocks"],
        dec_blk_nums=list(case.arguments["decoder_blocks"]),
    ).to(memory_format=memory)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=1e-4)
    degraded, clean = (
        torch.from_numpy(np.array(batch.transpose(0, 3, 1, 2))).contiguous(memory_format=memory)
        for batch in map(np.asarray, images(case))
    )

    def run_forward():
        with torch.no_grad():
            model(degraded)

    def run_step():
        optimizer.zero_grad()
        (model(degraded) - clean).abs().mean().backward()
        optimizer.step()

    return {"forward": run_forward, "training step": run_step}


def images(case: Case) -> tuple[jax.Array, jax.Array]:
    """A degraded and a clean batch [b, h, w, 3] of noise."""
    rng = np.random.default_rng(0)
    shape = (2, case.batch, case.size, case.size, 3)
    return tuple(jnp.asarray(rng.random(shape, dtype=np.float32)))


def time_in_turn(
    runners: dict[str, dict[str, Callable[[], None]]], what: str, repetitions: int
) -> dict[str, list[float]]:
    """Milliseconds of each repetition of each runner, all runners once in each round."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for repetition in range(repetitions + 2):  # two rounds to warm up
        for name, functions in runners.items():
            start = time.perf_counter()
            functions[what]()
            if repetition >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one case."""
    ours, facts = jax_runners(case, options.dtype)
    runners = {"dcpt_jax": ours}
    try:
        runners["torch"] = torch_runners(case, options.threads, channels_last=False)
        runners["torch channels_last"] = torch_runners(case, options.threads, channels_last=True)
    except ImportError as error:
        print(f"without PyTorch: {error}")
    figures = {"case": dataclasses.asdict(case), **facts}
    for what in ("forward", "training step"):
        times = time_in_turn(runners, what, options.repetitions)
        for name, values in times.items():
            figures[f"{what}: {name} ms"] = median(values)
            figures[f"{what}: {name} fastest ms"] = min(values)
        if "torch" in times:
            pairs = zip(times["dcpt_jax"], times["torch"], strict=True)
            figures[f"{what}: dcpt_jax / torch"] = median(mine / theirs for mine, theirs in pairs)
    return figures


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the cases asked for, prints a table each, and writes all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [case.name for case in CASES]
    parser.add_argument("--case", choices=names, nargs="*", default=names)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--dtype", default="float32", help="compute type of ours")
    parser.add_argument("--output", type=Path, help="file for the figures, JSON")
    options = parser.parse_args(arguments)
    backend = f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {options.dtype}"
    results = []
    for case in CASES:
        if case.name in options.case:
            figures = measure(case, options)
            results.append(figures)
            print(f"\n{case.name}, batch {case.batch} at {case.size}x{case.size}; {backend}")
            for name, value in figures.items():
                if name != "case":
                    print(f"  {name:44}{value:14,.2f}")
    if options.output:
        options.output.write_text(json.dumps({"backend": backend, "results": results}, indent=2))
    return results


if __name__ == "__main__":
    main()
