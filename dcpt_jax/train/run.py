"""From a config to what a run needs: data, modules, optimisers, the jitted step, the state."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
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
from dcpt_jax.config.keys import OPTIMIZERS
from dcpt_jax.data import classes as data_classes
from dcpt_jax.data import pipeline
from dcpt_jax.data import tasks as task_sets
from dcpt_jax.data.classes import TrainingClass
from dcpt_jax.data.phases import Phase, phase_at
from dcpt_jax.labels import Labels
from dcpt_jax.models.formulation import traced_for
from dcpt_jax.modes import MODES, Mode
from dcpt_jax.precision import matmul_precision
from dcpt_jax.train import init_from, modules, sharding, steps
from dcpt_jax.train.init_from import Initial
from dcpt_jax.train.optimizer import adamw, constant_schedule, cosine_schedule
from dcpt_jax.train.state import Step, TrainState, create_state


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Steps from one to the next of what is done beside training; 0 = never."""

    log: int
    pictures: int
    validation: int
    checkpoint: int


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """What a run is validated on, and by which metrics."""

    # Opens the classes; raises if their data cannot be used
    open: Callable[[], tuple[TrainingClass, ...]]
    photos_per_class: int  # most photos of each class; 0 = all
    crops_per_photo: int  # from a regular grid
    metrics: tuple[str, ...]  # what is measured: "psnr", "ssim", "accuracy"
    best: str  # the one by which the best checkpoint is told


@dataclasses.dataclass(frozen=True)
class Mask:
    """The patches that are hidden in a masked pre-training: their share, and side in pixels."""

    ratio: float
    patch: int


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same from the first step of a run to its last."""

    mode: Mode  # what is done
    # The whole config as JSON, which checkpoints record; everything else here was read from it
    config: Mapping[str, Any]
    task_set: str  # what the config calls the classes
    tasks: tuple[task_sets.Task, ...]  # the classes; their positions are the labels
    training_classes: tuple[TrainingClass, ...]  # the same with their photos or pairs
    held_out: HeldOut  # what the run is validated on
    labels: Labels  # what the logits of a classifier stand for: the classes, or their components
    num_steps: int  # at the end of the run
    intervals: Intervals  # of what is done between steps
    # Sizes of crops and batches (over all devices and processes), by step
    phases: tuple[Phase, ...]
    accumulate_steps: int  # parts that a batch is worked through in
    num_workers: int  # processes that prepare batches
    seed: int  # of parameters and data
    identity_start: bool  # whether an untrained network starts as the identity
    dtype: str  # compute type
    matmul_precision: str  # of float32 products
    mask: Mask | None  # of a masked pre-training, else None
    mesh: Mesh  # the devices
    network: nn.Module  # the restoration network
    classifier: nn.Module | None  # which learns or guides, or None
    reconstruction: nn.Module | None  # the head of a masked pre-training, else None
    schedules: Mapping[str, optax.Schedule]  # learning rate of each part that learns
    optimizers: Mapping[str, optax.GradientTransformation]  # of each part that learns
    averaged: tuple[str, ...]  # parts with a moving average
    step: Step  # jitted, donates the state
    initial: Initial  # parameters of other runs to start from, and where they came from
    state_sharding: Any  # how the devices hold the state: of each array, or one for all

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the run's classes; a class's position is its label."""
        return tuple(task.name for task in self.tasks)

    @property
    def platform(self) -> str:
        """Of the run's devices: "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform

    @property
    def batch_size(self) -> int:
        """Of the first phase, and of validation; over all devices and processes."""
        return self.phases[0].batch_size

    @property
    def crop_size(self) -> int:
        """Of the first phase, and of validation; in pixels."""
        return self.phases[0].crop_size

    def create_state(self) -> TrainState:
        """The state before the first step, made where it is kept: no device holds more than its
        part at any time."""
        found = self.initial.params
        if self.mesh.size > 1:
            found = sharding.place(found, self.mesh)
        rng = np.asarray(jax.random.PRNGKey(self.seed))  # an argument: seeds share the program
        return jax.jit(self._initialise, out_shardings=self.state_sharding)(rng, found)

    def state_shapes(self) -> TrainState:
        """The state's shapes and dtypes, and how the devices hold it; nothing is computed."""
        shapes = jax.eval_shape(self._initialise, jax.random.PRNGKey(0), self.initial.params)
        shardings = self.state_sharding
        if isinstance(shardings, jax.sharding.Sharding):
            shardings = jax.tree.map(lambda _: self.state_sharding, shapes)
        return jax.tree.map(
            lambda x, held: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=held), shapes, shardings
        )

    def lower(self, state: TrainState, phase: Phase | None = None) -> jax.stages.Lowered:
        """The step of a phase (default: the first), traced for states like this one."""
        _, crop, batch = phase or self.phases[0]
        images = sharding.split(self.mesh)
        shape = (batch, crop, crop, 3)
        pixels = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=images)
        task = jax.ShapeDtypeStruct(shape[:1], jnp.int32, sharding=images)
        return self.step.lower(state, {"degraded": pixels, "clean": pixels, "task": task})

    def batches(self, *, start: int) -> pipeline.BatchIterator:
        """The stream of this process's batches, from the batch with number `start` on."""
        share = jax.process_count()
        first, *later = (p._replace(batch_size=p.batch_size // share) for p in self.phases)
        return pipeline.make_batches(
            self.training_classes,
            batch_size=first.batch_size,
            crop=first.crop_size,
            later=later,
            seed=self.seed,
            start=start,
            num_workers=self.num_workers,
            shard=(jax.process_index(), share),
        )

    def learning_rates(self, step: int) -> dict[str, float]:
        """Learning rate of each optimiser in the step with this number, counted from 0."""
        return {f"learning_rate_{name}": float(s(step)) for name, s in self.schedules.items()}

    def describe(self, *, steps: int = 0, **extra: Any) -> weights.WeightsDescription:
        """The description of the run's weights after so many steps."""
        if self.classifier is not None and not self.mode.classifies:
            # Needed to continue, not part of the result.
            extra["guide"] = self.initial.classifier
        return weights.describe(
            self.network,
            self.classifier if self.mode.classifies else None,
            labels=self.labels,
            task_set=self.task_set,
            classes=self.classes,
            mode=self.mode.name,
            crop_size=phase_at(self.phases, max(steps - 1, 0)).crop_size,
            steps=steps,
            averaged=self.averaged,
            source=self.initial.origin,
            **extra,
        )

    def result(self, state: TrainState) -> weights.Params:
        """The parameters that the run is done for: what only helped in training is left out."""
        params = state.best_params()
        names = ("network", "classifier") if self.mode.classifies else ("network",)
        return {name: params[name] for name in names}

    def _initialise(self, rng: jax.Array, found: weights.Params) -> TrainState:
        """The first state, from the parameters that the run starts from."""
        network_rng, classifier_rng, step_rng = jax.random.split(rng, 3)
        image = jnp.zeros((1, self.crop_size, self.crop_size, 3))
        params = {"network": found.get("network")}
        if params["network"] is None:
            params["network"] = self.network.init(network_rng, image)["params"]
            if self.identity_start:
                last = self.network.output_layer
                params["network"][last] = jax.tree.map(jnp.zeros_like, params["network"][last])
        if self.classifier is not None:
            variables = {"params": params["network"]}
            with traced_for(self.platform):
                features = self.network.apply(variables, image, method="features")
            params["classifier"] = self.classifier.init(classifier_rng, features)["params"]
            if self.mode.is_guided:
                params["classifier"] = found.get("classifier", params["classifier"])
            elif "classifier" in found:
                columns = self.labels.shared_with(self.initial.classifier.labels)
                params["classifier"] = init_from.take_over_classifier(
                    params["classifier"], found["classifier"], columns
                )
        if self.reconstruction is not None:
            visible = jnp.ones((*image.shape[:3], 1))
            params["reconstruction"] = self.reconstruction.init(
                jax.random.fold_in(classifier_rng, 1), features, visible
            )["params"]
        return create_state(params, self.optimizers, rng=step_rng, averaged=self.averaged)


def prepare(
    config: ml_collections.ConfigDict,
    *,
    begun: weights.WeightsDescription | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Run:
    """Checks the config and builds everything that a run needs besides its state.

    Args:
        config: see `dcpt_jax.config`; it is not changed.
        begun: description in the work directory's newest checkpoint, if it holds one. The run then
            goes on from there, and what it once started from is not needed any more.
        devices: to train on; None for all that JAX sees.

    Raises:
        ConfigError: if the config cannot run.
        ValueError: if the batch does not fit the devices, or the data cannot be used.
        FileNotFoundError: if there are no photos, or nothing to start from.
    """
    configs.validate(config)
    _check_resources(config)
    config = config.copy_and_resolve_references()
    mode, tasks = MODES[config.mode], configs.tasks_of(config)
    phases = configs.phases_of(config)
    mesh, *_ = (
        sharding.make_mesh(
            phase.batch_size,
            config.accumulate_steps,
            config.fsdp_devices,
            devices=devices,
            key=f"config.progressive, from step {phase.first_step}: config.batch_size"
            if phase.first_step
            else "config.batch_size",
        )
        for phase in phases
    )
    training_classes = data_classes.open_classes(
        tasks,
        stage=mode.stage,
        repeats=configs.repeats_of(config),
        **data_classes.options_from(config.data),
    )
    initial = init_from.find_initial(config, begun)
    labels = configs.labels_of(config)
    network = modules.build_network(config.model, dtype=config.dtype, remat=config.remat)
    classifier = modules.build_classifier(
        network,
        mode,
        num_classes=len(labels.names),
        num_blocks=config.classifier.num_blocks,
        dtype=config.dtype,
        taken=initial.classifier,
    )
    reconstruction = None
    if mode.masks:
        reconstruction = modules.build_reconstruction(
            network,
            patch=config.mask_patch,
            width=config.reconstruction.width,
            crop_size=config.data.crop_size,
            dtype=config.dtype,
        )
    schedules, optimizers = make_optimizers(
        {part: config[OPTIMIZERS[part]] for part in mode.learns}, config.num_steps
    )
    step = build_step(
        mode,
        {"network": network, "classifier": classifier, "reconstruction": reconstruction},
        optimizers,
        labels=labels,
        tasks=tasks,
        guide=initial.classifier and initial.classifier.labels,
        **{key: config[key] for key in ("ema_decay", "accumulate_steps", *mode.loss_keys)},
    )
    run = Run(
        mode=mode,
        config=configs.to_json(config),
        task_set=config.tasks
        if isinstance(config.tasks, str)
        else ",".join(task.name for task in tasks),
        tasks=tasks,
        training_classes=training_classes,
        held_out=_held_out(config, training_classes),
        labels=labels,
        num_steps=config.num_steps,
        intervals=Intervals(
            log=config.log.every_steps,
            pictures=config.log.image_every_steps,
            validation=config.validation.every_steps,
            checkpoint=config.checkpoint.every_steps,
        ),
        phases=phases,
        accumulate_steps=config.accumulate_steps,
        num_workers=config.data.num_workers,
        seed=config.seed,
        identity_start=config.get("identity_start", False),
        dtype=config.dtype,
        matmul_precision=config.matmul_precision,
        mask=Mask(config.mask_ratio, config.mask_patch) if mode.masks else None,
        mesh=mesh,
        network=network,
        classifier=classifier,
        reconstruction=reconstruction,
        schedules=schedules,
        optimizers=optimizers,
        averaged=tuple(optimizers) if config.ema_decay else (),
        step=step,
        initial=initial,
        state_sharding=sharding.replicated(mesh),
    )
    return _compile_for_devices(run)


def _held_out(
    config: ml_collections.ConfigDict, training_classes: tuple[TrainingClass, ...]
) -> HeldOut:
    settings, data = config.validation, config.data
    metrics = configs.validation_metrics(config)
    return HeldOut(
        open=functools.partial(
            data_classes.validation_classes,
            training_classes,
            datasets=data.datasets,
            sources=data.sources,
            held_out_root=settings.root,
            held_out_sources=settings.sources,
            on_bad_file=data.on_bad_file,
            max_pixels=data.max_pixels,
            colour=data.colour,
        ),
        photos_per_class=settings.photos_per_class,
        crops_per_photo=settings.crops_per_photo,
        metrics=metrics,
        best=settings.metric or metrics[0],
    )


def _check_resources(config: ml_collections.ConfigDict) -> None:
    """Warns of a published recipe that lacks an accelerator or data.

    Raises:
        ConfigError: if an accelerator is required and there is none.
    """
    on_cpu, data = jax.default_backend() == "cpu", config.data
    if on_cpu and config.require_accelerator:
        raise ConfigError("config.require_accelerator is set, but JAX sees only the CPU")
    if not config.recipe:
        return
    if on_cpu:
        logging.warning(
            "the recipe for %s is meant for accelerators, but JAX sees only the CPU: leave the "
            "preset out for the small demo, or install JAX for your accelerator",
            config.recipe,
        )
    if not (data.root or data.datasets or any(data.sources.values())):
        logging.warning(
            "the recipe for %s would train on the few bundled photos: name your own with "
            "--config.data.root=FOLDER or public data sets with --config.data.datasets=FOLDER",
            config.recipe,
        )


def _compile_for_devices(run: Run) -> Run:
    """The run, its step jitted for the devices of its mesh and for how they hold the state."""
    everywhere, step, state = sharding.replicated(run.mesh), run.step, run.state_sharding
    if run.mesh.shape["fsdp"] > 1:
        state = sharding.state_shardings(run.state_shapes(), run.mesh)
        step = sharding.with_whole_params(step, run.mesh)
    step = jax.jit(
        traced_for(run.platform)(matmul_precision(run.matmul_precision)(step)),
        in_shardings=(state, sharding.split(run.mesh)),
        out_shardings=(state, everywhere),
        donate_argnums=0,
    )
    return dataclasses.replace(run, step=step, state_sharding=state)


def make_optimizers(
    settings: Mapping[str, ml_collections.ConfigDict], num_steps: int
) -> tuple[dict[str, optax.Schedule], dict[str, optax.GradientTransformation]]:
    """Learning-rate schedules and optimisers of the parts that learn, from their settings."""
    schedules = {name: _schedule(one, num_steps) for name, one in settings.items()}
    return schedules, {name: _optimizer(one, schedules[name]) for name, one in settings.items()}


def build_step(
    mode: Mode,
    built: Mapping[str, nn.Module | None],
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    labels: Labels,
    tasks: tuple[task_sets.Task, ...],
    guide: Labels | None = None,
    **options: Any,
) -> Step:
    """The step of a mode, not yet jitted.

    Args:
        mode: of the run.
        built: network, classifier and reconstruction head, by these names.
        optimizers: of the parts that learn.
        labels: of the classes of the run.
        tasks: these classes.
        guide: labels of the classifier that guides a transfer.
        **options: of the builder in `steps`.

    Raises:
        ConfigError: if that classifier does not know all tasks.
    """
    if labels.multi_hot:
        options["label_rows"] = labels.rows(tasks)
    if mode.is_guided and guide is not None:
        options |= init_from.guide_options(guide, tasks)
    make = getattr(steps, mode.step)
    return make(*(built[name] for name in mode.modules), optimizers, **options)


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
