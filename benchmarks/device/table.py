"""Prints the results of the kit, and the costs of the published schedules derived from them.

python -m benchmarks.device.table results.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dcpt_jax import config as configs

NETWORKS = ("nafnet", "restormer", "promptir", "swinir")
_COLUMNS = ("ms", "batch", "peak GB", "compile s", "teraflops/s", "share of peak")


def costs(results: dict[str, Any]) -> dict[str, float]:
    """Device-hours of the published five-class schedules, with the fastest of our steps.

    Only steps are counted. A pre-training step also trains the classifier, and costs more than the
    measured restoration step: see the part "pipeline" for a complete one of NAFNet.
    """
    hours = {}
    for name in NETWORKS:
        steps = {
            key: figures["ms"] / figures["batch"]
            for key, figures in results["parts"].get("networks", {}).items()
            if key.startswith(f"{name} step bfloat16") and "torch" not in key and "ms" in figures
        }
        if steps:
            config = configs.load("restore", f"{name},5d")
            per_step = min(steps.values()) * config.batch_size
            hours[f"{name}: {config.num_steps} steps of {config.batch_size}, bfloat16, hours"] = (
                config.num_steps * per_step / 3.6e6
            )
    return hours


def text(results: dict[str, Any]) -> str:
    """All tables, with a line for each available or missing result."""
    facts, parts = results["facts"], results["parts"]
    lines = [f"{facts['card']}; {facts['machine']}; {facts['date']}; {facts['seconds']:.0f} s"]
    lines += ["", "recordings", *_recordings(parts.get("recordings", {}))]
    lines += ["", "operations", *_operations(parts.get("operations", {}))]
    lines += ["", *_networks(parts.get("networks", {}))]
    for part in ("pipeline", "commands"):
        lines += ["", part, *_plain(parts.get(part, {}))]
    lines += ["", "cost", *(f"  {key}: {value:,.0f}" for key, value in results["cost"].items())]
    return "\n".join(lines)


def _recordings(part: dict[str, Any]) -> Iterator[str]:
    for job, figures in part.items():
        for name, check in figures.items():
            if isinstance(check, dict) and "relative" in check:
                verdict = "passed" if check["right"] else "FAILED"
                yield (f"  {name:34}{verdict}  relative {check['relative']:.1e}  "
                       f"of allowed {check['of allowed']:.2g}")  # fmt: skip
            elif isinstance(check, dict):
                yield f"  {name:34}{_short(check.get('error', ''))}"
        if "error" in figures:
            yield f"  {job:34}{_short(figures['error'])}"


def _operations(part: dict[str, Any]) -> Iterator[str]:
    for figures in part.values():
        for name, timings in figures.items():
            if isinstance(timings, dict):
                cells = (f"{key} {_short(value)}" for key, value in timings.items())
                yield f"  {name:54}" + "  ".join(cells)
        if "error" in figures:
            yield f"  {_short(figures['error'])}"


def _networks(part: dict[str, Any]) -> Iterator[str]:
    yield f"{'networks':44}" + "".join(f"{column:>14}" for column in (*_COLUMNS, "eager/this"))
    eager = {
        key.removesuffix(" torch eager"): figures["ms"] / figures["batch"]
        for key, figures in part.items()
        if key.endswith(" torch eager") and "ms" in figures
    }
    for name, figures in part.items():
        if "ms" not in figures:
            yield f"  {name:42}{_short(figures.get('error', 'nothing'))}"
            continue
        cells = [f"{figures[c]:14,.3f}" if c in figures else f"{'-':>14}" for c in _COLUMNS]
        base = next((ms for key, ms in eager.items() if name.startswith(f"{key} ")), None)
        cells.append(
            f"{base / (figures['ms'] / figures['batch']):14,.2f}" if base else f"{'-':>14}"
        )
        yield f"  {name:42}" + "".join(cells)
    for name, figures in part.items():
        for kernel in figures.get("kernels", [])[:8]:
            yield (f"  {name}: {kernel['ms']:9.3f} ms {kernel['calls']:7.0f} x "
                   f"{kernel['name'][:70]}")  # fmt: skip


def _plain(part: dict[str, Any]) -> Iterator[str]:
    for figures in part.values():
        for key, value in figures.items():
            if isinstance(value, dict):
                value = ", ".join(f"{k} {_short(v)}" for k, v in value.items())
            yield f"  {key}: {_short(value)}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return " ".join(str(value).split())[-160:]


if __name__ == "__main__":
    print(text(json.loads(Path(sys.argv[1]).read_text())))
