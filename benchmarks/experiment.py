"""Experiments of many training runs, which can be stopped and continued.

Every finished run appends one line to `OUTPUT/runs.jsonl`; `OUTPUT/experiment.json` holds the
shared settings. These two files suffice to continue on another machine: runs whose checkpoints are
needed there are repeated. Several processes may work on one experiment, each with its own seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dcpt_jax import files

RUNS, EXPERIMENT = "runs.jsonl", "experiment.json"  # files in the output folder


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings shared by all runs of an experiment.

    Attributes:
        photos: folder of clean photos to train on; "" = the bundled ones.
        validation: folder of held-out photos; "" = the bundled ones.
        steps: of each restoration.
        batch_size: of all runs.
        crop_size: of all runs and of the validation, in pixels.
        crops_per_photo: number of crops of each held-out photo.
        width: channels of the network at full resolution.
        tiny: whether to use a network of a few thousand parameters.
    """

    photos: str = ""
    validation: str = ""
    steps: int = 3200
    batch_size: int = 8
    crop_size: int = 64
    crops_per_photo: int = 9
    width: int = 16
    tiny: bool = False


# Settings of a rehearsal.
TINY = {"steps": 6, "batch_size": 4, "crop_size": 32, "crops_per_photo": 1, "tiny": True}


@dataclasses.dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        kind: "pretrain" or "restore", for example.
        arm: name of the compared variant.
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
        """Unique key of the job."""
        return self.kind, self.arm, self.seed

    def starts_from(self, other: Job) -> bool:
        """Whether it is initialised with the weights or a checkpoint of another job."""
        start = Path(self.config.init_from)
        return self.config.init_from != "" and start.is_relative_to(other.workdir)


def apply(config: Any, settings: Settings, *, seed: int, steps: int, every: int) -> Any:
    """Sets the shared settings, seed, length and validation interval in a config."""
    config.seed, config.num_steps, config.batch_size = seed, steps, settings.batch_size
    # The batches do not depend on the number of workers.
    workers = max(1, len(os.sched_getaffinity(0)) - 1)
    config.data.update(root=settings.photos, crop_size=settings.crop_size, num_workers=workers)
    config.validation.update(
        every_steps=every,
        root=settings.validation,
        photos_per_class=0,
        crops_per_photo=settings.crops_per_photo,
    )
    # Keeps the checkpoint of each validation until the run is recorded.
    config.checkpoint.update(every_steps=every, keep=1000, keep_best=0)
    config.log.update(every_steps=max(1, every // 2), image_every_steps=0)
    config.model.width = settings.width
    if settings.tiny:
        config.model.update(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,))
        config.data.num_workers = 0
    return config


# --- doing and noting the runs -------------------------------------------------------------------


def read_runs(output: Path) -> list[dict[str, Any]]:
    """The finished runs in an output folder; [] if it has no such file."""
    file = output / RUNS
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Locks the experiment against other processes that work on it."""
    with open(output / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def note(output: Path, line: Mapping[str, Any]) -> None:
    """Appends a run atomically."""
    with _locked(output):
        lines = [json.dumps(run) for run in (*read_runs(output), line)]
        files.write_text(output / RUNS, "\n".join(lines) + "\n")


def _seconds_so_far(job: Job) -> float:
    file = job.workdir / "seconds"
    return float(file.read_text()) if file.exists() else 0.0


def execute(job: Job) -> dict[str, Any] | None:
    """Executes or resumes a run.

    Returns:
        Its line for `runs.jsonl`; None if a signal stopped it.
    """
    import jax

    from dcpt_jax.train import loop

    began = time.monotonic()
    finished = loop.train(job.config, job.workdir).finished
    seconds = _seconds_so_far(job) + time.monotonic() - began
    files.write_text(job.workdir / "seconds", f"{seconds}\n")
    jax.clear_caches()  # the next run has a different step
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
    paths = ("config.data.root", "config.validation.root", "config.init_from")
    return {
        "kind": job.kind,
        "arm": job.arm,
        "seed": job.seed,
        "steps": job.config.num_steps,
        "seconds": round(seconds, 1),
        "along": along,
        "final": along[-1],
        "config": [change for change in changes if not change.startswith(paths)],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that affect the results."""
    import flax
    import jax
    import numpy
    import optax

    import dcpt_jax

    packages = (dcpt_jax, jax, flax, optax, numpy)
    package_versions = {package.__name__: package.__version__ for package in packages}
    device = jax.devices()[0].device_kind
    return {**package_versions, "python": platform.python_version(), "device": device}


def open_experiment(
    output: Path, settings: Settings, measure: Callable[[], Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Opens an output folder: writes the settings in the first call, and compares them later.

    Programs compiled afterwards are cached in the folder, as runs of one kind share them.

    Args:
        output: folder of the experiment.
        settings: of the experiment.
        measure: returns values to store with the settings, called once; None = not needed now.

    Raises:
        ValueError: if the folder holds an experiment with different settings.
    """
    import jax

    output.mkdir(parents=True, exist_ok=True)
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(output / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    current, file = dataclasses.asdict(settings), output / EXPERIMENT
    # Folder names without parents, as the experiment may move to another machine.
    current |= {name: Path(current[name]).name for name in ("photos", "validation")}
    with _locked(output):
        stored = json.loads(file.read_text()) if file.exists() else {"settings": current}
        drift = [
            f"{key}: {stored['settings'].get(key)!r} -> {value!r}"
            for key, value in current.items()
            if stored["settings"].get(key) != value
        ]
        if drift:
            raise ValueError(
                f"{output} contains an experiment with other settings ({'; '.join(drift)}); "
                "use the same flags to continue it, or another --output"
            )
        if measure and len(stored) == 1:
            stored |= measure()
        files.write_json(file, stored)
    return stored


def unfinished(jobs: Sequence[Job], output: Path) -> list[Job]:
    """The unfinished jobs, and those whose checkpoints are needed by them but were deleted."""
    finished = {(line["kind"], line["arm"], line["seed"]) for line in read_runs(output)}
    needed: list[Job] = []
    for job in reversed(jobs):
        lost = not (job.workdir / "checkpoints").is_dir()
        if job.key not in finished or (lost and any(other.starts_from(job) for other in needed)):
            needed.insert(0, job)
    return needed


def run_all(jobs: Sequence[Job], output: Path) -> bool:
    """Executes all runs of an experiment that are `unfinished`, in order of their dependencies.

    Checkpoints from which no other run starts are deleted when a run is recorded.

    Returns:
        Whether all are finished; False if a signal stopped it.
    """
    for job in unfinished(jobs, output):
        number = f"run {jobs.index(job) + 1} of {len(jobs)}"
        print(f"\n{number}: {job.kind}, {job.arm}, seed {job.seed}", flush=True)
        line = execute(job)
        if line is None:
            return False
        if job.key not in {(run["kind"], run["arm"], run["seed"]) for run in read_runs(output)}:
            note(output, line)
        if not any(other.starts_from(job) for other in jobs):
            shutil.rmtree(job.workdir / "checkpoints", ignore_errors=True)
    return True


# --- the command line ----------------------------------------------------------------------------


def parser(description: str) -> argparse.ArgumentParser:
    """The options shared by all experiments."""
    result = argparse.ArgumentParser(description=description)
    add = result.add_argument
    add(
        "--photos",
        type=_folder,
        default="",
        help="folder of clean photos for training (default: bundled photos)",
    )
    add(
        "--validation",
        type=_folder,
        default="",
        help="folder of held-out photos (default: bundled photos)",
    )
    add("--output", type=Path, required=True, help="folder of the experiment")
    add("--seeds", type=int, nargs="+", help="random seeds (default: 0 1 2; in a rehearsal 0)")
    add("--rehearse", action="store_true", help="run everything with tiny sizes")
    add("--report", action="store_true", help="write the report of the finished runs")
    return result


def _folder(text: str) -> str:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"no such folder: {text}")
    return str(Path(text).absolute())


def main(
    options: argparse.Namespace, run: Callable[[Path], bool], report: Callable[[Path], None]
) -> int:
    """Executes the runs or writes the report of an experiment; returns the exit code.

    Args:
        options: of `parser`.
        run: executes all runs in the output folder; returns whether all are finished.
        report: writes the report from the finished runs.
    """
    output = options.output.absolute()
    if options.rehearse:  # before JAX is imported: halves the compile time
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    try:
        if not options.report and not _finished(run, output):
            print("stopped; the same command continues", flush=True)
            return 130
        if options.report or options.rehearse:
            report(output)
    except (ValueError, OSError, RuntimeError, FloatingPointError, ImportError) as error:
        print(f"error: {error}", flush=True)
        return 1
    return 0


def _finished(run: Callable[[Path], bool], output: Path) -> bool:
    try:
        return run(output)
    except KeyboardInterrupt:  # outside the steps of a run, which handles signals itself
        return False
