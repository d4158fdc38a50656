"""Initialising a run from other weights: `config.init_from` and `config.classifier_from`."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dcpt_jax import weights
from dcpt_jax.config import ConfigError
from dcpt_jax.config.checks import SCRATCH
from dcpt_jax.data import tasks as task_sets
from dcpt_jax.labels import Labels
from dcpt_jax.modes import MODES, Mode
from dcpt_jax.weights import ClassifierDescription, WeightsDescription

HEAD = "head"  # the classifier's last layer; its last axis has the classes or components


@dataclasses.dataclass(frozen=True)
class Initial:
    """Initial parameters of a run, and their origin."""

    # Host arrays of "network" and "classifier", as far as they are taken over from other weights
    params: weights.Params = dataclasses.field(default_factory=dict)
    # Their record in `model.json`
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classifier: ClassifierDescription | None = None  # the classifier taken over, or None
    description: WeightsDescription | None = None  # of the weights in `config.init_from`, or None
    network_from: str = ""  # folder of the network; "" = from scratch
    classifier_from: str = ""  # folder of the classifier; "" = that of the network


def find_initial(config: ml_collections.ConfigDict, begun: WeightsDescription | None) -> Initial:
    """Loads the weights that a run starts from, and adopts their architectures.

    Args:
        config: of the run; `model` and `classifier.num_blocks` become those of the weights.
        begun: description in the newest checkpoint of the work directory or, without one, of
            `config.resume_from`, or None. With it, the run resumes there, and nothing is loaded
            here.

    Raises:
        ConfigError: if a required classifier is missing, or the config has the published values of
            another backbone than that of the weights.
        FileNotFoundError: if a folder holds no weights.
    """
    mode = MODES[config.mode]
    chosen = config.get("classifier_from", SCRATCH)  # modes without the key use no classifier
    if begun is not None:
        return _resumed(config, begun, chosen)
    params, network, source, classifier, origin = {}, None, None, None, {}
    if config.init_from:
        loaded, network = weights.load_weights_of_key("init_from", config.init_from)
        source = network
        params["network"] = loaded["network"]
        origin = {"init_from": str(config.init_from), **_run_of(network)}
        _check_recipe(config, network.architecture)
        adopt_architecture(config, network)
    needs_classifier = mode.classifies or bool(config.get("guidance"))
    if needs_classifier and chosen not in ("", SCRATCH):
        loaded, source = weights.load_weights_of_key("classifier_from", chosen)
        origin["classifier_from"] = {"path": str(chosen), **_run_of(source)}
        if source.classifier is None:
            raise ConfigError(
                f"config.classifier_from: the weights in {chosen} contain no classifier; give the "
                "work directory of a pre-training"
            )
    if (
        needs_classifier
        and chosen != SCRATCH
        and source is not None
        and source.classifier is not None
    ):
        classifier = _classifier_of(source, mode)
        params["classifier"] = loaded["classifier"]
        _adopt_classifier(config, classifier)
    if mode.is_guided and config.guidance:
        _check_guide(config, classifier)
    return Initial(
        params=params,
        origin=origin,
        classifier=classifier,
        description=network,
        network_from=config.init_from,
        classifier_from=chosen if chosen != SCRATCH else "",
    )


def _resumed(config: ml_collections.ConfigDict, begun: WeightsDescription, chosen: str) -> Initial:
    """The architectures and origin of a run that resumes from its own checkpoint."""
    mode = MODES[config.mode]
    if config.init_from:
        adopt_architecture(config, begun)
    classifier = begun.guide
    if mode.is_guided and config.guidance and not classifier:
        raise ConfigError(
            f"config.guidance is {config.guidance}, but this transfer was begun without a "
            "classifier, which cannot be added later: set --config.guidance=0, or use "
            "another --workdir with --config.init_from set to this one"
        )
    taken_over = config.init_from or chosen not in ("", SCRATCH)
    if classifier is None and taken_over and begun.classifier is not None:
        classifier = _classifier_of(begun, mode)
    if classifier is not None:
        _adopt_classifier(config, classifier)
    return Initial(origin=begun.source, classifier=classifier)


def _check_guide(
    config: ml_collections.ConfigDict, classifier: ClassifierDescription | None
) -> None:
    """Raises ConfigError if there is no classifier to guide a transfer, or it cannot guide."""
    if classifier is None:
        raise ConfigError(
            f"there is no classifier in {config.init_from} to guide the transfer: name a work "
            "directory of a pre-training with --config.classifier_from, or set --config.guidance=0"
        )
    labels = classifier.labels
    # A multi-hot classifier of one component is not trivial: the component may be absent.
    if not labels.multi_hot and len(labels.names) < 2:
        raise ConfigError(
            f"the classifier in {config.classifier_from or config.init_from} knows only "
            f"{labels.names[0]}, so it cannot guide: it would always be right. "
            "Choose another --config.classifier_from, or set --config.guidance=0"
        )


def adopt_architecture(config: ml_collections.ConfigDict, description: WeightsDescription) -> None:
    """Sets `config.model` to the architecture of the weights, with a warning if it changes."""
    model = {"name": description.architecture, **description.arguments}
    if any(config.model.get(key, value) != value for key, value in model.items()):
        logging.warning("network: %s, as in %s (config.model is ignored)", model, config.init_from)
    config.model = ml_collections.ConfigDict(model)


def guide_options(labels: Labels, tasks: tuple[task_sets.Task, ...]) -> dict[str, Any]:
    """Arguments of the transfer step: the guiding classifier's label of each task of the run.

    Raises:
        ConfigError: if the classifier does not know a task.
    """
    if unknown := labels.unknown(tasks):
        raise ConfigError(
            f"the classifier that guides the transfer does not know {', '.join(unknown)}; its "
            f"{labels.noun}: {', '.join(labels.names)}. Choose --config.tasks among them, another "
            "--config.classifier_from, or --config.guidance=0. Classes of a converted classifier "
            "are named by python -m dcpt_jax.convert --classes=..."
        )
    rows = labels.rows(tasks)
    if labels.multi_hot:
        return {"label_rows": rows}
    return {"label_of_task": tuple(rows.argmax(-1).tolist())}


def take_over_classifier(fresh: Any, inherited: Any, columns: tuple[tuple[int, int], ...]) -> Any:
    """Parameters of a classifier taken over; its head is resized to the outputs of the new one.

    Args:
        fresh: newly initialised parameters; the head keeps them for outputs that are new.
        inherited: parameters of the classifier to take over.
        columns: (old output, new output) of the shared outputs, from `Labels.shared_with`.
    """
    kept = {name: value for name, value in inherited.items() if name != HEAD}
    old_columns, new_columns = ([pair[side] for pair in columns] for side in (0, 1))
    head = jax.tree.map(
        lambda new, old: (
            jnp.asarray(new)
            .at[..., np.array(new_columns, int)]
            .set(jnp.asarray(old, new.dtype)[..., np.array(old_columns, int)])
        ),
        fresh[HEAD],
        inherited[HEAD],
    )
    return {**kept, HEAD: head}


def describe_origin(initial: Initial) -> str:
    """The origin of the initial weights, for messages."""
    origins = [initial.network_from or "scratch"]
    if "classifier" in initial.params and initial.classifier_from:
        origins.append(f"the classifier of {initial.classifier_from}")
    return " and ".join(origins)


def report(initial: Initial, mode: Mode, labels: Labels) -> list[str]:
    """Messages about what was taken over, resized or left out; none from scratch."""
    lines, description = [], initial.description
    if description is not None:
        averaged = "network" in description.averaged
        average = ", its moving average" if averaged else ""
        lines.append(f"network: taken over from {initial.network_from}{average}")
        earlier = MODES.get(description.mode)
        if earlier is not None and earlier.masks:
            lines.append(
                "network: its last layers are untrained, since masked pre-training skips them"
            )
    if initial.classifier is not None and "classifier" in initial.params:
        inherited, outputs = initial.classifier.labels, labels.names
        source = initial.classifier_from or initial.network_from
        shared = [outputs[i] for _, i in labels.shared_with(inherited)]
        change = (
            ""
            if inherited.kind == labels.kind
            else f" ({inherited.kind}, from now on {labels.kind})"
        )
        if mode.is_guided:
            lines.append(f"classifier: taken over from {source}, frozen; it guides the network")
        elif inherited.names == outputs or len(shared) == len(inherited.names) == len(outputs):
            lines.append(f"classifier: taken over from {source}{change}")
        else:
            new = [name for name in outputs if name not in shared]
            dropped = [name for name in inherited.names if name not in shared]
            lines.append(
                f"classifier: taken over from {source}{change}, its head resized from "
                f"{len(inherited.names)} to {len(outputs)} {labels.noun}; "
                f"kept: {', '.join(shared) or 'none'}; new: {', '.join(new) or 'none'}; "
                f"dropped: {', '.join(dropped) or 'none'}"
            )
    elif initial.params and mode.classifies:
        lines.append("classifier: from scratch")
    elif description is not None and description.classifier is not None:
        lines.append(f"classifier: not loaded from {initial.network_from}, as this stage has none")
    return lines


def _adopt_classifier(config: ml_collections.ConfigDict, classifier: ClassifierDescription) -> None:
    """Sets `config.classifier` to the classifier taken over, with a warning if it changes."""
    num_blocks = classifier.arguments["num_blocks"]
    if num_blocks != config.classifier.num_blocks:
        logging.warning(
            "classifier: num_blocks %d, as in the weights (config.classifier is ignored)",
            num_blocks,
        )
    config.classifier.num_blocks = num_blocks


def _check_recipe(config: ml_collections.ConfigDict, architecture: str) -> None:
    """Raises ConfigError if the config has the published figures of another backbone."""
    if config.recipe in ("", architecture):
        return
    tasks = config.tasks if isinstance(config.tasks, str) and "," not in config.tasks else ""
    preset = ",".join(filter(None, (architecture, tasks)))
    raise ConfigError(
        f"the network in {config.init_from} is a {architecture}, but this config has the values "
        f"published for {config.recipe}: use --config=configs/{config.mode}.py:{preset}, or "
        "--config.recipe= to keep these values, but with the numbers of samples for nafnet"
    )


def _classifier_of(description: WeightsDescription, mode: Mode) -> ClassifierDescription:
    classifier = description.classifier
    if classifier.arguments.get("image_input"):
        raise ConfigError(
            "the classifier of these weights takes the image as well; training uses "
            "classifiers of features alone. Set --config.classifier_from to another, or "
            + ("--config.guidance=0" if mode.is_guided else f"to {SCRATCH} for a new one")
        )
    return classifier


def _run_of(description: WeightsDescription) -> dict[str, Any]:
    """The record in `model.json` of the run that wrote some weights."""
    return {"mode": description.mode, "steps": description.steps}
