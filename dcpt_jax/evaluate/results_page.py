"""The page `docs/results.md`: what was measured, what was not, and what is published."""

from collections.abc import Sequence

from dcpt_jax.evaluate import formats, published
from dcpt_jax.evaluate.comparison import EvaluatedRun, compare
from dcpt_jax.evaluate.published import AVERAGE, Score, Table

_INTRODUCTION = """\
# Results

This page is made by `python -m dcpt_jax.tables --page docs/results/*.json > docs/results.md`. To
add a measurement, copy the `evaluation.json` of an evaluation's work directory to
`docs/results/NAME.json` and make it anew; a test fails while it is out of date.

## Measured
"""

_PUBLISHED = """\
## Published

Nothing below was measured here. PSNR in dB / SSIM, where published / LPIPS, where published.
"Second-hand": the publication reports another group's method. The same figures are in
`dcpt_jax/evaluate/published.py`, with FID where published.
"""


def page(runs: Sequence[EvaluatedRun]) -> str:
    """The page in Markdown, with a section for each run."""
    parts = [_INTRODUCTION]
    for run in runs:
        parts.append(f"### {run.name}: {run.architecture}, trained on {run.task_set}\n")
        parts.append(formats.to_markdown(compare([run])))
    if not runs:
        parts.append("Nothing yet.\n")
    parts += ["## Not measured\n", _missing(runs), _PUBLISHED, *map(_table, published.TABLES)]
    parts += ["### Figures that depend on another\n", _series()]
    return "\n".join(parts)


def _missing(runs: Sequence[EvaluatedRun]) -> str:
    """The published results of (Mask)DCPT for which no run was measured on the same images."""
    shown = {
        (table.task_set, method)
        for run in runs
        for method, table in compare([run]).methods
        if set(table.classes) == set(run.classes)
    }
    lines = [
        "No network trained with this package has been measured beside these published results:",
        "",
    ]
    for task_set in dict.fromkeys(table.task_set for table in published.TABLES):
        methods = [
            score.method
            for table in published.tables_of(task_set)
            for score in table.scores
            if not score.second_hand and (task_set, score.method) not in shown
        ]
        if methods:
            lines.append(f"- {task_set}: {', '.join(dict.fromkeys(methods))}.")
    lines.append(
        "- LPIPS and FID of any network; see `--config.save_images` in [data.md](data.md)."
    )
    return "\n".join(lines) + "\n"


def _table(table: Table) -> str:
    """A published table."""
    columns = [*table.classes, AVERAGE]
    scores = {(s.method, s.name): s for s in table.scores}
    columns = [name for name in columns if any((m, name) in scores for m in table.methods)]
    lines = [
        f"### {table.title} ({table.task_set})\n",
        f"{table.convention}, whole images. Source: {table.source}."
        + (f" {table.remark}" if table.remark else ""),
        "",
        f"| method | {' | '.join(columns)} |",
        "|---|" + "--:|" * len(columns),
    ]
    for method in table.methods:
        found = [scores.get((method, name)) for name in columns]
        hand = " (second-hand)" if any(s and s.second_hand for s in found) else ""
        lines.append(f"| {method}{hand} | {' | '.join(map(_cell, found))} |")
    return "\n".join(lines) + "\n"


def _cell(score: Score | None) -> str:
    if score is None:
        return "-"
    values = [f"{score.psnr:.2f}"]
    values += [f"{value:.3f}" for value in (score.ssim, score.lpips) if value is not None]
    return " / ".join(values)


def _series() -> str:
    lines = ["| figure | method | by | values | source |", "|---|---|---|---|---|"]
    for one in published.SERIES:
        values = ", ".join(f"{x:g}: {y:g}" for x, y in zip(one.at, one.values, strict=True))
        lines.append(f"| {one.title} | {one.method} | {one.x} | {values} | {one.source} |")
    return "\n".join(lines) + "\n"
