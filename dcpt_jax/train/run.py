"""Everything that a training run needs, built from its config: data, modules, step, state."""

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
from dcpt_jax import losses, weights
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
    """Every how many steps something besides training is done; 0 = never."""

    log: int
    pictures: int
    validation: int
    checkpoint: int


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The held-out data of a run, and the metrics measured on it."""

    # Opens the classes; raises if their data cannot be used
    open: Callable[[], tuple[TrainingClass, ...]]
    photos_per_class: int  # most photos of each class; 0 = all
    crops_per_photo: int  # from a regular grid
    metrics: tuple[str, ...]  # of "psnr", "ssim" and "accuracy"
    best: str  # the metric that decides which checkpoint is the best


@dataclasses.dataclass(frozen=True)
class Mask:
    """Masking in masked pre-training: share of hidden patches, and their side in pixels."""

    ratio: float
    patch: int


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run except for its state: what does not change from step to step."""

    mode: Mode
    # The whole config as JSON, for checkpoints; all other fields are derived from it
    config: Mapping[str, Any]
    task_set: str  # `config.tasks` as text
    tasks: tuple[task_sets.Task, ...]  # the classes; a position is a label
    training_classes: tuple[TrainingClass, ...]  # the classes with their photos or pairs
    held_out: HeldOut  # for validation
    labels: Labels  # meaning of the classifier's logits: classes, or components of mixtures
    num_steps: int  # in total
    intervals: Intervals
    # Sizes of crops and batches (over all devices and processes), by step
    phases: tuple[Phase, ...]
    accumulate_steps: int  # equal parts in which a batch is processed, one after another
    num_workers: int  # worker processes of the data pipeline
    seed: int  # of parameters and data
    identity_start: bool  # whether an untrained network returns its input
    dtype: str  # compute type
    matmul_precision: str  # of float32 matrix products
    mask: Mask | None  # of masked pre-training, else None
    mesh: Mesh  # the devices
    network: nn.Module  # the restoration network
    classifier: nn.Module | None  # trained, or frozen and guiding; None without
    reconstruction: nn.Module | None  # head of masked pre-training, else None
    schedules: Mapping[str, optax.Schedule]  # learning rate, by trained part
    optimizers: Mapping[str, optax.GradientTransformation]  # by trained part
    averaged: tuple[str, ...]  # parts with a moving average
    step: Step  # jitted, donates the state
    initial: Initial  # parameters taken over from other runs, and their origin
    state_sharding: Any  # sharding of the state: one for each array, or one for all

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a position is a label."""
        return tuple(task.name for task in self.tasks)

    @property
    def platform(self) -> str:
        """Platform of the devices: "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform

    @property
    def batch_size(self) -> int:
        """Batch size of the first phase and of validation, over all devices and processes."""
        return self.phases[0].batch_size

    @property
    def crop_size(self) -> int:
        """Crop size of the first phase and of validation, in pixels."""
        return self.phases[0].crop_size

    def create_state(self) -> TrainState:
        """The state before the first step; it is created already sharded over the devices."""
        params = self.initial.params
        if self.mesh.size > 1:
            params = sharding.place(params, self.mesh)
        # The key is an argument, so that runs with other seeds reuse the compiled program.
        rng = np.asarray(jax.random.PRNGKey(self.seed))
        return jax.jit(self._initialise, out_shardings=self.state_sharding)(rng, params)

    def state_shapes(self) -> TrainState:
        """Shapes, dtypes and shardings of the state; nothing is computed."""
        shapes = jax.eval_shape(self._initialise, jax.random.PRNGKey(0), self.initial.params)
        shardings = self.state_sharding
        if isinstance(shardings, jax.sharding.Sharding):
            shardings = jax.tree.map(lambda _: self.state_sharding, shapes)
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
        )

    def lower(self, state: TrainState, phase: Phase | None = None) -> jax.stages.Lowered:
        """Lowers the step of a phase (default: the first) for states like this one."""
        _, crop, batch = phase or self.phases[0]
        images = sharding.split(self.mesh)
        shape = (batch, crop, crop, 3)
        pixels = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=images)
        task = jax.ShapeDtypeStruct(shape[:1], jnp.int32, sharding=images)
        return self.step.lower(state, {"degraded": pixels, "clean": pixels, "task": task})

    def batches(self, *, start: int) -> pipeline.BatchIterator:
        """This process's share of the stream of batches, from batch number `start` on."""
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
        """Learning rate of each optimiser at a step, counted from 0."""
        return {f"learning_rate_{name}": float(s(step)) for name, s in self.schedules.items()}

    def describe(self, *, steps: int = 0, **extra: Any) -> weights.WeightsDescription:
        """The description (`model.json`) of the run's weights after `steps` steps."""
        if self.classifier is not None and not self.mode.classifies:
            # Needed to resume, but not part of the result.
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
        """The parameters to publish, without the parts that only helped in training."""
        params = state.averaged_params()
        names = ("network", "classifier") if self.mode.classifies else ("network",)
        return {name: params[name] for name in names}

    def _initialise(self, rng: jax.Array, inherited: weights.Params) -> TrainState:
        """The state at step 0: parameters taken from `inherited`, the others initialised."""
        network_rng, classifier_rng, step_rng = jax.random.split(rng, 3)
        image = jnp.zeros((1, self.crop_size, self.crop_size, 3))
        params = {"network": inherited.get("network")}
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
                params["classifier"] = inherited.get("classifier", params["classifier"])
            elif "classifier" in inherited:
                columns = self.labels.shared_with(self.initial.classifier.labels)
                params["classifier"] = init_from.take_over_classifier(
                    params["classifier"], inherited["classifier"], columns
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
        begun: description in the newest checkpoint of the work directory or, without one, of
            `config.resume_from`, if any. The run then resumes there, and the weights that it once
            started from are not needed.
        devices: to train on; None = all that JAX sees.

    Raises:
        ConfigError: if the config is invalid.
        ValueError: if the batch does not fit the devices, or the data cannot be used.
        FileNotFoundError: if there are no photos, or nothing to start from.
    """
    configs.validate(config)
    _check_resources(config)
    config = config.copy_and_resolve_references()
    options = step_options(config)  # before the data are opened, which can take long
    mode, labels = MODES[config.mode], configs.labels_of(config)
    tasks, phases = configs.tasks_of(config), configs.phases_of(config)
    mesh = _make_mesh(config, phases, devices)
    training_classes = data_classes.open_classes(
        tasks,
        stage=mode.stage,
        repeats=configs.repeats_of(config),
        **data_classes.options_from(config.data),
    )
    initial = init_from.find_initial(config, begun)
    parts = _build_modules(config, mode, labels, initial.classifier)
    schedules, optimizers = make_optimizers(
        {part: config[OPTIMIZERS[part]] for part in mode.learns}, config.num_steps
    )
    step = build_step(
        mode,
        parts,
        optimizers,
        labels=labels,
        tasks=tasks,
        guide=initial.classifier and initial.classifier.labels,
        **options,
    )
    run = Run(
        mode=mode,
        tasks=tasks,
        training_classes=training_classes,
        held_out=_held_out(config, training_classes),
        labels=labels,
        phases=phases,
        mesh=mesh,
        schedules=schedules,
        optimizers=optimizers,
        averaged=tuple(optimizers) if config.ema_decay else (),
        step=step,
        initial=initial,
        state_sharding=sharding.replicated(mesh),
        **parts,
        **_settings(config, mode),
    )
    return _compile_for_devices(run)


def _make_mesh(
    config: ml_collections.ConfigDict,
    phases: Sequence[Phase],
    devices: Sequence[jax.Device] | None,
) -> Mesh:
    """The mesh of the run, once the batches of all phases are known to fit it."""
    meshes = []
    for phase in phases:
        key = "config.batch_size"
        if phase.first_step:
            key = f"config.progressive, from step {phase.first_step}: {key}"
        meshes.append(
            sharding.make_mesh(
                phase.batch_size,
                config.accumulate_steps,
                config.fsdp_devices,
                devices=devices,
                key=key,
            )
        )
    return meshes[0]


def _build_modules(
    config: ml_collections.ConfigDict,
    mode: Mode,
    labels: Labels,
    inherited: weights.ClassifierDescription | None,
) -> dict[str, nn.Module | None]:
    """Network, classifier and reconstruction head, by these names; None for those not used."""
    network = modules.build_network(config.model, dtype=config.dtype, remat=config.remat)
    classifier = modules.build_classifier(
        network,
        mode,
        num_classes=len(labels.names),
        num_blocks=config.classifier.num_blocks,
        dtype=config.dtype,
        inherited=inherited,
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
    return {"network": network, "classifier": classifier, "reconstruction": reconstruction}


def _settings(config: ml_collections.ConfigDict, mode: Mode) -> dict[str, Any]:
    """The fields of a `Run` that are plain values of the config."""
    keys = ("num_steps", "accumulate_steps", "seed", "dtype", "matmul_precision")
    tasks = config.tasks
    if not isinstance(tasks, str):
        tasks = ",".join(task.name for task in configs.tasks_of(config))
    return {
        "config": configs.to_json(config),
        "task_set": tasks,
        "intervals": Intervals(
            log=config.log.every_steps,
            pictures=config.log.image_every_steps,
            validation=config.validation.every_steps,
            checkpoint=config.checkpoint.every_steps,
        ),
        "num_workers": config.data.num_workers,
        "identity_start": config.get("identity_start", False),
        "mask": Mask(config.mask_ratio, config.mask_patch) if mode.masks else None,
        **{key: config[key] for key in keys},
    }


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
    """Warns if a published recipe would run on the CPU, or on the bundled photos alone.

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
            "--config.data.root=FOLDER or public datasets with --config.data.datasets=FOLDER",
            config.recipe,
        )


def _compile_for_devices(run: Run) -> Run:
    """The run with its step jitted for its mesh and for the sharding of its state."""
    everywhere, step, state = sharding.replicated(run.mesh), run.step, run.state_sharding
    if run.mesh.shape["fsdp"] > 1:
        state = sharding.state_shardings(run.state_shapes(), run.mesh)
        step = sharding.with_gathered_params(step, run.mesh)
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
    """Learning-rate schedules and optimisers of the trained parts, from their config."""
    schedules, optimizers = {}, {}
    for name, optimizer_config in settings.items():
        schedules[name] = _schedule(optimizer_config, num_steps)
        optimizers[name] = adamw(
            schedules[name],
            b1=optimizer_config.b1,
            b2=optimizer_config.b2,
            weight_decay=optimizer_config.weight_decay,
            clip_norm=optimizer_config.clip_norm,
        )
    return schedules, optimizers


def step_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The keyword arguments of the step's builder that are set by the config.

    Raises:
        ConfigError: if `config.loss_terms` is invalid.
    """
    keys = ("ema_decay", "accumulate_steps", *MODES[config.mode].loss_keys)
    options = {key: config[key] for key in keys}
    if "loss_terms" in options:
        weight = options.pop("fft_weight")
        try:
            options["loss_terms"] = losses.weighted_terms(config.loss_terms, fft_weight=weight)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return options


def build_step(
    mode: Mode,
    parts: Mapping[str, nn.Module | None],
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    labels: Labels,
    tasks: tuple[task_sets.Task, ...],
    guide: Labels | None = None,
    **options: Any,
) -> Step:
    """Builds the training step of a mode, not yet jitted.

    Args:
        mode: of the run.
        parts: network, classifier and reconstruction head, by these names.
        optimizers: by trained part.
        labels: of the run.
        tasks: the classes of the run.
        guide: labels of the frozen classifier that guides a transfer, if any.
        **options: further keyword arguments of the builder in `steps`, see `step_options`.

    Raises:
        ConfigError: if the guiding classifier does not know all tasks.
    """
    if labels.multi_hot:
        options["label_rows"] = labels.rows(tasks)
    if mode.is_guided and guide is not None:
        options |= init_from.guide_options(guide, tasks)
    make = getattr(steps, f"make_{mode.name}_step")
    return make(*(parts[name] for name in mode.modules), optimizers, **options)


def _schedule(optimizer: ml_collections.ConfigDict, num_steps: int) -> optax.Schedule:
    if optimizer.schedule == "constant":
        return constant_schedule(optimizer.learning_rate, warmup_steps=optimizer.warmup_steps)
    return cosine_schedule(
        optimizer.learning_rate,
        decay_steps=optimizer.decay_steps or num_steps,
        minimum=optimizer.min_learning_rate,
        warmup_steps=optimizer.warmup_steps,
    )
