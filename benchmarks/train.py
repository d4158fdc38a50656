"""Times whole training steps: on one and several devices, replicated and split, and their schedule.

    python -m benchmarks.train --devices 1 2 4 8 --output train.json
    python -m benchmarks.train --mode restore --preset nafnet,5d --dtype bfloat16 --torch

Each variant is a run as prepared by the commands (`dcpt_jax.train.run.prepare`): losses, gradients,
optimizers, moving average, on a mesh of the first N devices, with the same global batch. The
variants' steps are interleaved, so that other load on the machine affects all equally; compare
ratios. Without accelerators JAX simulates devices, which share the machine's cores: more of them
cannot be faster, and the loss is the cost of splitting and reducing.

Without a preset: the small network of the demo. With one: the published recipe, whose GPU-hours are
derived from the time of a step. `--torch` also times PyTorch's network of the same size, in a
restoration step with its AdamW (eager, channels_last and by torch.compile); it requires a single
device and `--mode restore`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

STEPS = 8  # per round; only the last one is waited for, as in training


class Variant:
    """A run on some devices, compiled and ready."""

    def __init__(self, options: argparse.Namespace, devices: int, fsdp: int):
        """Prepares and compiles the run.

        Args:
            options: of the command line.
            devices: number of devices.
            fsdp: number of devices that share one copy of the state.
        """
        import jax

        from dcpt_jax.train import sharding, throughput
        from dcpt_jax.train.run import prepare

        self.name = f"{devices} x" + (f", state in {fsdp}" if fsdp > 1 else "")
        config = configured(options, fsdp)
        jax_devices = jax.devices()[:devices]
        start = time.perf_counter()
        run = prepare(config, devices=jax_devices)
        self._state = jax.block_until_ready(run.create_state())
        built = time.perf_counter()
        lowered = run.lower(self._state)
        traced = time.perf_counter()
        self._step = lowered.compile()
        compiled = time.perf_counter()
        with run.batches(start=0) as stream:
            batch = next(stream)
        self.images = batch["degraded"], batch["clean"]
        self.network = run.network
        self._batch = sharding.put_batch(batch, run.mesh)
        self.flops = throughput.flops_of(lowered, accumulate_steps=config.accumulate_steps)
        self.peak = throughput.peak_flops(jax_devices, config.dtype)
        memory = self._step.memory_analysis()
        self.facts = {
            "prepare and initialise s": built - start,
            "trace s": traced - built,
            "compile s": compiled - traced,
            "state and batch of a device MB": memory.argument_size_in_bytes / 1e6,
            "temporary of a device MB": memory.temp_size_in_bytes / 1e6,
            "gigaflops of a step": (self.flops or 0) / 1e9,
        }

    def round(self) -> dict[str, float]:
        """Milliseconds per step, and the part until the next step could be dispatched."""
        import jax

        dispatched, start = 0.0, time.perf_counter()
        for _ in range(STEPS):
            began = time.perf_counter()
            with jax.transfer_guard("disallow"):
                self._state, metrics = self._step(self._state, self._batch)
            dispatched += time.perf_counter() - began
        jax.block_until_ready((self._state, metrics))
        total = time.perf_counter() - start
        return {"ms": 1e3 * total / STEPS, "dispatch ms": 1e3 * dispatched / STEPS}


def configured(options: argparse.Namespace, fsdp: int) -> Any:
    """The config of a variant."""
    from dcpt_jax import config as configs

    config = configs.load(options.mode, options.preset)
    config.update(dtype=options.dtype, fsdp_devices=fsdp, remat=options.remat)
    config.data.num_workers = 0
    config.validation.every_steps = 0
    if options.batch:
        config.batch_size = options.batch
    if options.crop:
        config.data.crop_size = options.crop
    return config


def torch_steps(
    options: argparse.Namespace, ours: Variant
) -> tuple[dict[str, Callable[[], dict[str, float]]], dict[str, Any]]:
    """A round of PyTorch's training steps for each of its variants, and their description."""
    import torch

    from benchmarks import torch_runs

    torch_device = torch_runs.gpu_if_usable()
    torch.set_num_threads(os.cpu_count() or 1)
    rounds, facts = {}, {}
    variants = {"torch eager": {}, "torch channels_last": {"channels_last": True}}
    if torch_device.type == "cuda":
        variants["torch.compile"] = {"channels_last": True, "compiled": True}
    for name, variant_options in variants.items():
        network = torch_runs.network(
            ours.network.architecture, ours.network.arguments(), ours.images[0].shape[1]
        )
        steps, costs = torch_runs.runners(
            network, ours.images, torch_device, dtype=options.dtype, **variant_options
        )
        facts |= {f"{name}: {key}": value for key, value in costs.items()}

        def round_of(step: Callable[[], None] = steps["training step"]) -> dict[str, float]:
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            return {"ms": 1e3 * (time.perf_counter() - start) / STEPS}

        rounds[name] = round_of
    facts["torch"] = f"{torch.__version__} on {torch_device.type}"
    return rounds, facts


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All results."""
    import jax

    shapes = [(n, 1) for n in options.devices]
    shapes += [(n, n) for n in options.devices if n > 1 and not options.no_fsdp]
    variants = [Variant(options, devices, fsdp) for devices, fsdp in shapes]
    rounds = {variant.name: variant.round for variant in variants}
    facts: dict[str, Any] = {
        "backend": f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {options.dtype}"
    }
    if options.torch:
        torch_rounds, torch_facts = torch_steps(options, variants[0])
        rounds, facts = rounds | torch_rounds, facts | torch_facts
    times: dict[str, list[dict[str, float]]] = {name: [] for name in rounds}
    for repetition in range(options.repetitions + 1):
        for name, run in rounds.items():
            timings = run()
            if repetition:  # the first round allocates memory and is not counted
                times[name].append(timings)
    first = [timings["ms"] for timings in times[variants[0].name]]
    results = {}
    for name, values in times.items():
        results[name] = {key: median(timings[key] for timings in values) for key in values[0]}
        pairs = zip((timings["ms"] for timings in values), first, strict=True)
        results[name]["ratio"] = median(ms / base for ms, base in pairs)
        results[name]["steps/s"] = 1e3 / results[name]["ms"]
    for variant in variants:
        results[variant.name] |= variant.facts | _rates(results[variant.name], variant)
    config = configured(options, 1)
    facts |= {"mode": options.mode, "preset": options.preset or "demo"}
    facts |= {"batch": config.batch_size, "crop": config.data.crop_size}
    if options.preset:
        hours = config.num_steps * results[variants[0].name]["ms"] / 3.6e6
        facts["steps of the schedule"] = config.num_steps
        facts["device-hours of the schedule"] = hours * options.devices[0]
    return {**facts, "results": results}


def _rates(figures: dict[str, float], variant: Variant) -> dict[str, float]:
    images = len(variant.images[0])
    rates = {"images/s": images * figures["steps/s"]}
    if variant.flops:
        rates["teraflops/s"] = variant.flops * figures["steps/s"] / 1e12
        if variant.peak:
            rates["share of peak"] = variant.flops * figures["steps/s"] / variant.peak
    return rates


COLUMNS = ("ms", "ratio", "dispatch ms", "steps/s", "images/s", "teraflops/s", "share of peak",
           "compile s", "state and batch of a device MB", "temporary of a device MB")  # fmt: skip


def summary(figures: dict[str, Any]) -> str:
    """A table with a line for each variant."""
    results = figures["results"]
    columns = [name for name in COLUMNS if any(name in row for row in results.values())]
    widths = [max(len(column), 9) + 2 for column in columns]
    lines = [f"{'':22}" + "".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True))]
    for name, row in results.items():
        cells = (f"{row[c]:{w},.3f}" if c in row else f"{'-':>{w}}"
                 for c, w in zip(columns, widths, strict=True))  # fmt: skip
        lines.append(f"{name:22}" + "".join(cells))
    lines += [f"{key}: {value}" for key, value in figures.items() if key != "results"]
    return "\n".join(lines)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--devices", type=int, nargs="+", default=[1], help="numbers of devices to measure"
    )
    parser.add_argument("--mode", choices=("pretrain", "restore"), default="restore")
    parser.add_argument("--preset", default="", help='e.g. "nafnet,5d" (default: the demo)')
    parser.add_argument(
        "--batch", type=int, default=0, help="batch size (default: that of the config)"
    )
    parser.add_argument(
        "--crop", type=int, default=0, help="crop size in pixels (default: that of the config)"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--no-fsdp", action="store_true", help="skip runs with a sharded state")
    parser.add_argument("--torch", action="store_true", help="also time PyTorch")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args(arguments)
    if options.repetitions < 1 or min(options.devices) < 1:
        parser.error("--repetitions and --devices must be at least 1")
    if options.torch and (options.devices != [1] or options.mode != "restore"):
        parser.error("--torch compares a restoration step on one device")
    return options


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints the table, and writes the results as JSON."""
    options = parse_options(arguments)
    figures = {"date": datetime.date.today().isoformat(), **measure(options)}
    print(summary(figures), flush=True)
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def _simulate(count: int) -> None:
    """Simulates devices on a machine without accelerators; call it before JAX is imported."""
    flag = f"--xla_force_host_platform_device_count={count}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves room for PyTorch


if __name__ == "__main__":
    _simulate(max(parse_options(None).devices))
    main()
