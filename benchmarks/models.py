"""Times the networks: compiling, a forward pass and a training step; beside PyTorch if installed.

    python -m benchmarks.models --output models.json
    python -m benchmarks.models --case restormer --remat

A training step is forward, L1 loss, backward and AdamW. Where PyTorch is installed, a network of
the same size (see `benchmarks.torch_runs`) runs in turn with ours, so that other load on the
machine meets both alike; then read the ratio, not the times. Set the number of threads of PyTorch
by --threads; XLA takes all cores it is allowed (`taskset` restricts it). On CPUs the whole process
has huge pages (`dcpt_jax.host_memory`), as our commands have; both sides gain from them. With
`GLIBC_TUNABLES=glibc.malloc.hugetlb=0` neither has.

On a GPU both run there, PyTorch if its build can. Matrix products and convolutions in float32 may
then use TensorFloat-32 in both (JAX's default); `--dtype bfloat16` is mixed precision in both.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

# Before JAX is imported: on a GPU it would take most of the memory and leave PyTorch too little.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dcpt_jax.host_memory import start_with_huge_pages
from dcpt_jax.models import BACKBONES, RestorationNetwork, create_model

WHAT = ("forward", "training step")
WARM_UP = 2  # rounds that are not counted


@dataclasses.dataclass(frozen=True)
class Case:
    """One network at one image size."""

    name: str
    architecture: str
    arguments: dict[str, Any]
    batch: int
    size: int = 128


_NARROW = dict(encoder_blocks=(1, 1, 1, 4), middle_blocks=1, decoder_blocks=(1, 1, 1, 1))
_LEVELS = dict(dim=24, num_blocks=(1, 2, 2, 2), num_refinement_blocks=1, heads=(1, 2, 4, 8))
_PROMPTS = dict(prompt_dims=(32, 64, 160), prompt_sizes=(64, 32, 16))

SMALL = (
    Case("nafnet-32", "nafnet", {**_NARROW, "width": 32}, batch=4),
    Case("nafnet-16", "nafnet", {**_NARROW, "width": 16, "encoder_blocks": (1,) * 4}, 16, size=64),
    Case("restormer-24", "restormer", _LEVELS, batch=2),
    Case("promptir-24", "promptir", {**_LEVELS, **_PROMPTS}, batch=2),
    Case("swinir-60", "swinir", dict(embed_dim=60, depths=(2,) * 6, num_heads=(6,) * 6), batch=2),
)
# The networks of the paper. They take minutes on a few cores, so they run only if named.
FULL = tuple(Case(name, name, {}, batch=1) for name in BACKBONES)


def images(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """A degraded and a clean batch float32 [b, h, w, 3] of noise."""
    rng = np.random.default_rng(0)
    shape = (2, case.batch, case.size, case.size, 3)
    return tuple(rng.random(shape, dtype=np.float32))


def compile_timed(function: Callable, *inputs: Any, donated: tuple[int, ...] = ()) -> Any:
    """Compiles a function for inputs; returns the program and what compiling cost.

    Returns:
        The compiled program; and seconds for tracing (making a program of JAX's and then one of
        XLA's) and for compiling that, and the megabytes the program works with: "temporary" is
        what it needs beside inputs and outputs, "peak" is all of it.
    """
    start = time.perf_counter()
    lowered = jax.jit(function, donate_argnums=donated).lower(*inputs)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    memory = compiled.memory_analysis()
    peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    peak += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return compiled, {
        "trace s": traced - start,
        "compile s": done - traced,
        "temporary MB": memory.temp_size_in_bytes / 1e6,
        "peak MB": peak / 1e6,
    }


def jax_runners(
    case: Case, model: RestorationNetwork
) -> tuple[dict[str, Callable[[], None]], dict[str, float]]:
    """Compiles our network; returns functions that run it once, and the cost of compiling."""
    degraded, clean = map(jnp.asarray, images(case))
    optimizer = optax.adamw(3e-4)

    def initialise(key, image):
        return model.init(key, image)["params"]

    def forward(params, degraded):
        return model.apply({"params": params}, degraded)

    def step(params, state, degraded, clean):
        def loss(params):
            return jnp.abs(forward(params, degraded) - clean).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    start = time.perf_counter()
    smallest = degraded[:1, : model.size_multiple, : model.size_multiple]
    params = jax.block_until_ready(jax.jit(initialise)(jax.random.key(0), smallest))
    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "initialise: trace, compile and run s": time.perf_counter() - start,
    }
    state = optimizer.init(params)
    compiled = {}
    for what, function, inputs, donated in (
        ("forward", forward, (params, degraded), ()),
        ("training step", step, (params, state, degraded, clean), (0, 1)),
    ):
        compiled[what], costs = compile_timed(function, *inputs, donated=donated)
        facts |= {f"{what}: {name}": value for name, value in costs.items()}

    # A step consumes its state, so the forward pass has a copy of the parameters to itself.
    kept, carried = jax.tree.map(jnp.copy, params), [params, state]

    def run_forward():
        jax.block_until_ready(compiled["forward"](kept, degraded))

    def run_step():
        *carried[:], value = compiled["training step"](*carried, degraded, clean)
        jax.block_until_ready((carried, value))

    return {"forward": run_forward, "training step": run_step}, facts


def torch_runners(
    case: Case, model: RestorationNetwork, options: argparse.Namespace
) -> tuple[dict[str, dict[str, Callable[[], None]]], dict[str, Any]]:
    """The same network in PyTorch in each of its ways; ImportError where it is not installed."""
    import torch

    from benchmarks import torch_runs

    torch.set_num_threads(options.threads)
    place = torch.device("cpu")
    if jax.default_backend() == "gpu" and torch.cuda.is_available():
        place = torch.device("cuda")
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    runners: dict[str, dict[str, Callable[[], None]]] = {}
    facts = {
        "torch": f"{torch.__version__} on {place.type}; {torch_runs.SOURCES[case.architecture]}"
    }
    ways = {"torch": {}, "torch channels_last": {"channels_last": True}}
    if options.torch_compile:
        ways["torch.compile"] = {"channels_last": place.type == "cuda", "compiled": True}
    for name, way in ways.items():
        network = torch_runs.network(case.architecture, model.arguments(), case.size)
        runners[name], costs = torch_runs.runners(
            network, images(case), place, dtype=options.dtype, **way
        )
        facts |= {f"{name}: {what}": value for what, value in costs.items()}
    return runners, facts


def time_in_turn(
    runners: dict[str, dict[str, Callable[[], None]]], what: str, repetitions: int
) -> dict[str, list[float]]:
    """Milliseconds of each repetition of each runner, all runners in each round.

    Each runs twice and the second time counts: the first finds its memory again, which the other
    framework's blocks in the same heap have broken up.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    for repetition in range(repetitions + WARM_UP):
        for name, functions in runners.items():
            functions[what]()
            start = time.perf_counter()
            functions[what]()
            if repetition >= WARM_UP:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one case."""
    model = create_model(
        case.architecture, dtype=options.dtype, remat=options.remat, **case.arguments
    )
    ours, facts = jax_runners(case, model)
    runners = {"dcpt_jax": ours}
    try:
        theirs, more = torch_runners(case, model, options)
        runners, facts = runners | theirs, facts | more
    except ImportError as error:
        print(f"{case.name} without PyTorch: {error}")
    figures = {"case": dataclasses.asdict(case), **facts}
    for what in WHAT:
        times = time_in_turn(runners, what, options.repetitions)
        for name, values in times.items():
            figures[f"{what}: {name} ms"] = median(values)
            figures[f"{what}: {name} fastest ms"] = min(values)
        for name, values in times.items():
            if name != "dcpt_jax":
                pairs = zip(times["dcpt_jax"], values, strict=True)
                ratio = median(mine / other for mine, other in pairs)
                figures[f"{what}: dcpt_jax / {name}"] = ratio
    return figures


def summary(results: Sequence[dict[str, Any]]) -> str:
    """One line for each case and kind of run: what matters most of the figures."""
    columns = ("trace s", "compile s", "temporary MB", "ms", "torch ms", "ratio")
    lines = [f"{'':32}" + "".join(f"{column:>14}" for column in columns)]
    for figures in results:
        for what in WHAT:
            names = [f"{what}: {column}" for column in columns[:3]]
            names += [f"{what}: dcpt_jax ms", f"{what}: torch ms", f"{what}: dcpt_jax / torch"]
            values = (
                f"{figures[name]:14,.2f}" if name in figures else f"{'-':>14}" for name in names
            )
            lines.append(f"{figures['case']['name'] + ', ' + what:32}" + "".join(values))
    return "\n".join(lines)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--case",
        choices=[case.name for case in (*SMALL, *FULL)],
        nargs="+",
        default=[case.name for case in SMALL],
        metavar="NAME",
        help=f"what to run: by default {', '.join(case.name for case in SMALL)}; "
        f"further {', '.join(case.name for case in FULL)}, the networks of the paper",
    )
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="compute type"
    )
    parser.add_argument(
        "--remat", action="store_true", help="rematerialise the blocks (ours, not PyTorch's)"
    )
    parser.add_argument("--torch-compile", action="store_true", help="also time torch.compile")
    parser.add_argument("--output", type=Path, help="file for the figures, JSON")
    options = parser.parse_args(arguments)
    if options.repetitions < 1:
        parser.error(f"--repetitions is {options.repetitions}, but must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the cases asked for, prints a table each, and writes all figures as JSON."""
    options = parsed(arguments)
    backend = f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {options.dtype}"
    backend += ", rematerialised" if options.remat else ""
    results = []
    for case in (*SMALL, *FULL):
        if case.name in options.case:
            figures = measure(case, options)
            results.append(figures)
            print(f"\n{case.name}, batch {case.batch} at {case.size}x{case.size}; {backend}")
            for name, value in figures.items():
                if name != "case":
                    print(f"  {name:44}" + (value if isinstance(value, str) else f"{value:14,.2f}"))
    print("\n" + summary(results), flush=True)
    if options.output:
        date = datetime.date.today().isoformat()
        report = {"date": date, "backend": backend, "results": results}
        options.output.write_text(json.dumps(report, indent=2) + "\n")
    return results


if __name__ == "__main__":
    start_with_huge_pages("benchmarks.models")  # PyTorch, in the same process, gains from it too
    # Programs from a cache would make compiling look free.
    jax.config.update("jax_enable_compilation_cache", False)
    main()
