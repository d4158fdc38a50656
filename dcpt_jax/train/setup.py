"""From a config to what a run needs: data, modules, optimisers, the jitted step, the state."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from dcpt_jax import config as configs
from dcpt_jax import weights
from dcpt_jax.config import ConfigError
from dcpt_jax.data import held_out, opening, pipeline
from dcpt_jax.data import tasks as task_sets
from dcpt_jax.data.classes import TrainingClass
from dcpt_jax.evaluate import gallery
from dcpt_jax.train import modules, sharding, start, steps
from dcpt_jax.train.checkpoints import Checkpoints
from dcpt_jax.train.modules import LEARNING
from dcpt_jax.train.optimizer import adamw, constant_schedule, cosine_schedule
from dcpt_jax.train.start import Start
from dcpt_jax.train.state import Step, TrainState, create_state


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same from the first step of a run to its last."""

    config: ml_collections.ConfigDict
    tasks: tuple[task_sets.Task, ...]
    training_classes: tuple[TrainingClass, ...]  # the tasks with their photos or pairs
    mesh: Mesh
    network: nn.Module
    classifier: nn.Module | None
    schedules: Mapping[str, optax.Schedule]
    optimizers: Mapping[str, optax.GradientTransformation]
    step: Step  # jitted, donates the state
    start: Start  # parameters of other runs to start from, and where they came from

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the run's classes; a class's position is its label."""
        return tuple(task.name for task in self.tasks)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the logits of a classifier stand for: the classes, or their components."""
        return configs.outputs_of(self.config)

    def create_state(self) -> TrainState:
        """The state before the first step, on all devices."""
        return _create_state(self)

    def batches(self, *, start: int) -> pipeline.BatchIterator:
        """The stream of this process's batches, from the batch with number `start` on."""
        data = self.config.data
        return pipeline.make_batches(
            self.training_classes,
            batch_size=self.config.batch_size // jax.process_count(),
            crop=data.crop_size,
            seed=self.config.seed,
            start=start,
            num_workers=data.num_workers,
            shard=(jax.process_index(), jax.process_count()),
        )

    def learning_rates(self, step: int) -> dict[str, float]:
        """Learning rate of each optimiser in the step with this number, counted from 0."""
        return {f"learning_rate_{name}": float(s(step)) for name, s in self.schedules.items()}

    def describe(self, **extra: Any) -> dict[str, Any]:
        """The content of `model.json`."""
        names = self.classes
        task_set = self.config.tasks if isinstance(self.config.tasks, str) else ",".join(names)
        if self.config.mode == "transfer" and self.classifier is not None:
            extra["guide"] = dict(
                self.start.classifier
            )  # needed to continue, no part of the result
        multi_hot = self.config.get("label") == weights.MULTI_HOT
        return weights.describe(
            self.network,
            self.classifier if "classifier" in LEARNING[self.config.mode] else None,
            task_set=task_set,
            classes=names,
            components=self.outputs if multi_hot else (),
            mode=self.config.mode,
            crop_size=self.config.data.crop_size,
            source=dict(self.start.origin),
            **extra,
        )

    def result(self, state: TrainState) -> weights.Params:
        """The parameters that the run is done for; a classifier that only guided is left out."""
        params = state.best_params()
        return (
            params if "classifier" in LEARNING[self.config.mode] else {"network": params["network"]}
        )

    def sheet(self, state: TrainState) -> np.ndarray:
        """Degraded, restored and clean crop of every class on a held-out photo: [h, w, 3].

        Of classes of pairs without test data the first pair that is trained on is shown.
        """
        degraded, clean = self._sample_crops
        params = state.best_params()["network"]
        restored = np.asarray(_restore_crops(self.network, params, degraded))
        return gallery.grid([[*row] for row in zip(degraded, restored, clean, strict=True)])

    @functools.cached_property
    def _sample_crops(self) -> tuple[np.ndarray, np.ndarray]:
        """Degraded and clean crop of each class, [classes, h, w, 3] each."""
        data = self.config.data
        classes = opening.classes_to_show(self.training_classes, **opening.arguments(data))
        samples = [
            next(held_out.samples_of(label, one, size=data.crop_size, per_photo=1, seed=0))
            for label, one in enumerate(classes)
        ]
        return np.stack([s.degraded for s in samples]), np.stack([s.clean for s in samples])


def prepare(config: ml_collections.ConfigDict, *, begun: Mapping[str, Any] | None = None) -> Run:
    """Checks the config and builds everything that a run needs besides its state.

    Args:
        config: see `dcpt_jax.config`; it is not changed.
        begun: description in the work directory's newest checkpoint, if it holds one. The run then
            goes on from there, and what it once started from is not needed any more.

    Raises:
        ConfigError: if the config cannot run.
        ValueError: if the batch does not fit the devices, or the data cannot be used.
        FileNotFoundError: if there are no photos, or nothing to start from.
    """
    configs.validate(config)
    if config.require_accelerator and jax.default_backend() == "cpu":
        raise ConfigError("config.require_accelerator is set, but JAX sees only the CPU")
    config = config.copy_and_resolve_references()
    tasks = configs.tasks_of(config)
    mesh = sharding.data_mesh(config.batch_size, config.accumulate_steps)
    training_classes = opening.open_classes(
        tasks,
        stage=opening.stage_of(config.mode),
        repeats=configs.repeats_of(config),
        **opening.arguments(config.data),
    )
    origin = start.find_start(config, begun)
    network, classifier = modules.build_modules(
        config, num_classes=len(configs.outputs_of(config)), taken=origin.classifier
    )
    schedules, optimizers = make_optimizers(config)
    everywhere, split = sharding.replicated(mesh), sharding.split(mesh)
    step = jax.jit(
        make_step(config, tasks, network, classifier, optimizers, origin),
        in_shardings=(everywhere, split),
        out_shardings=everywhere,
        donate_argnums=0,
    )
    return Run(
        config,
        tasks,
        training_classes,
        mesh,
        network,
        classifier,
        schedules,
        optimizers,
        step,
        origin,
    )


def make_optimizers(
    config: ml_collections.ConfigDict,
) -> tuple[dict[str, optax.Schedule], dict[str, optax.GradientTransformation]]:
    """Learning-rate schedules and optimisers of the parts that learn, by their names."""
    keys = {"network": "optimizer", "classifier": "classifier_optimizer"}
    settings = {name: config[keys[name]] for name in LEARNING[config.mode]}
    schedules = {name: _schedule(s, config.num_steps) for name, s in settings.items()}
    return schedules, {name: _optimizer(s, schedules[name]) for name, s in settings.items()}


def make_step(
    config: ml_collections.ConfigDict,
    tasks: tuple[task_sets.Task, ...],
    network: nn.Module,
    classifier: nn.Module | None,
    optimizers: Mapping[str, optax.GradientTransformation],
    origin: Start,
) -> Step:
    """The step of the config's mode, not yet jitted.

    Args:
        config: of the run.
        tasks: its classes.
        network: see `modules.build_modules`.
        classifier: see there.
        optimizers: of the parts that learn.
        origin: of the classifier that guides a transfer.

    Raises:
        ConfigError: if that classifier does not know all tasks.
    """
    options = {"ema_decay": config.ema_decay, "accumulate_steps": config.accumulate_steps}
    if config.mode == "restore":
        return steps.make_restore_step(network, optimizers, **options)
    options["focal_gamma"] = config.focal_gamma
    if config.get("label") == weights.MULTI_HOT:
        options["label_rows"] = task_sets.components(tasks)[1]
    if config.mode == "classify":
        return steps.make_classify_step(network, classifier, optimizers, **options)
    if config.mode == "transfer":
        if classifier is not None:
            options |= start.guide_options(origin.classifier, tasks)
        options["guidance"] = config.guidance
        return steps.make_transfer_step(network, classifier, optimizers, **options)
    options["first_pass"] = config.first_pass
    return steps.make_pretrain_step(network, classifier, optimizers, **options)


def resume(run: Run, checkpoints: Checkpoints) -> tuple[TrainState, int]:
    """The state to go on from, and how many batches were taken; prints what was started.

    Raises:
        ConfigError: if the directory belongs to a run of another config.
        RuntimeError: if there are checkpoints, but none can be read.
    """
    saved = checkpoints.config()
    if saved is not None and not run.config.checkpoint.allow_config_change:
        defaults = configs.to_json(getattr(configs, run.config.mode)())
        drift = configs.differences(saved, configs.to_json(run.config), defaults=defaults)
        if drift:
            raise ConfigError(
                "this work directory holds a run of another config:\n  "
                + "\n  ".join(drift)
                + "\nuse another --workdir, or continue it all the same with "
                "--config.checkpoint.allow_config_change=True"
            )
    state = run.create_state()
    restored = checkpoints.restore_latest(state)
    if restored is not None:
        state, started = restored.state, f"continuing from step {restored.step}"
    else:
        started = f"starting from {start.places(run.start, run.config)}"
        for line in start.report(run.start, run.config, run.outputs):
            print(line, flush=True)
    count = {name: sum(x.size for x in jax.tree.leaves(p)) for name, p in state.params.items()}
    print(
        f"{run.config.mode}, {started}: "
        + ", ".join(f"{name} {size:,} parameters" for name, size in count.items())
        + f"; {len(run.mesh.devices)} x {jax.devices()[0].device_kind}, "
        f"batch {run.config.batch_size} of {run.config.data.crop_size}x{run.config.data.crop_size}"
        f"\n{pipeline.describe(run.training_classes)}",
        flush=True,
    )
    return state, restored.batches if restored is not None else 0


def _create_state(run: Run) -> TrainState:
    config = run.config
    network_rng, classifier_rng, step_rng = jax.random.split(jax.random.PRNGKey(config.seed), 3)

    def initialise(found: weights.Params) -> TrainState:
        size = config.data.crop_size
        image = jnp.zeros((1, size, size, 3))
        params = {"network": found.get("network")}
        if params["network"] is None:
            params["network"] = run.network.init(network_rng, image)["params"]
            if config.get("identity_start"):
                last = run.network.output_layer
                params["network"][last] = jax.tree.map(jnp.zeros_like, params["network"][last])
        if run.classifier is not None:
            variables = {"params": params["network"]}
            features = run.network.apply(variables, image, method="features")
            params["classifier"] = run.classifier.init(classifier_rng, features)["params"]
            if config.mode == "transfer":
                params["classifier"] = found.get("classifier", params["classifier"])
            elif "classifier" in found:
                label = config.get("label", weights.FLAT)
                columns = start.shared_columns(run.start.classifier, run.outputs, label)
                params["classifier"] = start.take_over_classifier(
                    params["classifier"], found["classifier"], columns
                )
        averaged = run.optimizers if config.ema_decay else ()
        return create_state(params, run.optimizers, rng=step_rng, averaged=averaged)

    everywhere = sharding.replicated(run.mesh)
    return jax.jit(initialise, out_shardings=everywhere)(run.start.params)


def _schedule(optimizer: ml_collections.ConfigDict, num_steps: int) -> optax.Schedule:
    if optimizer.schedule == "constant":
        return constant_schedule(optimizer.learning_rate, warmup_steps=optimizer.warmup_steps)
    return cosine_schedule(
        optimizer.learning_rate,
        decay_steps=optimizer.decay_steps or num_steps,
        minimum=optimizer.min_learning_rate,
        warmup_steps=optimizer.warmup_steps,
    )


def _optimizer(
    optimizer: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    return adamw(
        schedule,
        b1=optimizer.b1,
        b2=optimizer.b2,
        weight_decay=optimizer.weight_decay,
        clip_norm=optimizer.clip_norm,
    )


@functools.partial(jax.jit, static_argnums=0)
def _restore_crops(network: nn.Module, params: Any, degraded: jax.Array) -> jax.Array:
    return network.apply({"params": params}, degraded)
