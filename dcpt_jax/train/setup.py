"""From a config to what a run needs: data, modules, optimisers, the jitted step, the state."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh

from dcpt_jax import config as configs
from dcpt_jax import weights
from dcpt_jax.config import ConfigError
from dcpt_jax.config.keys import OPTIMIZERS
from dcpt_jax.data import opening, pipeline
from dcpt_jax.data import tasks as task_sets
from dcpt_jax.data.classes import TrainingClass
from dcpt_jax.modes import MODES
from dcpt_jax.precision import products_in
from dcpt_jax.train import modules, sharding, start, steps
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
    state_sharding: Any  # how the devices hold the state: of each array, or one for all

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the run's classes; a class's position is its label."""
        return tuple(task.name for task in self.tasks)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the logits of a classifier stand for: the classes, or their components."""
        return configs.outputs_of(self.config)

    @property
    def reconstruction(self) -> nn.Module | None:
        """The head of a masked pre-training; None in other modes."""
        return modules.build_reconstruction(self.config, self.network)

    def create_state(self) -> TrainState:
        """The state before the first step, on all devices."""
        return _create_state(self)

    def state_shapes(self) -> TrainState:
        """The state's shapes and dtypes, and how the devices hold it; nothing is computed."""
        shapes = jax.eval_shape(_initialiser(self), self.start.params)
        shardings = self.state_sharding
        if isinstance(shardings, jax.sharding.Sharding):
            shardings = jax.tree.map(lambda _: self.state_sharding, shapes)
        return jax.tree.map(
            lambda x, held: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=held), shapes, shardings
        )

    @property
    def _trains_classifier(self) -> bool:
        return MODES[self.config.mode].classifies

    @property
    def best_metric(self) -> str:
        """The metric of a validation by which the best checkpoint is told."""
        return self.config.validation.metric or configs.validation_metrics(self.config)[0]

    def lower(self, state: TrainState) -> jax.stages.Lowered:
        """The step, traced for states like this one and not yet compiled."""
        size, images = self.config.data.crop_size, sharding.split(self.mesh)
        shape = (self.config.batch_size, size, size, 3)
        pixels = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=images)
        task = jax.ShapeDtypeStruct(shape[:1], jnp.int32, sharding=images)
        return self.step.lower(state, {"degraded": pixels, "clean": pixels, "task": task})

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
        if self.classifier is not None and not self._trains_classifier:
            # Needed to continue, not part of the result.
            extra["guide"] = dict(self.start.classifier)
        multi_hot = self.config.get("label") == weights.MULTI_HOT
        return weights.describe(
            self.network,
            self.classifier if self._trains_classifier else None,
            task_set=task_set,
            classes=names,
            components=self.outputs if multi_hot else (),
            mode=self.config.mode,
            crop_size=self.config.data.crop_size,
            averaged=list(self.optimizers) if self.config.ema_decay else [],
            source=dict(self.start.origin),
            **extra,
        )

    def result(self, state: TrainState) -> weights.Params:
        """The parameters that the run is done for: what only helped in training is left out."""
        params = state.best_params()
        names = ["network"]
        if self._trains_classifier:
            names.append("classifier")
        return {name: params[name] for name in names}


def prepare(
    config: ml_collections.ConfigDict,
    *,
    begun: Mapping[str, Any] | None = None,
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
    _check_means(config)
    config = config.copy_and_resolve_references()
    tasks = configs.tasks_of(config)
    mesh = sharding.make_mesh(
        config.batch_size, config.accumulate_steps, config.fsdp_devices, devices=devices
    )
    training_classes = opening.open_classes(
        tasks,
        stage=MODES[config.mode].stage,
        repeats=configs.repeats_of(config),
        **opening.arguments(config.data),
    )
    origin = start.find_start(config, begun)
    network, classifier = modules.build_modules(
        config, num_classes=len(configs.outputs_of(config)), taken=origin.classifier
    )
    schedules, optimizers = make_optimizers(config)
    run = Run(
        config,
        tasks,
        training_classes,
        mesh,
        network,
        classifier,
        schedules,
        optimizers,
        make_step(config, tasks, network, classifier, optimizers, origin),
        origin,
        sharding.replicated(mesh),
    )
    return _compile_for_devices(run)


def _check_means(config: ml_collections.ConfigDict) -> None:
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
        shapes = jax.eval_shape(_initialiser(run), run.start.params)
        state = sharding.state_shardings(shapes, run.mesh)
        step = sharding.with_whole_params(step, run.mesh)
    step = jax.jit(
        products_in(run.config.matmul_precision)(step),
        in_shardings=(state, sharding.split(run.mesh)),
        out_shardings=(state, everywhere),
        donate_argnums=0,
    )
    return dataclasses.replace(run, step=step, state_sharding=state)


def make_optimizers(
    config: ml_collections.ConfigDict,
) -> tuple[dict[str, optax.Schedule], dict[str, optax.GradientTransformation]]:
    """Learning-rate schedules and optimisers of the parts that learn, by their names."""
    settings = {name: config[OPTIMIZERS[name]] for name in MODES[config.mode].learns}
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
        ConfigError: if that classifier does not know all tasks, or the patches of a mask do not
            fit network and crops.
    """
    mode = MODES[config.mode]
    options = {key: config[key] for key in ("ema_decay", "accumulate_steps", *mode.loss_keys)}
    if config.get("label") == weights.MULTI_HOT:
        options["label_rows"] = task_sets.components(tasks)[1]
    if mode.is_guided and classifier is not None:
        options |= start.guide_options(origin.classifier, tasks)
    built = {
        "network": network,
        "classifier": classifier,
        "reconstruction": modules.build_reconstruction(config, network),
    }
    make = getattr(steps, mode.step)
    return make(*(built[name] for name in mode.modules), optimizers, **options)


def _create_state(run: Run) -> TrainState:
    """The first state, made where it is kept: no device ever holds more than its part."""
    found = run.start.params
    if run.mesh.size > 1:
        found = sharding.place(found, run.mesh)
    return jax.jit(_initialiser(run), out_shardings=run.state_sharding)(found)


def _initialiser(run: Run) -> Callable[[weights.Params], TrainState]:
    """The function from the parameters that a run starts from to its first state."""
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
            if MODES[config.mode].is_guided:
                params["classifier"] = found.get("classifier", params["classifier"])
            elif "classifier" in found:
                label = config.get("label", weights.FLAT)
                columns = start.shared_columns(run.start.classifier, run.outputs, label)
                params["classifier"] = start.take_over_classifier(
                    params["classifier"], found["classifier"], columns
                )
        if run.reconstruction is not None:
            visible = jnp.ones((*image.shape[:3], 1))
            params["reconstruction"] = run.reconstruction.init(
                jax.random.fold_in(classifier_rng, 1), features, visible
            )["params"]
        averaged = run.optimizers if config.ema_decay else ()
        return create_state(params, run.optimizers, rng=step_rng, averaged=averaged)

    return initialise


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
