"""What a run starts from: the network and classifier of earlier runs, as far as they fit."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dcpt_jax import weights
from dcpt_jax.config import ConfigError
from dcpt_jax.config.checks import SCRATCH
from dcpt_jax.data import tasks as task_sets
from dcpt_jax.modes import MODES, Mode

HEAD = "head"  # the classifier's last layer, whose last axis are the classes or components


@dataclasses.dataclass(frozen=True)
class Start:
    """Where the parameters of a run come from.

    Attributes:
        params: host arrays by part, "network" and "classifier"; parts that start from scratch, or
            come from the run's own checkpoint, are not in it.
        origin: what `model.json` says about it.
        classifier: arguments, classes and kind of label of a classifier that is taken over, as
            `weights.outputs_of` reads them, or {}.
        description: that of the weights in `config.init_from`, or {}.
        network_from: folder of the network; "" = scratch.
        classifier_from: folder of a classifier from elsewhere; "" = as the network.
    """

    params: weights.Params = dataclasses.field(default_factory=dict)
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classifier: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    description: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    network_from: str = ""
    classifier_from: str = ""


def find_start(config: ml_collections.ConfigDict, begun: Mapping[str, Any] | None) -> Start:
    """Finds what a config starts from, and takes the architectures from there.

    Args:
        config: of the run; `model` and `classifier.num_blocks` become those of the weights.
        begun: description in the newest checkpoint of the work directory, or None. What the run
            once started from is not needed then.

    Raises:
        ConfigError: if there is no classifier where one is needed, or the figures of the config
            are those of another backbone than the weights'.
        FileNotFoundError: if a folder holds no weights.
    """
    mode = MODES[config.mode]
    chosen = config.get("classifier_from", SCRATCH)  # modes without the key want no classifier
    if begun is not None:
        if config.init_from:
            adopt_architecture(config, begun)
        classifier = begun.get("guide") or {}
        if mode.is_guided and config.guidance and not classifier:
            raise ConfigError(
                f"config.guidance is {config.guidance}, but this transfer was begun without a "
                "classifier, which cannot be added on the way: set --config.guidance=0, or use "
                "another --workdir with --config.init_from set to this one"
            )
        grown = config.init_from or chosen not in ("", SCRATCH)
        if not classifier and grown and begun.get("classifier"):
            classifier = _classifier_of(begun, mode)
        _adopt_classifier(config, classifier)
        return Start(origin=begun.get("source") or {}, classifier=classifier)
    params, description, origin, network = {}, {}, {}, {}
    if config.init_from:
        found, description = _load("init_from", config.init_from)
        network = description
        params["network"] = found["network"]
        origin = {"init_from": str(config.init_from), **_run_of(description)}
        _check_recipe(config, description["architecture"])
        adopt_architecture(config, description)
    if chosen not in ("", SCRATCH) and _wants_classifier(config):
        found, description = _load("classifier_from", chosen)
        origin["classifier_from"] = {"path": str(chosen), **_run_of(description)}
        if not description["classifier"]:
            raise ConfigError(
                f"config.classifier_from: the weights in {chosen} hold no classifier; name the "
                "work directory of a pre-training"
            )
    classifier = {}
    if chosen != SCRATCH and _wants_classifier(config) and description.get("classifier"):
        classifier = _classifier_of(description, mode)
        params["classifier"] = found["classifier"]
        _adopt_classifier(config, classifier)
    if mode.is_guided and config.guidance and not classifier:
        raise ConfigError(
            f"there is no classifier in {config.init_from} to guide the transfer: name a work "
            "directory of a pre-training with --config.classifier_from, or set --config.guidance=0"
        )
    label, outputs = weights.outputs_of(classifier) if classifier else (weights.FLAT, ())
    # A single component can be there or not.
    if mode.is_guided and classifier and label == weights.FLAT and len(outputs) < 2:
        raise ConfigError(
            f"the classifier in {config.classifier_from or config.init_from} knows only "
            f"{outputs[0]}, so that it cannot guide: it would always be right. "
            "Choose another --config.classifier_from, or set --config.guidance=0"
        )
    return Start(
        params=params,
        origin=origin,
        classifier=classifier,
        description=network,
        network_from=config.init_from,
        classifier_from=chosen if chosen != SCRATCH else "",
    )


def adopt_architecture(config: ml_collections.ConfigDict, description: Mapping[str, Any]) -> None:
    """Sets `config.model` to that of the weights in `config.init_from`, saying so if it changes."""
    model = {"name": description["architecture"], **description["arguments"]}
    model = {k: tuple(v) if isinstance(v, list) else v for k, v in model.items()}
    if any(config.model.get(key, value) != value for key, value in model.items()):
        logging.warning("network: %s, as in %s (config.model is ignored)", model, config.init_from)
    config.model = ml_collections.ConfigDict(model)


def guide_options(
    classifier: Mapping[str, Any], tasks: tuple[task_sets.Task, ...]
) -> dict[str, Any]:
    """How a transfer's step gets the labels that its guide has for the tasks of the run.

    Args:
        classifier: see `Start`.
        tasks: of the run. A guide of components need not know a mixture as a whole, nor "clean".

    Returns:
        `labels` or `label_rows` of `steps.make_transfer_step`.

    Raises:
        ConfigError: if the classifier does not know a task.
    """
    label, outputs = weights.outputs_of(classifier)
    if label == weights.FLAT:
        return {"labels": guide_labels(outputs, tasks)}
    names, rows = task_sets.components(tasks)
    labels = guide_labels(outputs, names, kind="components")
    table = np.zeros((len(tasks), len(outputs)), np.uint8)
    table[:, labels] = rows
    return {"label_rows": table}


def guide_labels(
    outputs: tuple[str, ...],
    wanted: Sequence[str | task_sets.Task],
    *,
    kind: str = "classes",
) -> tuple[int, ...]:
    """The positions of classes or components in what a classifier knows.

    Args:
        outputs: what it knows, in order.
        wanted: tasks, or names.
        kind: of both, "classes" or "components", for the message.

    Raises:
        ConfigError: if it does not know one.
    """
    names = [getattr(task, "name", task) for task in wanted]
    unknown = [name for name in names if name not in outputs]
    if unknown:
        raise ConfigError(
            f"the classifier that guides the transfer does not know {', '.join(unknown)}; its "
            f"{kind}: {', '.join(outputs)}. Choose --config.tasks among them, another "
            "--config.classifier_from, or --config.guidance=0. Classes of a converted classifier "
            "are named by python -m dcpt_jax.convert --classes=..."
        )
    return tuple(outputs.index(name) for name in names)


def columns_of_classes(
    there: tuple[str, ...], here: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """(position there, position here) of the classes that both know.

    Weights from elsewhere may have no class names, only `class_0`, `class_1` and so on: those are
    taken by position if there are as many.
    """
    unnamed = there == tuple(f"class_{i}" for i in range(len(there)))
    if unnamed and len(there) == len(here):
        return tuple((i, i) for i in range(len(here)))
    return tuple((there.index(name), i) for i, name in enumerate(here) if name in there)


def shared_columns(
    classifier: Mapping[str, Any], outputs: tuple[str, ...], label: str
) -> tuple[tuple[int, int], ...]:
    """(position there, position here) of what a classifier taken over and that of a run both know.

    By names: the class "rain" of a flat classifier goes on as the component "rain" of a multi-hot
    one and the reverse, and mixtures of the one, which the other has no logit for, are left. Only
    classifiers of the same kind of label are ever matched by position.

    Args:
        classifier: see `Start`.
        outputs: classes or components of the run.
        label: kind of the run's labels.
    """
    kind, there = weights.outputs_of(classifier)
    if kind == label:
        return columns_of_classes(there, outputs)
    return tuple((there.index(name), i) for i, name in enumerate(outputs) if name in there)


def take_over_classifier(fresh: Any, found: Any, columns: tuple[tuple[int, int], ...]) -> Any:
    """A classifier with the parameters of another: all but the columns of other classes.

    Args:
        fresh: newly initialised parameters, of this run's classes.
        found: parameters taken over, alike but for the classes.
        columns: see `columns_of_classes`.

    Returns:
        Parameters of the shapes of `fresh`.
    """
    kept = {name: value for name, value in found.items() if name != HEAD}
    there, here = ([pair[side] for pair in columns] for side in (0, 1))
    head = jax.tree.map(
        lambda new, old: (
            jnp.asarray(new)
            .at[..., np.array(here, int)]
            .set(jnp.asarray(old, new.dtype)[..., np.array(there, int)])
        ),
        fresh[HEAD],
        found[HEAD],
    )
    return {**kept, HEAD: head}


def places(start: Start) -> str:
    """What a run starts from, in a few words."""
    found = [start.network_from or "scratch"]
    if "classifier" in start.params and start.classifier_from:
        found.append(f"the classifier of {start.classifier_from}")
    return " and ".join(found)


def report(start: Start, mode: Mode, label: str, outputs: tuple[str, ...]) -> list[str]:
    """Lines that say what was taken over, resized or left; none from scratch.

    Args:
        start: what the run starts from.
        mode: of the run.
        label: of its classifier, "flat" or "multi_hot".
        outputs: what the logits of its classifier stand for, classes or components.
    """
    lines = []
    if "network" in start.params:
        averaged = "network" in start.description.get("averaged", ())
        average = ", its moving average" if averaged else ""
        lines.append(f"network: taken over from {start.network_from}{average}")
        earlier = MODES.get(start.description.get("mode", ""))
        if earlier is not None and earlier.masks:
            lines.append(
                "network: its last layers are as initialised, masked pre-training leaves them out"
            )
    if "classifier" in start.params:
        kind, there = weights.outputs_of(start.classifier)
        source = start.classifier_from or start.network_from
        shared = [outputs[i] for _, i in shared_columns(start.classifier, outputs, label)]
        change = "" if kind == label else f" ({kind}, from now on {label})"
        if mode.is_guided:
            lines.append(f"classifier: taken over from {source}, frozen; it guides the network")
        elif there == outputs or len(shared) == len(there) == len(outputs):
            lines.append(f"classifier: taken over from {source}{change}")
        else:
            new = [name for name in outputs if name not in shared]
            left = [name for name in there if name not in shared]
            what = "classes" if label == weights.FLAT else "components"
            lines.append(
                f"classifier: taken over from {source}{change}, its head resized from "
                f"{len(there)} to {len(outputs)} {what}; kept: {', '.join(shared) or 'none'}"
                f"; new: {', '.join(new) or 'none'}; left: {', '.join(left) or 'none'}"
            )
    elif start.params and mode.classifies:
        lines.append("classifier: from scratch")
    elif start.description.get("classifier"):
        lines.append(f"classifier: left in {start.network_from}, this stage has none")
    return lines


def _wants_classifier(config: ml_collections.ConfigDict) -> bool:
    return MODES[config.mode].classifies or bool(config.get("guidance"))


def _adopt_classifier(config: ml_collections.ConfigDict, classifier: Mapping[str, Any]) -> None:
    if classifier:
        num_blocks = classifier["arguments"]["num_blocks"]
        if num_blocks != config.classifier.num_blocks:
            logging.warning(
                "classifier: num_blocks %d, as in the weights (config.classifier is ignored)",
                num_blocks,
            )
        config.classifier.num_blocks = num_blocks


def _load(key: str, path: str) -> tuple[weights.Params, dict[str, Any]]:
    """The weights that a key of the config names."""
    try:
        return weights.load_weights(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"config.{key}: {error}") from error


def _check_recipe(config: ml_collections.ConfigDict, architecture: str) -> None:
    """Raises ConfigError if the config has the published figures of another backbone."""
    if config.recipe in ("", architecture):
        return
    tasks = config.tasks if isinstance(config.tasks, str) and "," not in config.tasks else ""
    preset = ",".join(filter(None, (architecture, tasks)))
    raise ConfigError(
        f"the network in {config.init_from} is of {architecture}, but this config has the figures "
        f"published for {config.recipe}: use --config=configs/{config.mode}.py:{preset}, or "
        "--config.recipe= to keep these figures"
    )


def _classifier_of(description: Mapping[str, Any], mode: Mode) -> dict[str, Any]:
    if description["classifier"].get("image_input"):
        raise ConfigError(
            "the classifier of these weights sees the image besides the features; training uses "
            "classifiers of features alone. Set --config.classifier_from to another, or "
            + ("--config.guidance=0" if mode.is_guided else f"to {SCRATCH} for a new one")
        )
    label, outputs = weights.outputs_of(description)
    return {
        "arguments": dict(description["classifier"]),
        "classes": list(description["classes"]),
        **({"label": label, "components": list(outputs)} if label != weights.FLAT else {}),
    }


def _run_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """What is noted of the run that wrote some weights."""
    return {"mode": description.get("mode", "converted"), "steps": description.get("steps")}
