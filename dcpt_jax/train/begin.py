"""Starts or resumes a run: from its own newest checkpoint, another run's, or step 0."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections

from dcpt_jax import config as configs
from dcpt_jax import weights
from dcpt_jax.config import ConfigError
from dcpt_jax.data import pipeline
from dcpt_jax.train import init_from, processes, sharding
from dcpt_jax.train.checkpoints import Checkpoints
from dcpt_jax.train.run import Run
from dcpt_jax.train.saved_state import newest_state, saved_config
from dcpt_jax.train.state import TrainState


def checkpoint_description(
    config: ml_collections.ConfigDict, workdir: Path
) -> weights.WeightsDescription | None:
    """The description in the checkpoint that a run will resume from; None for a new run."""
    for folder in filter(None, (workdir, config.resume_from)):
        if description := weights.newest_description(folder):
            return description
    return None


def with_inherited_init_from(
    config: ml_collections.ConfigDict, workdir: Path
) -> ml_collections.ConfigDict:
    """The config, with `init_from` copied from the run that `config.resume_from` names.

    The run's own checkpoints record it too, so the other directory is needed only once.
    """
    if not config.resume_from or config.init_from:
        return config
    folders = (workdir, config.resume_from)
    saved = next(filter(None, (saved_config(folder) for folder in folders)), {})
    config = config.copy_and_resolve_references()
    config.init_from = saved.get("init_from", "")
    return config


def first_state(
    run: Run, checkpoints: Checkpoints, *, resume_from: str = "", allow_config_change: bool = False
) -> tuple[TrainState, int]:
    """The state to start or resume from, and the number of batches taken; prints a summary.

    Raises:
        ConfigError: if the directory belongs to a run with another config.
        RuntimeError: if there are checkpoints, but none can be read.
    """
    elsewhere, mode = resume_from, run.mode.name
    if (saved := checkpoints.config()) is not None:
        if not allow_config_change:
            _refuse_changes(run, saved, "this work directory holds", "use another --workdir")
    elif elsewhere:
        saved = saved_config(elsewhere) or {}
        if saved.get("mode", mode) != mode:
            raise ConfigError(
                f"config.resume_from: {elsewhere} holds a run of {saved['mode']}, which cannot be "
                f"resumed as {mode}; to start from its weights use --config.init_from"
            )
        if saved and not allow_config_change:
            _refuse_changes(run, saved, f"{elsewhere} holds", "use the config of that run")
    shapes = run.state_shapes()
    restored = checkpoints.read_newest(shapes)
    if restored is not None:
        state, started = restored.state, f"continuing from step {restored.step}"
    elif elsewhere:
        restored = newest_state(elsewhere, shapes)
        state, started = restored.state, f"continuing {elsewhere} from step {restored.step}"
        # Saved at once, so that this directory no longer needs the other one.
        checkpoints.save(
            state,
            batches=restored.batches,
            config=run.config,
            model=run.describe(steps=restored.step).to_json(),
        )
    else:
        state = run.create_state()
        started = f"starting from {init_from.describe_origin(run.initial)}"
        for line in init_from.report(run.initial, run.mode, run.labels):
            processes.say(line)
    count = {name: sum(x.size for x in jax.tree.leaves(p)) for name, p in state.params.items()}
    processes.say(
        f"{mode}, {started}: "
        + ", ".join(f"{name} {size:,} parameters" for name, size in count.items())
        + f"; {sharding.describe(run.mesh)}, batch "
        + ", ".join(
            f"{batch} of {crop}x{crop}" + (f" from step {first}" if first else "")
            for first, crop, batch in run.phases
        )
        + f"\n{pipeline.describe(run.training_classes)}"
    )
    return state, restored.batches if restored is not None else 0


def _refuse_changes(run: Run, saved: Mapping[str, Any], subject: str, advice: str) -> None:
    """Raises ConfigError, listing the differences, if a checkpoint has another config."""
    if changes := configs.differences(saved, run.config):
        raise ConfigError(
            f"{subject} a run with another config:\n  "
            + "\n  ".join(changes)
            + f"\n{advice}, or continue it anyway with "
            "--config.checkpoint.allow_config_change=True"
        )
