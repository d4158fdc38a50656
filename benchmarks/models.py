"""Times the networks: compiling, a forward pass and a training step; beside PyTorch if installed.

    python -m benchmarks.models --output models.json
    python -m benchmarks.models --case restormer --remat

A training step is forward, L1 loss, backward and AdamW. If PyTorch is installed, a network of the
same size (see `benchmarks.torch_runs`) runs in turn with ours, in its own process (see
`interleaved.py`); compare ratios, not times. --threads sets the number of PyTorch's threads;
XLA uses all available cores (`taskset` restricts it).

On CPUs ours uses huge pages and keeps its memory (`MEMORY`), as in `make demo`. PyTorch has the
environment of this command; `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` gives it huge pages, too.

On a GPU both run there, PyTorch if its build supports it. Float32 matrix products and convolutions
may then use TensorFloat-32 in both (JAX's default); `--dtype bfloat16` is mixed precision in both.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import FULL, SMALL, Case
from benchmarks.interleaved import Side, time_interleaved

WHAT = ("forward", "training step")
# Huge pages, and memory that is not returned after each step, see docs/models.md.
MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=1099511627776:"
    "glibc.malloc.mmap_threshold=1099511627776",
    "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",
}


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """All results of one case."""
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(side) for side in start(case, options)]
        ours = sides[0]
        figures = {"case": dataclasses.asdict(case), **ours.facts}
        for other in sides[1:]:
            figures |= {f"{other.name}: {name}": value for name, value in other.facts.items()}
        for function_name in WHAT:
            times = time_interleaved(sides, function_name, options.repetitions)
            for name, values in times.items():
                figures[f"{function_name}: {name} ms"] = median(values)
                figures[f"{function_name}: {name} fastest ms"] = min(values)
            for other in sides[1:]:
                pairs = zip(times[ours.name], times[other.name], strict=True)
                ratio = median(our_ms / torch_ms for our_ms, torch_ms in pairs)
                figures[f"{function_name}: {ours.name} / {other.name}"] = ratio
        for side in sides:
            figures[f"{side.name}: peak resident MB"] = side.peak_bytes() / 1e6
    return figures


def start(case: Case, options: argparse.Namespace) -> list[Side]:
    """Starts our side of a case, and PyTorch's in each of its variants if installed."""
    # Otherwise JAX would allocate most of a GPU's memory, leaving PyTorch too little.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **MEMORY}
    arguments = {
        "architecture": case.architecture,
        "batch": case.batch,
        "size": case.size,
        "dtype": options.dtype,
    }
    of_ours = {"arguments": case.arguments, "remat": options.remat}
    ours = Side("dcpt_jax", "benchmarks.jax_runs:make", arguments | of_ours, environment)
    sides = [ours]
    arguments |= {
        "arguments": ours.facts.pop("arguments"),
        "device": ours.facts["backend"],
        "threads": options.threads,
    }
    variants = {"torch": {}, "torch channels_last": {"channels_last": True}}
    if options.torch_compile:
        on_gpu = ours.facts["backend"] == "gpu"
        variants["torch.compile"] = {"channels_last": on_gpu, "compiled": True}
    for name, options_of_variant in variants.items():
        side = Side(name, "benchmarks.torch_runs:make", arguments | options_of_variant)
        if side.missing:
            print(f"{case.name} without {name}: {side.missing}")
            side.close()
        else:
            sides.append(side)
    return sides


def summary(results: Sequence[dict[str, Any]]) -> str:
    """One line for each case and kind of run, with the main results."""
    columns = ("trace s", "compile s", "temporary MB", "ms", "torch ms", "ratio")
    lines = [f"{'':32}" + "".join(f"{column:>14}" for column in columns)]
    for figures in results:
        for function_name in WHAT:
            names = [f"{function_name}: {column}" for column in columns[:3]]
            names += [
                f"{function_name}: dcpt_jax ms",
                f"{function_name}: torch ms",
                f"{function_name}: dcpt_jax / torch",
            ]
            values = (
                f"{figures[name]:14,.2f}" if name in figures else f"{'-':>14}" for name in names
            )
            lines.append(f"{figures['case']['name'] + ', ' + function_name:32}" + "".join(values))
    return "\n".join(lines)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--case",
        choices=[case.name for case in (*SMALL, *FULL)],
        nargs="+",
        default=[case.name for case in SMALL],
        metavar="NAME",
        help=f"networks to measure (default: {', '.join(case.name for case in SMALL)}; "
        f"the paper's: {', '.join(case.name for case in FULL)})",
    )
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="number of threads of PyTorch")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="compute type"
    )
    parser.add_argument(
        "--remat", action="store_true", help="rematerialise the blocks (dcpt_jax only)"
    )
    parser.add_argument("--torch-compile", action="store_true", help="also time torch.compile")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args(arguments)
    if options.repetitions < 1:
        parser.error(f"--repetitions is {options.repetitions}, but must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the requested cases, prints a table for each, and writes all results as JSON."""
    options = parse_options(arguments)
    setting = options.dtype + (", rematerialised" if options.remat else "")
    results = []
    for case in (*SMALL, *FULL):
        if case.name in options.case:
            figures = measure(case, options)
            results.append(figures)
            print(f"\n{case.name}, batch {case.batch} at {case.size}x{case.size}, {setting}")
            for name, value in figures.items():
                if name != "case":
                    print(f"  {name:44}" + (value if isinstance(value, str) else f"{value:14,.2f}"))
    print("\n" + summary(results), flush=True)
    if options.output:
        date = datetime.date.today().isoformat()
        report = {"date": date, "how": setting, "results": results}
        options.output.write_text(json.dumps(report, indent=2) + "\n")
    return results


if __name__ == "__main__":
    main()
