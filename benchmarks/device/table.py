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
    measured restoration step: see `fed` for a complete one of NAFNet.
    """
    found = {}
    for name in NETWORKS:
        steps = {
            key: one["ms"] / one["batch"]
            for key, one in results["parts"].get("fast", {}).items()
            if key.startswith(f"{name} step bfloat16") and "torch" not in key and "ms" in one
        }
        if steps:
            config = configs.load("restore", f"{name},5d")
            per_step = min(steps.values()) * config.batch_size
            found[f"{name}: {config.num_steps} steps of {config.batch_size}, bfloat16, hours"] = (
                config.num_steps * per_step / 3.6e6
            )
    return found


def text(results: dict[str, Any]) -> str:
    """All tables, with a line for each available or missing result."""
    facts, parts = results["facts"], results["parts"]
    lines = [f"{facts['card']}; {facts['machine']}; {facts['date']}; {facts['seconds']:.0f} s"]
    lines += ["", "right", *_right(parts.get("right", {}))]
    lines += ["", "operations", *_operations(parts.get("micro", {}))]
    lines += ["", *_fast(parts.get("fast", {}))]
    for part in ("fed", "whole"):
        lines += ["", part, *_plain(parts.get(part, {}))]
    lines += ["", "cost", *(f"  {key}: {hours:,.0f}" for key, hours in results["cost"].items())]
    return "\n".join(lines)


def _right(part: dict[str, Any]) -> Iterator[str]:
    for job, figures in part.items():
        for name, one in figures.items():
            if isinstance(one, dict) and "relative" in one:
                verdict = "right" if one["right"] else "WRONG"
                yield (f"  {name:34}{verdict}  relative {one['relative']:.1e}  "
                       f"of allowed {one['of allowed']:.2g}")  # fmt: skip
            elif isinstance(one, dict):
                yield f"  {name:34}{_short(one.get('error', ''))}"
        if "error" in figures:
            yield f"  {job:34}{_short(figures['error'])}"


def _operations(part: dict[str, Any]) -> Iterator[str]:
    for figures in part.values():
        for name, one in figures.items():
            if isinstance(one, dict) and name != "agreement":
                cells = (
                    f"{key} {value:,.1f}" if isinstance(value, float) else f"{key} {_short(value)}"
                    for key, value in one.items()
                )
                yield f"  {name:54}" + "  ".join(cells)
            elif name == "agreement":
                wrong = {key: value for key, value in one.items() if not _small(value)}
                yield f"  agreement in float32: {_short(wrong or 'all')}"
        if "error" in figures:
            yield f"  {_short(figures['error'])}"


def _small(value: Any) -> bool:
    return isinstance(value, float) and value < 1e-4


def _fast(part: dict[str, Any]) -> Iterator[str]:
    yield f"{'fast':44}" + "".join(f"{column:>14}" for column in (*_COLUMNS, "eager/this"))
    eager = {
        key.removesuffix(" torch eager"): one["ms"] / one["batch"]
        for key, one in part.items()
        if key.endswith(" torch eager") and "ms" in one
    }
    for name, one in part.items():
        if "ms" not in one:
            yield f"  {name:42}{_short(one.get('error', 'nothing'))}"
            continue
        cells = [f"{one[c]:14,.3f}" if c in one else f"{'-':>14}" for c in _COLUMNS]
        base = next((ms for key, ms in eager.items() if name.startswith(f"{key} ")), None)
        cells.append(f"{base / (one['ms'] / one['batch']):14,.2f}" if base else f"{'-':>14}")
        yield f"  {name:42}" + "".join(cells)
    for name, one in part.items():
        for kernel in one.get("kernels", [])[:8]:
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
