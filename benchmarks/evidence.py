"""Does DCPT's pre-training help restoration? Trains every arm for several seeds, and reports.

    python -m benchmarks.evidence --photos train/ --validation val/ --output evidence --stages
    python -m benchmarks.evidence --report --output evidence

The first command takes hours on two CPU cores. If it is stopped or killed, the same command
continues. Every finished run appends one line to `OUTPUT/runs.jsonl`; all arms of one seed are run
before the next seed (experiment.py). The second command reads these lines, also while runs
are missing, and writes `report.md` and `report.png`.

`--rehearse` does everything with a tiny network and a few steps, in minutes.
docs/evidence.md describes the design and how the result is judged.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import experiment
from benchmarks.experiment import Job

STAGES = (25, 50, 75)  # percent of the pre-training, besides 0 ("scratch") and 100 ("dcpt")


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """A kind of pre-training: the mode of the config and its changes to the defaults."""

    mode: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


PRETRAININGS = {
    "reproduction": Pretraining("pretrain", {"class_weight": 0.0}),
    "dcpt": Pretraining("pretrain"),
    "direct": Pretraining("direct"),
    "maskdcpt": Pretraining("mask_pretrain"),
}
# "longer": from scratch, with the cost of the pre-training of "dcpt" added to the restoration.
ARMS = ("scratch", "reproduction", "dcpt", "direct", "maskdcpt", "longer")


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Settings shared by all runs.

    Attributes:
        pretrain_steps: of each pre-training; a multiple of 4.
        validations: number of validations in a restoration; a pre-training has four.
        learning_rate: of the restorations; that of the pre-trainings is the config's.
    """

    pretrain_steps: int = 1600
    validations: int = 16
    learning_rate: float = 2e-3


# Command line flags for `Settings`.
FLAGS = {
    "steps": "number of steps of a restoration",
    "pretrain_steps": "number of steps of a pre-training, a multiple of 4",
    "validations": "number of validations in a restoration",
    "batch_size": "batch size of all runs",
    "crop_size": "crop size of all runs and the validation, in pixels",
    "width": "channels of the network at full resolution",
    "learning_rate": "learning rate of the restorations",
}


# --- the runs of the experiment ------------------------------------------------------------------


def _prepared(config: Any, settings: Settings, **run: int) -> Any:
    # An untrained network that returns its input would reproduce clean images, leaving nothing to
    # learn for the reproduction arm.
    config.identity_start = False
    return experiment.apply(config, settings, **run)


def pretraining_config(settings: Settings, name: str, seed: int) -> Any:
    """The config of one of `PRETRAININGS`, with a checkpoint at each quarter."""
    from dcpt_jax import config as configs

    kind = PRETRAININGS[name]
    config = configs.load(kind.mode)
    config.update(kind.changes)
    steps = settings.pretrain_steps
    return _prepared(config, settings, seed=seed, steps=steps, every=steps // 4)


def restoration_config(
    settings: Settings, seed: int, *, init_from: Path | None = None, more_steps: int = 0
) -> Any:
    """The config of a restoration, which differs between arms only in the arguments.

    Args:
        settings: of the experiment.
        seed: of initial parameters and data stream.
        init_from: work directory or checkpoint of a pre-training; None = from scratch.
        more_steps: in addition to those of the settings.
    """
    from dcpt_jax import config as configs

    config = configs.load("restore")
    config.init_from = str(init_from or "")
    config.optimizer.learning_rate = settings.learning_rate
    every = max(1, settings.steps // settings.validations)
    steps = settings.steps + more_steps
    return _prepared(config, settings, seed=seed, steps=steps, every=every)


def plan(
    output: Path,
    settings: Settings,
    *,
    arms: Sequence[str],
    seeds: Sequence[int],
    stages: bool,
    more_steps: int,
) -> list[Job]:
    """All runs in order of execution: one seed after the other.

    A pre-training precedes the first run that starts from it, and exists once per seed.

    Args:
        output: folder of the experiment.
        settings: of the experiment.
        arms: of `ARMS`.
        seeds: each gives one run of every arm.
        stages: whether to add restorations from the checkpoints at `STAGES` of "dcpt", first seed.
        more_steps: additional steps of the arm "longer".
    """
    jobs: dict[tuple[str, str, int], Job] = {}

    def add(kind: str, arm: str, seed: int, config: Any) -> Path:
        job = Job(kind, arm, seed, output / f"seed_{seed}" / arm / kind, config)
        jobs.setdefault(job.key, job)
        return job.workdir

    def add_pretraining(name: str, seed: int) -> Path:
        return add("pretrain", name, seed, pretraining_config(settings, name, seed))

    for seed in seeds:
        for arm in arms:
            start = add_pretraining(arm, seed) if arm in PRETRAININGS else None
            more = more_steps if arm == "longer" else 0
            config = restoration_config(settings, seed, init_from=start, more_steps=more)
            add("restore", arm, seed, config)
    for percent in STAGES if stages else ():
        start = add_pretraining("dcpt", seeds[0])
        start = start / "checkpoints" / str(settings.pretrain_steps * percent // 100)
        config = restoration_config(settings, seeds[0], init_from=start)
        add("restore", f"dcpt_{percent}", seeds[0], config)
    return list(jobs.values())


# --- what a step costs ---------------------------------------------------------------------------


class _Step:
    """The compiled step of a run, on one fixed batch."""

    def __init__(self, config: Any):
        from dcpt_jax.train import sharding
        from dcpt_jax.train.run import prepare

        run = prepare(config)
        self._state = run.create_state()
        self._step = run.lower(self._state).compile()
        with run.batches(start=0) as stream:
            self._batch = sharding.put_batch(next(stream), run.mesh)

    def seconds(self, count: int) -> float:
        """Mean seconds of some steps in sequence."""
        import jax

        start = time.perf_counter()
        for _ in range(count):
            self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return (time.perf_counter() - start) / count


def measure_steps(settings: Settings) -> dict[str, float]:
    """Seconds per step of the restoration ("restore") and of the pre-training ("dcpt").

    Interleaved, so that other load on the machine affects both equally; medians of nine rounds.
    """
    steps = {
        "restore": _Step(restoration_config(settings, 0)),
        "dcpt": _Step(pretraining_config(settings, "dcpt", 0)),
    }
    rounds = 2 if settings.tiny else 10
    times = [{name: step.seconds(4) for name, step in steps.items()} for _ in range(rounds)]
    return {name: median(step_times[name] for step_times in times[1:]) for name in steps}


def open_experiment(output: Path, settings: Settings, arms: Sequence[str]) -> int:
    """Writes the settings to an output folder, or checks them against those it has.

    Returns:
        The additional steps of the arm "longer": as many as cost the time of the "dcpt"
        pre-training, by step times measured in the first call with this arm; 0 without it.

    Raises:
        ValueError: if the folder holds an experiment with different settings.
    """

    def measure() -> dict[str, Any]:
        seconds = measure_steps(settings)
        more_steps = round(settings.pretrain_steps * seconds["dcpt"] / seconds["restore"])
        return {"step_seconds": seconds, "more_steps": more_steps}

    stored = experiment.open_experiment(output, settings, measure if "longer" in arms else None)
    return stored.get("more_steps", 0)


def run(output: Path, settings: Settings, *, arms: Sequence[str], **choice: Any) -> bool:
    """Executes all unfinished runs of an experiment.

    Args:
        output: folder of the experiment.
        settings: of the experiment.
        arms: of `ARMS`.
        choice: `seeds` and `stages` of `plan`.

    Returns:
        Whether all are finished; False if a signal stopped it.

    Raises:
        ValueError: if the folder holds an experiment with different settings.
    """
    more_steps = open_experiment(output, settings, arms)
    jobs = plan(output, settings, arms=arms, more_steps=more_steps, **choice)
    print(
        f"{len(jobs)} runs, {len(experiment.unfinished(jobs, output))} of them unfinished",
        flush=True,
    )
    return experiment.run_all(jobs, output)


# --- the command line ----------------------------------------------------------------------------


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = experiment.parser(__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--stages", action="store_true",
                        help="also restore from parts of pre-training (first seed)")  # fmt: skip
    for name, meaning in FLAGS.items():
        flag = "--" + name.replace("_", "-")
        default = getattr(Settings, name)
        parser.add_argument(flag, type=type(default), help=f"{meaning} (default: {default})")
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or ([0] if options.rehearse else [0, 1, 2])
    for name in FLAGS:
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"--{name.replace('_', '-')} is {value}; it must be larger than 0")
    if options.pretrain_steps is not None and (
        options.pretrain_steps < 4 or options.pretrain_steps % 4
    ):
        parser.error(f"--pretrain-steps is {options.pretrain_steps}; it must be a multiple of 4")
    return options


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that the options describe."""
    settings = Settings(options.photos, options.validation)
    if options.rehearse:
        settings = dataclasses.replace(settings, **experiment.TINY, pretrain_steps=4, validations=2)
    flags = {name: getattr(options, name) for name in FLAGS}
    changes = {name: value for name, value in flags.items() if value is not None}
    return dataclasses.replace(settings, **changes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Executes the runs or writes the report; returns the exit code."""
    from benchmarks import evidence_report

    options = parse_options(arguments)

    def run_all(output: Path) -> bool:
        return run(
            output,
            settings_of(options),
            arms=options.arms,
            seeds=options.seeds,
            stages=options.stages or options.rehearse,
        )

    def report(output: Path) -> None:
        evidence_report.write(output, experiment.read_runs(output))

    return experiment.main(options, run_all, report)


if __name__ == "__main__":
    raise SystemExit(main())
