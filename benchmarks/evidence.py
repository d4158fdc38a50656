"""Does DCPT's pre-training help restoration? Trains every arm for several seeds, and reports.

    python -m benchmarks.evidence --photos train/ --validation val/ --output evidence --stages
    python -m benchmarks.evidence --report --output evidence

The first command takes hours on two CPU cores and says at its start how many. Stopped or killed at
any moment, the same command continues where it was. Every finished run appends one line to
`OUTPUT/runs.jsonl`; all arms of one seed come before the next seed. `runs.jsonl` and
`experiment.json` are enough to continue on another machine: pre-trainings that are needed there
are done again. The second command reads these lines, also while runs are missing, and writes
`report.md` and `report.png`.

`--rehearse` does everything with a tiny network and a few steps, in minutes.
docs/evidence.md describes the design and how the result is judged.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dcpt_jax import files

STAGES = (25, 50, 75)  # percent of the pre-training, besides 0 ("scratch") and 100 ("dcpt")
RUNS, EXPERIMENT = "runs.jsonl", "experiment.json"  # in the output folder


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """A kind of pre-training: the mode of the config and what differs from its defaults."""

    mode: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


PRETRAININGS = {
    "reproduction": Pretraining("pretrain", {"class_weight": 0.0}),
    "dcpt": Pretraining("pretrain"),
    "direct": Pretraining("direct"),
    "maskdcpt": Pretraining("mask_pretrain"),
}
# "longer" is from scratch with the cost of the pre-training of "dcpt" added to the restoration.
ARMS = ("scratch", "reproduction", "dcpt", "direct", "maskdcpt", "longer")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all runs of an experiment share.

    Attributes:
        photos: folder of clean photos to train on; "" = the bundled ones.
        validation: folder of held-out photos; "" = the bundled ones.
        steps: of each restoration.
        pretrain_steps: of each pre-training; a multiple of 4.
        batch_size: of both.
        crop_size: of both and of the validation, in pixels.
        validations: in a restoration; a pre-training has four.
        crops_per_photo: of each held-out photo.
        tiny: whether to take a network of a few thousand parameters.
    """

    photos: str = ""
    validation: str = ""
    steps: int = 3200
    pretrain_steps: int = 1600
    batch_size: int = 8
    crop_size: int = 64
    validations: int = 16
    crops_per_photo: int = 9
    tiny: bool = False


@dataclasses.dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        kind: "pretrain" or "restore".
        arm: name of the pre-training or of the arm.
        seed: of initial parameters and data stream.
        workdir: of the run.
        config: of the run.
    """

    kind: str
    arm: str
    seed: int
    workdir: Path
    config: Any

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells the job from all others."""
        return self.kind, self.arm, self.seed


# --- the runs of the experiment ------------------------------------------------------------------


def _shared_config(config: Any, settings: Settings, *, seed: int, steps: int, every: int) -> Any:
    config.seed, config.num_steps, config.batch_size = seed, steps, settings.batch_size
    # An untrained network that returns its input reproduces clean images: nothing would be left to
    # learn for the reproduction arm.
    config.identity_start = False
    config.data.update(root=settings.photos, crop_size=settings.crop_size)
    config.validation.update(
        every_steps=every,
        root=settings.validation,
        photos_per_class=0,
        crops_per_photo=settings.crops_per_photo,
    )
    # Each validation is kept with its checkpoint, until the run is finished and noted.
    config.checkpoint.update(every_steps=every, keep=1000, keep_best=0)
    config.log.update(every_steps=max(1, every // 2), image_every_steps=0)
    if settings.tiny:
        config.model.update(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,))
        config.data.num_workers = 0
    return config


def pretraining_config(settings: Settings, name: str, seed: int) -> Any:
    """The config of one of `PRETRAININGS`; it keeps a checkpoint at each quarter."""
    from dcpt_jax import config as configs

    kind = PRETRAININGS[name]
    config = configs.load(kind.mode)
    config.update(kind.changes)
    steps = settings.pretrain_steps
    return _shared_config(config, settings, seed=seed, steps=steps, every=steps // 4)


def restoration_config(
    settings: Settings, seed: int, *, init_from: Path | None = None, more_steps: int = 0
) -> Any:
    """The config of a restoration, which is the same in all arms but for the arguments.

    Args:
        settings: of the experiment.
        seed: of initial parameters and data stream.
        init_from: work directory or checkpoint of a pre-training; None = from scratch.
        more_steps: besides those of the settings.
    """
    from dcpt_jax import config as configs

    config = configs.load("restore")
    config.init_from = str(init_from or "")
    every = max(1, settings.steps // settings.validations)
    steps = settings.steps + more_steps
    return _shared_config(config, settings, seed=seed, steps=steps, every=every)


def plan(
    output: Path,
    settings: Settings,
    *,
    arms: Sequence[str],
    seeds: Sequence[int],
    stages: bool,
    more_steps: int,
) -> list[Job]:
    """All runs in the order in which they are done: one seed after the other.

    A pre-training comes before the first run that starts from it and is there once per seed.

    Args:
        output: folder of the experiment.
        settings: of the experiment.
        arms: of `ARMS`.
        seeds: each gives one run of every arm.
        stages: whether to add restorations from the checkpoints at `STAGES` of "dcpt", first seed.
        more_steps: of the arm "longer".
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


# --- doing and noting them -----------------------------------------------------------------------


def read_runs(output: Path) -> list[dict[str, Any]]:
    """The finished runs in an output folder; none if it has no such file."""
    file = output / RUNS
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _note(output: Path, line: Mapping[str, Any]) -> None:
    """Appends a run; killed at any moment, the file has it whole or not at all."""
    lines = [json.dumps(run) for run in (*read_runs(output), line)]
    files.write_text(output / RUNS, "\n".join(lines) + "\n")


def _seconds_so_far(job: Job) -> float:
    file = job.workdir / "seconds"
    return float(file.read_text()) if file.exists() else 0.0


def execute(job: Job) -> dict[str, Any] | None:
    """Does a run, or continues it.

    Returns:
        Its line for `runs.jsonl`; None if a signal stopped it.
    """
    import jax

    from dcpt_jax.train import loop

    began = time.monotonic()
    finished = loop.train(job.config, job.workdir).finished
    seconds = _seconds_so_far(job) + time.monotonic() - began
    files.write_text(job.workdir / "seconds", f"{seconds}\n")
    jax.clear_caches()  # the next run has another step
    return _line(job, seconds) if finished else None


def _line(job: Job, seconds: float) -> dict[str, Any]:
    from dcpt_jax import config as configs
    from dcpt_jax import weights

    along = [
        {"step": int(folder.name), **weights.read_item(folder, "metrics")}
        for folder in reversed(weights.checkpoint_folders(job.workdir))
        if (folder / "metrics").is_dir()
    ]
    defaults = configs.load(job.config.mode)
    changes = configs.differences(configs.to_json(defaults), configs.to_json(job.config))
    places = ("config.data.root", "config.validation.root", "config.init_from")
    return {
        "kind": job.kind,
        "arm": job.arm,
        "seed": job.seed,
        "steps": job.config.num_steps,
        "seconds": round(seconds, 1),
        "along": along,
        "final": along[-1],
        "config": [change for change in changes if not change.startswith(places)],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    import flax
    import jax
    import numpy
    import optax

    import dcpt_jax

    packages = (dcpt_jax, jax, flax, optax, numpy)
    found = {package.__name__: package.__version__ for package in packages}
    device = jax.devices()[0].device_kind
    return {**found, "python": platform.python_version(), "device": device}


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
        """Mean time of some steps, one after the other."""
        import jax

        began = time.perf_counter()
        for _ in range(count):
            self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return (time.perf_counter() - began) / count


def measure_steps(settings: Settings) -> dict[str, float]:
    """Seconds of a step of the restoration ("restore") and of each of `PRETRAININGS`.

    All take turns, so that other load on the machine meets all alike; medians of nine rounds.
    """
    steps = {"restore": _Step(restoration_config(settings, 0))}
    steps |= {name: _Step(pretraining_config(settings, name, 0)) for name in PRETRAININGS}
    rounds = 2 if settings.tiny else 10
    times = [{name: step.seconds(4) for name, step in steps.items()} for _ in range(rounds)]
    return {name: median(one[name] for one in times[1:]) for name in steps}


def open_experiment(output: Path, settings: Settings) -> dict[str, Any]:
    """The settings and step times in an output folder, which the first call writes.

    Returns:
        `settings`, `step_seconds`, and `more_steps`, those of the arm "longer": as many as the
        pre-training of "dcpt" costs.

    Raises:
        ValueError: if the folder holds an experiment of other settings.
    """
    wanted, file = dataclasses.asdict(settings), output / EXPERIMENT
    # Names without their places: the folder of an experiment may move to another machine.
    wanted |= {name: Path(wanted[name]).name for name in ("photos", "validation")}
    if file.exists():
        found = json.loads(file.read_text())
        drift = [
            f"{key}: {found['settings'].get(key)!r} -> {value!r}"
            for key, value in wanted.items()
            if found["settings"].get(key) != value
        ]
        if drift:
            raise ValueError(
                f"{output} holds an experiment of other settings ({'; '.join(drift)}); repeat its "
                "flags to continue it, or use another --output"
            )
        return found
    seconds = measure_steps(settings)
    more = round(settings.pretrain_steps * seconds["dcpt"] / seconds["restore"])
    found = {"settings": wanted, "step_seconds": seconds, "more_steps": more}
    files.write_json(file, found)
    return found


def _expected_hours(jobs: Sequence[Job], step_seconds: Mapping[str, float]) -> float:
    costs = (
        job.config.num_steps * step_seconds[job.arm if job.kind == "pretrain" else "restore"]
        for job in jobs
    )
    return sum(costs) / 3600


def run(output: Path, settings: Settings, **choice: Any) -> bool:
    """Does all runs of an experiment that are not finished.

    Args:
        output: folder of the experiment.
        settings: of the experiment.
        choice: `arms`, `seeds` and `stages` of `plan`.

    Returns:
        Whether all are finished; False if a signal stopped it.

    Raises:
        ValueError: if the folder holds an experiment of other settings.
    """
    import jax

    output.mkdir(parents=True, exist_ok=True)
    if not jax.config.jax_compilation_cache_dir:  # runs of one kind share their programs
        jax.config.update("jax_compilation_cache_dir", str(output / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    experiment = open_experiment(output, settings)
    jobs = plan(output, settings, more_steps=experiment["more_steps"], **choice)
    finished = {(line["kind"], line["arm"], line["seed"]) for line in read_runs(output)}
    left = [job for job in jobs if job.key not in finished]
    times = experiment["step_seconds"]
    print(
        f"{len(jobs)} runs, {len(left)} of them to do; the steps alone take about "
        f"{_expected_hours(left, times):.2f} hours. A step in ms: "
        + ", ".join(f"{name} {1e3 * value:.0f}" for name, value in times.items()),
        flush=True,
    )
    starts = {job.config.init_from for job in left}
    for number, job in enumerate(jobs, start=1):
        lost = not (job.workdir / "checkpoints").is_dir() and any(
            start.startswith(str(job.workdir)) for start in starts
        )
        if job.key in finished and lost:
            print(f"\nrun {number} of {len(jobs)} again, its checkpoints are gone: {job.workdir}")
            if execute(job) is None:
                return False
        elif job.key not in finished:
            print(f"\nrun {number} of {len(jobs)}: {job.kind}, {job.arm}, seed {job.seed}")
            line = execute(job)
            if line is None:
                return False
            _note(output, line)
        if job.kind == "restore":  # its line has all that is needed of them
            shutil.rmtree(job.workdir / "checkpoints", ignore_errors=True)
    return True


# --- the command line ----------------------------------------------------------------------------


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default="", help="clean photos to train on; else bundled ones")
    parser.add_argument("--validation", default="", help="held-out photos; else bundled ones")
    parser.add_argument("--output", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--seeds", type=int, nargs="+", help="0 1 2 (in a rehearsal: 0)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--stages", action="store_true",
                        help="also restore from parts of the pre-training, first seed")  # fmt: skip
    parser.add_argument("--steps", type=int, help=f"of a restoration ({Settings.steps})")
    parser.add_argument("--pretrain-steps", type=int,
                        help=f"of a pre-training ({Settings.pretrain_steps})")  # fmt: skip
    parser.add_argument("--rehearse", action="store_true", help="everything, with tiny sizes")
    parser.add_argument("--report", action="store_true", help="only write the report")
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or ([0] if options.rehearse else [0, 1, 2])
    for name in ("photos", "validation"):
        folder = getattr(options, name)
        if folder and not Path(folder).is_dir():
            parser.error(f"--{name}: there is no folder {folder}")
    if options.steps is not None and options.steps < 1:
        parser.error(f"--steps is {options.steps}; it must be 1 or larger")
    if options.pretrain_steps is not None and (
        options.pretrain_steps < 4 or options.pretrain_steps % 4
    ):
        parser.error(f"--pretrain-steps is {options.pretrain_steps}; it must be a multiple of 4")
    return options


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that the options describe."""
    folders = {
        name: str(Path(folder).absolute()) if (folder := getattr(options, name)) else ""
        for name in ("photos", "validation")
    }
    settings = Settings(**folders)
    if options.rehearse:
        settings = Settings(
            **folders,
            steps=6,
            pretrain_steps=4,
            batch_size=4,
            crop_size=32,
            validations=2,
            crops_per_photo=1,
            tiny=True,
        )
    given = {"steps": options.steps, "pretrain_steps": options.pretrain_steps}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(settings, **changes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Does the runs or the report; returns the exit code."""
    from benchmarks import evidence_report

    options = parsed(arguments)
    output = options.output.absolute()
    if options.rehearse:  # before JAX is imported: programs compile in half the time and run slower
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    if not options.report:
        try:
            done = run(
                output,
                settings_of(options),
                arms=options.arms,
                seeds=options.seeds,
                stages=options.stages or options.rehearse,
            )
        except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
            print(f"error: {error}", flush=True)
            return 1
        if not done:
            print("stopped; the same command continues", flush=True)
            return 130
    if options.report or options.rehearse:
        try:
            evidence_report.write(output, read_runs(output))
        except (ValueError, ImportError) as error:
            print(f"error: {error}", flush=True)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
