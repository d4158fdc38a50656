"""Does a classifier that guides help a network to another degradation? Six directions, and a table.

    python -m benchmarks.transfer --photos train/ --validation val/ --output transfer
    python -m benchmarks.transfer --report --output transfer

For each seed, a network is trained for each of noise, rain and motion blur, and a classifier of
five classes on its frozen features. The network is then fine-tuned to each of the other two
degradations, without the classifier (`config.guidance = 0`) and with it. If it is stopped or
killed, the same command continues (experiment.py). The second command writes `report.md` from
the finished runs, also while runs are missing.

`--rehearse` does two directions with a tiny network and a few steps. docs/transfer.md describes
the design.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import evidence_report, experiment
from benchmarks.experiment import Job

TASKS = ("noise", "rain", "motion_blur")
GUIDANCE = {"unguided": 0.0, "guided": 1.0}


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Settings shared by all runs.

    Attributes:
        classify_steps: of each classifier.
        transfer_steps: of each transfer.
        validations: number of validations in each run.
    """

    steps: int = 1600
    classify_steps: int = 400
    transfer_steps: int = 800
    validations: int = 4


def plan(
    output: Path, settings: Settings, *, tasks: Sequence[str], seeds: Sequence[int]
) -> list[Job]:
    """All runs in order of execution: one seed after the other.

    Args:
        output: folder of the experiment.
        settings: of the experiment.
        tasks: of `TASKS`, two or more; every pair of them is a direction.
        seeds: each gives one run of every kind.
    """
    jobs: list[Job] = []

    def add(kind: str, arm: str, seed: int, steps: int, **changes: Any) -> Path:
        from dcpt_jax import config as configs

        config = configs.load("transfer" if kind in GUIDANCE else kind)
        config.update(changes)
        every = max(1, steps // settings.validations)
        experiment.apply(config, settings, seed=seed, steps=steps, every=every)
        workdir = output / f"seed_{seed}" / arm.replace(" ", "_") / kind
        jobs.append(Job(kind, arm, seed, workdir, config))
        return workdir

    for seed in seeds:
        for task in tasks:
            trained = add("restore", task, seed, settings.steps, tasks=task)
            # Its weights hold the unchanged network, and the classifier.
            start = add("classify", task, seed, settings.classify_steps, init_from=str(trained))
            for target in (other_task for other_task in tasks if other_task != task):
                for kind, guidance in GUIDANCE.items():
                    changes = {"tasks": target, "guidance": guidance, "init_from": str(start)}
                    add(kind, direction(task, target), seed, settings.transfer_steps, **changes)
    return jobs


def direction(source: str, target: str) -> str:
    """The name of a direction."""
    return f"{source} to {target}"


def markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown.

    Args:
        runs: finished runs, the lines of `runs.jsonl`.

    Raises:
        ValueError: if no direction is finished.
    """
    finals = {(run["kind"], run["arm"], run["seed"]): run["final"] for run in runs}
    seeds = sorted({run["seed"] for run in runs})

    def psnr(kind: str, arm: str) -> dict[int, float]:
        return {s: finals[kind, arm, s]["psnr"] for s in seeds if (kind, arm, s) in finals}

    rows, gains, accuracies = [], {}, []
    for source, target in itertools.permutations(TASKS, 2):
        arm = direction(source, target)
        cells = [psnr("restore", target), psnr("unguided", arm), psnr("guided", arm)]
        shared_seeds = sorted(cells[1].keys() & cells[2].keys())
        if not shared_seeds:
            continue
        gains[arm] = {seed: cells[2][seed] - cells[1][seed] for seed in shared_seeds}
        rows.append(
            [arm, len(shared_seeds), *(_spread(cell) for cell in cells), *_judged(gains[arm])]
        )
    if not rows:
        raise ValueError("no direction is finished yet, with and without guidance")
    complete = [seed for seed in seeds if all(seed in gain for gain in gains.values())]
    if complete:
        means = {seed: float(np.mean([gain[seed] for gain in gains.values()])) for seed in complete}
        rows.append(["mean of these", len(complete), "", "", "", *_judged(means)])
    for task in TASKS:
        values = [finals[key]["accuracy"] for key in finals if key[:2] == ("classify", task)]
        if values:
            accuracies.append([task, len(values), f"{np.mean(values):.1%}"])
    heads = ["direction", "seeds", "trained for it", "unguided", "guided", "difference", "verdict"]
    lines = [
        "PSNR in dB of 8-bit RGB crops of held-out photos with the new degradation. Cells: mean "
        "over seeds ± standard deviation (least to greatest).",
        "",
        *evidence_report.table(heads, rows),
        "",
        "Accuracy of the classifiers, five classes:",
        "",
        *evidence_report.table(["network trained for", "seeds", "accuracy"], accuracies),
    ]
    return "\n".join(lines) + "\n"


def _spread(values: Mapping[int, float]) -> str:
    return evidence_report.spread(list(values.values())) if values else ""


def _judged(gain: Mapping[int, float]) -> list[str]:
    values = list(gain.values())
    return [evidence_report.spread(values, sign="+"), evidence_report.verdict(values)]


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = experiment.parser(__doc__.splitlines()[0])
    tasks_help = "degradations to transfer between (default: all; in a rehearsal noise rain)"
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help=tasks_help)
    for name in ("steps", "classify_steps", "transfer_steps"):
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, help=f"default: {getattr(Settings, name)}")
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or ([0] if options.rehearse else [0, 1, 2])
    options.tasks = options.tasks or list(TASKS[:2] if options.rehearse else TASKS)
    if len(set(options.tasks)) < max(2, len(options.tasks)):
        parser.error("--tasks: give two or three different degradations")
    return options


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that the options describe."""
    settings = Settings(options.photos, options.validation)
    if options.rehearse:
        tiny = {**experiment.TINY, "classify_steps": 4, "transfer_steps": 4, "validations": 2}
        settings = dataclasses.replace(settings, **tiny)
    flags = {name: getattr(options, name) for name in ("steps", "classify_steps", "transfer_steps")}
    return dataclasses.replace(settings, **{k: v for k, v in flags.items() if v is not None})


def main(arguments: Sequence[str] | None = None) -> int:
    """Executes the runs or writes the report; returns the exit code."""
    options = parse_options(arguments)

    def run(output: Path) -> bool:
        settings = settings_of(options)
        experiment.open_experiment(output, settings)
        jobs = plan(output, settings, tasks=options.tasks, seeds=options.seeds)
        print(
            f"{len(jobs)} runs, {len(experiment.unfinished(jobs, output))} of them unfinished",
            flush=True,
        )
        return experiment.run_all(jobs, output)

    def report(output: Path) -> None:
        text = markdown(experiment.read_runs(output))
        (output / "report.md").write_text(text)
        print(f"{text}\nwritten: {output / 'report.md'}", flush=True)

    return experiment.main(options, run, report)


if __name__ == "__main__":
    raise SystemExit(main())
