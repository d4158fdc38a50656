"""Tables and plot of the finished runs of `benchmarks.evidence`, also while some are missing."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Run = Mapping[str, Any]  # a line of runs.jsonl

ARMS = {
    "scratch": "from scratch",
    "longer": "from scratch, with the cost of DCPT in more steps",
    "reproduction": "pre-training that only reproduces clean images",
    "dcpt": "DCPT",
    "direct": "DCPT, direct",
    "maskdcpt": "MaskDCPT",
}
# First arm minus second at equal seeds; the first entry is the main claim.
COMPARISONS = (
    ("dcpt", "scratch"),
    ("dcpt", "reproduction"),
    ("dcpt", "longer"),
    ("reproduction", "scratch"),
    ("direct", "scratch"),
    ("maskdcpt", "scratch"),
)
FEWEST_SEEDS = 3  # for a verdict
# Okabe and Ito's colours, distinguishable with colour blindness, and line styles for grey prints.
STYLES = {
    "scratch": ("#000000", "-"),
    "longer": ("#000000", ":"),
    "reproduction": ("#E69F00", "--"),
    "dcpt": ("#0072B2", "-"),
    "direct": ("#009E73", "-."),
    "maskdcpt": ("#CC79A7", "--"),
}


def write(output: Path, runs: Sequence[Run]) -> None:
    """Writes `report.md` and `report.png`.

    Args:
        output: folder of the experiment.
        runs: finished runs, the lines of its `runs.jsonl`.

    Raises:
        ValueError: if no restoration is finished.
        ImportError: if matplotlib is missing; `report.md` is written nevertheless.
    """
    text = markdown(runs)
    (output / "report.md").write_text(text)
    print(f"{text}\nwritten: {output / 'report.md'}", flush=True)
    plot(runs, output / "report.png")
    print(f"written: {output / 'report.png'}", flush=True)


def markdown(runs: Sequence[Run]) -> str:
    """All tables as Markdown.

    Args:
        runs: finished runs.

    Raises:
        ValueError: if no restoration is finished.
    """
    by_arm = restorations(runs)
    metrics = _metrics(by_arm)
    finished = {seed for arm in by_arm.values() for seed in arm}
    complete = [seed for seed in sorted(finished) if all(seed in by_arm[a] for a in by_arm)]
    lines = [
        "PSNR in dB of 8-bit RGB crops of held-out photos. Cells: mean over seeds ± standard "
        "deviation (least to greatest).",
        "",
        f"Seeds with a finished run: {', '.join(map(str, sorted(finished)))}; finished in all of "
        f"these arms: {', '.join(map(str, complete)) or 'none'}.",
        "",
        "## At the end of the restoration",
        "",
        *_final_table(by_arm, metrics),
        "",
        "## Differences at equal seeds, the first arm minus the second",
        "",
        *_difference_table(by_arm, metrics),
    ]
    if stages := _stage_table(runs):
        lines += ["", "## How far the pre-training was", "", *stages]
    lines += ["", "## Along the restoration"]
    for metric in metrics:
        lines += ["", f"### {_class_of(metric)}", "", *_along_table(by_arm, metric)]
    return "\n".join(lines) + "\n"


def restorations(runs: Iterable[Run]) -> dict[str, dict[int, Run]]:
    """The finished restorations by arm, in the order of `ARMS`, and seed.

    Raises:
        ValueError: if there is none.
    """
    by_arm: dict[str, dict[int, Run]] = {arm: {} for arm in ARMS}
    for run in runs:
        if run["kind"] == "restore" and run["arm"] in by_arm:
            by_arm[run["arm"]][run["seed"]] = run
    by_arm = {arm: seeds for arm, seeds in by_arm.items() if seeds}
    if not by_arm:
        raise ValueError("no restoration is finished yet: there is nothing to report")
    return by_arm


def verdict(differences: Sequence[float]) -> str:
    """Verdict on differences at equal seeds, by the rule of docs/evidence.md.

    Args:
        differences: in dB, one per seed.

    Returns:
        "better" or "worse" if the 95 % confidence interval of their mean (Student's t) excludes
        zero, else "unclear"; no verdict for too few seeds.
    """
    from scipy import stats

    count = len(differences)
    if count < FEWEST_SEEDS:
        return f"not judged, {count} of {FEWEST_SEEDS} seeds"
    mean, deviation = np.mean(differences), np.std(differences, ddof=1)
    if abs(mean) <= stats.t.ppf(0.975, count - 1) * deviation / math.sqrt(count):
        return "unclear"
    return "better" if mean > 0 else "worse"


def spread(values: Sequence[float], *, sign: str = "") -> str:
    """A cell: "24.10 ± 0.12 (23.98 to 24.22)", or a single value.

    Args:
        values: one per seed.
        sign: "+" to write it before positive values.
    """
    shown = f"{np.mean(values):{sign}.2f}"
    if len(values) > 1:
        low, high = min(values), max(values)
        shown += f" ± {np.std(values, ddof=1):.2f} ({low:{sign}.2f} to {high:{sign}.2f})"
    return shown


def _metrics(by_arm: Mapping[str, Mapping[int, Run]]) -> list[str]:
    """ "psnr", the mean over classes, and the metrics of the classes."""
    first = next(iter(next(iter(by_arm.values())).values()))
    return [key for key in first["final"] if key == "psnr" or key.startswith("psnr_")]


def _class_of(metric: str) -> str:
    return metric.removeprefix("psnr_") if metric != "psnr" else "mean over classes"


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table, the first column left-aligned, the others right-aligned."""
    lines = [heads, ["---", *["--:"] * (len(heads) - 1)], *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def _final_table(by_arm: Mapping[str, Mapping[int, Run]], metrics: Sequence[str]) -> list[str]:
    rows = []
    for arm, seeds in by_arm.items():
        finals = [run["final"] for run in seeds.values()]
        cells = [spread([final[metric] for final in finals]) for metric in metrics]
        rows.append([ARMS[arm], len(seeds), finals[0]["step"], *cells])
    return table(["arm", "seeds", "steps", *map(_class_of, metrics)], rows)


def _difference_table(by_arm: Mapping[str, Mapping[int, Run]], metrics: Sequence[str]) -> list[str]:
    rows = []
    for arm, other in COMPARISONS:
        treatment, reference = by_arm.get(arm, {}), by_arm.get(other, {})
        if not (seeds := sorted(treatment.keys() & reference.keys())):
            continue
        differences = {
            metric: [treatment[s]["final"][metric] - reference[s]["final"][metric] for s in seeds]
            for metric in metrics
        }
        cells = [spread(values, sign="+") for values in differences.values()]
        rows.append(
            [f"{ARMS[arm]} vs. {ARMS[other]}", len(seeds), verdict(differences["psnr"]), *cells]
        )
    heads = ["arms", "seeds", "verdict on the mean", *map(_class_of, metrics)]
    return table(heads, rows) if rows else ["No two arms share a finished seed yet."]


def _stage_table(runs: Sequence[Run]) -> list[str]:
    """Classifier accuracy at a checkpoint and PSNR after restoration training from it."""
    rows = []
    pretrainings = {r["seed"]: r for r in runs if (r["kind"], r["arm"]) == ("pretrain", "dcpt")}
    restored = {(r["arm"], r["seed"]): r["final"]["psnr"] for r in runs if r["kind"] == "restore"}
    for seed, pretraining in sorted(pretrainings.items()):
        if not any(s == seed and arm.startswith("dcpt_") for arm, s in restored):
            continue
        accuracy = {
            validation["step"]: f"{validation['accuracy']:.1%}"
            for validation in pretraining["along"]
        }
        for percent in (0, 25, 50, 75, 100):
            arm = {0: "scratch", 100: "dcpt"}.get(percent, f"dcpt_{percent}")
            if (psnr := restored.get((arm, seed))) is not None:
                step = pretraining["steps"] * percent // 100
                cells = [accuracy.get(step, "untrained"), f"{psnr:.2f}"]
                rows.append([f"{percent} %", seed, step, *cells])
    heads = ["pre-training", "seed", "steps of it", "accuracy", "PSNR after restoration"]
    return table(heads, rows) if rows else []


def curves(seeds: Mapping[int, Run], metric: str) -> dict[int, list[float]]:
    """Values of one arm by step, for steps reached by all its finished seeds."""
    values_by_step = collections.defaultdict(list)
    for run in seeds.values():
        for validation in run["along"]:
            values_by_step[validation["step"]].append(validation[metric])
    return {
        step: values for step, values in sorted(values_by_step.items()) if len(values) == len(seeds)
    }


def _along_table(by_arm: Mapping[str, Mapping[int, Run]], metric: str) -> list[str]:
    columns = [curves(seeds, metric) for seeds in by_arm.values()]
    steps = sorted(set().union(*columns))
    rows = [[step, *(spread(c[step]) if step in c else "" for c in columns)] for step in steps]
    return table(["step", *(ARMS[arm] for arm in by_arm)], rows)


def plot(runs: Sequence[Run], file: Path) -> None:
    """Plots PSNR during restoration: a panel per class, with the mean and range over seeds.

    Args:
        runs: finished runs.
        file: PNG to write.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if no restoration is finished.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the plot needs matplotlib: pip install matplotlib") from error
    by_arm = restorations(runs)
    metrics = _metrics(by_arm)
    columns = min(3, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.6), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, metric in zip(panels, metrics, strict=False):
        for arm, seeds in by_arm.items():
            points = curves(seeds, metric)
            colour, line = STYLES[arm]
            means = [np.mean(values) for values in points.values()]
            label = f"{ARMS[arm]} ({len(seeds)})"
            panel.plot(list(points), means, color=colour, linestyle=line, label=label)
            low, high = ([f(values) for values in points.values()] for f in (min, max))
            panel.fill_between(list(points), low, high, color=colour, alpha=0.15, linewidth=0)
        panel.set(title=_class_of(metric), xlabel="steps of restoration", ylabel="PSNR, dB")
    for panel in panels[len(metrics) :]:
        panel.set_axis_off()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center",
                  ncols=2, title="mean and range of the seeds (their number)")  # fmt: skip
    figure.savefig(file, dpi=150)
