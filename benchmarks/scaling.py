"""What a training step computes and communicates on many devices, read off the compiled program.

    python -m benchmarks.scaling                # table for 8 and 64 devices, minutes on two cores
    python -m benchmarks.scaling --json FILE    # the same figures as JSON

Each case is compiled, but not run, in its own process for that number of simulated devices: the
partitioner that inserts the collectives is the same on CPUs, GPUs and TPUs. Times are estimates
from a measured step on one device and the bandwidths given by flags. docs/scaling.md explains the
table.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

CASES = ((8, 1), (8, 8), (64, 1), (64, 8), (64, 64))  # (devices, those per copy)
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "s64": 8, "s32": 4, "u32": 4, "s8": 1, "pred": 1}

_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_CALL = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(")


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to distribute a step.

    Attributes:
        devices: total number.
        fsdp_devices: number of devices that share one copy of the state.
        batch_per_device: crops of a batch per device.
        state_bytes: size of the train state on each device.
        flops: of one step on each device.
        collectives: bytes of the results of the collectives on each device, by kind.
        counts: number of collectives by kind, in the program compiled for CPUs.
    """

    devices: int
    fsdp_devices: int
    batch_per_device: int
    state_bytes: int
    flops: float
    collectives: dict[str, int]
    counts: dict[str, int]


def collectives_of(text: str) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of the results and number of the collectives in the text of a compiled program."""
    sizes, counts = dict.fromkeys(COLLECTIVES, 0), dict.fromkeys(COLLECTIVES, 0)
    for line in text.splitlines():
        if call := _CALL.search(line):
            shapes, kind = call.groups()
            counts[kind] += 1
            sizes[kind] += sum(
                BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n)
                for dtype, dims in _SHAPE.findall(shapes)
            )
    return sizes, counts


@contextlib.contextmanager
def as_counted() -> Iterator[None]:
    """Formulates networks for accelerators, without what XLA's cost analysis counts too often.

    These are grouped convolutions, here sums of nine shifted products instead, and recomputation.
    """
    import jax.numpy as jnp

    from dcpt_jax.models import formulation, layers, stage

    plain = layers.plain_conv

    def conv(x: Any, kernel: Any, *, groups: int = 1, **settings: Any) -> Any:
        if groups == 1:
            return plain(x, kernel, **settings)
        (h, w), padded = x.shape[1:3], jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        taps = ((i, j) for i in range(3) for j in range(3))
        return sum(padded[:, i : i + h, j : j + w] * kernel[i, j, 0] for i, j in taps)

    with (
        formulation.formulated(formulation.ACCELERATOR),
        mock.patch.object(layers, "plain_conv", conv),
        mock.patch.object(stage, "checkpointed", lambda function: function),
    ):
        yield


def compiled_case(preset: str, fsdp_devices: int, batch_per_device: int) -> Case:
    """Compiles the restoration step of a preset for the visible devices, without running it."""
    import jax

    from dcpt_jax import config as configs
    from dcpt_jax.train.run import prepare

    config = configs.load("restore", preset)
    devices = jax.device_count()
    config.batch_size = devices * batch_per_device
    config.fsdp_devices = fsdp_devices
    config.dtype = "bfloat16"
    config.data.num_workers = 0
    run = prepare(config)
    state = run.state_shapes()
    with as_counted():
        compiled = run.lower(state).compile()
    sizes, counts = collectives_of(compiled.as_text())
    state_bytes = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(state)
    )
    flops = (compiled.cost_analysis() or {}).get("flops", math.nan)
    return Case(devices, fsdp_devices, batch_per_device, state_bytes, flops, sizes, counts)


def bytes_sent(case: Case) -> tuple[float, float]:
    """Bytes that each device sends in a step, for collectives on a ring.

    An all-reduce of S bytes among n devices sends 2 S (n - 1) / n, an all-gather with a result of S
    bytes S (n - 1) / n, a reduce-scatter with a result of S bytes S (n - 1).

    Returns:
        Among all devices, and among those that share one copy of the state.
    """
    size, n, shared = case.collectives, case.devices, case.fsdp_devices
    everywhere = 2 * size["all-reduce"] * (n - 1) / n
    everywhere += size["all-to-all"] + size["collective-permute"]
    gathered = size["all-gather"] * (shared - 1) / shared
    return everywhere, gathered + size["reduce-scatter"] * (shared - 1)


def table(
    cases: Iterable[Case], *, step_ms: float, inside: float, between: float, per_host: int
) -> str:
    """Markdown table of the cases.

    Args:
        cases: as returned by `compiled_case`.
        step_ms: measured time of the step on one device, in milliseconds.
        inside: bandwidth of a device to the others of its host, one way, in GB/s.
        between: bandwidth of a device to other hosts, one way, in GB/s.
        per_host: number of devices per host.
    """
    lines = [
        "| devices | state shared by | batch | state, GB | computed, TFLOP | sent, MB | "
        "communication, ms | efficiency, no overlap |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case in cases:
        sent = bytes_sent(case)
        bandwidths = [
            inside if devices <= per_host else between
            for devices in (case.devices, case.fsdp_devices)
        ]
        milliseconds = sum(size / speed / 1e6 for size, speed in zip(sent, bandwidths, strict=True))
        efficiency = step_ms / (step_ms + milliseconds)
        lines.append(
            f"| {case.devices} | {case.fsdp_devices} | {case.devices * case.batch_per_device} | "
            f"{case.state_bytes / 1e9:.2f} | {case.flops / 1e12:.2f} | {sum(sent) / 1e6:.0f} | "
            f"{milliseconds:.1f} | {100 * efficiency:.0f} % |"
        )
    return "\n".join(lines)


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="nafnet,5d", help="preset of configs/restore.py")
    parser.add_argument("--batch-per-device", type=int, default=32)
    parser.add_argument(
        "--step-ms", type=float, default=47.8, help="measured step time on one device"
    )
    parser.add_argument(
        "--inside", type=float, default=450.0, help="bandwidth within a host, GB/s, one way"
    )
    parser.add_argument(
        "--between", type=float, default=50.0, help="bandwidth between hosts, GB/s, one way"
    )
    parser.add_argument("--per-host", type=int, default=8, help="devices per host")
    parser.add_argument("--json", type=Path, help="JSON file for the results")
    parser.add_argument("--case", type=int, nargs=2, metavar=("DEVICES", "FSDP"),
                        help="compile one case and print it as JSON")  # fmt: skip
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    options = parse_options(arguments)
    if options.case:
        case = compiled_case(options.preset, options.case[1], options.batch_per_device)
        print(json.dumps(dataclasses.asdict(case)))
        return 0
    cases = []
    for devices, fsdp_devices in CASES:
        flags = f"--xla_force_host_platform_device_count={devices}"
        # Nothing runs, so optimisation is not needed; the collectives are inserted before it.
        flags += " --xla_backend_optimization_level=0"
        command = [sys.executable, "-m", "benchmarks.scaling", "--preset", options.preset]
        command += ["--batch-per-device", str(options.batch_per_device)]
        command += ["--case", str(devices), str(fsdp_devices)]
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            return done.returncode
        cases.append(Case(**json.loads(done.stdout.splitlines()[-1])))
        print(f"compiled for {devices} devices, state shared by {fsdp_devices}", file=sys.stderr)
    if options.json:
        figures = {
            "preset": options.preset,
            "dtype": "bfloat16",
            "cases": [dataclasses.asdict(case) for case in cases],
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    names = ("step_ms", "inside", "between", "per_host")
    print(table(cases, **{name: getattr(options, name) for name in names}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
