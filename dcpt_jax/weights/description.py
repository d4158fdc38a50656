"""What `model.json` says of parameters: enough to rebuild the modules they belong to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn

from dcpt_jax import models

DESCRIPTION = "model.json"
FLAT, MULTI_HOT = "flat", "multi_hot"  # kinds of labels, see `outputs_of`

NO_CLASSIFIER = (
    "these weights hold no classifier; take those of the pre-training that they grew from, or "
    "train a classifier for them with configs/classify.py and --config.init_from"
)

Params = dict[str, Any]


def describe(
    network: nn.Module,
    classifier: nn.Module | None,
    *,
    task_set: str,
    classes: tuple[str, ...],
    components: tuple[str, ...] = (),
    **extra: Any,
) -> dict[str, Any]:
    """What `model.json` says: enough to rebuild the modules, and where the weights came from.

    Args:
        network: restoration network.
        classifier: degradation classifier, or None.
        task_set: name of the task set, or the classes joined by commas.
        classes: class names in index order.
        components: what the logits of a multi-hot classifier stand for; () for a flat one, whose
            logits are those of the classes.
        **extra: further JSON values, e.g. `metrics`, `source`, `crop_size`.
    """
    return {
        "format": 1,
        "architecture": network.architecture,
        "arguments": network.arguments(),
        "classifier": classifier.arguments() if classifier is not None else None,
        "task_set": task_set,
        "classes": list(classes),
        **({} if classifier is None else _label(components)),
        **extra,
    }


def _label(components: tuple[str, ...]) -> dict[str, Any]:
    return {"label": MULTI_HOT, "components": list(components)} if components else {"label": FLAT}


def outputs_of(description: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """What the logits of a classifier say.

    Args:
        description: content of `model.json`, or of the part of it that a run keeps; where it has no
            label, it was written before there was another than `FLAT`.

    Returns:
        (`FLAT`, class names): the softmax over all logits tells the class, or (`MULTI_HOT`, names
        of components): the sigmoid of each logit tells whether the component is there.
    """
    if description.get("label", FLAT) == MULTI_HOT:
        return MULTI_HOT, tuple(description["components"])
    return FLAT, tuple(description["classes"])


def holds_classifier(params: Params, description: Mapping[str, Any]) -> bool:
    """Whether weights hold a classifier beside the network."""
    return description["classifier"] is not None and "classifier" in params


def network_of(description: Mapping[str, Any], **changes: Any) -> nn.Module:
    """The network that a description names, with some keyword arguments changed."""
    arguments = {**_tuples(description["arguments"]), **changes}
    return models.create_model(description["architecture"], **arguments)


def classifier_of(description: Mapping[str, Any], **changes: Any) -> nn.Module:
    """The classifier that a description names, with some keyword arguments changed."""
    return models.create_classifier(**{**_tuples(description["classifier"]), **changes})


def local_converter_size(network: nn.Module, crop: int) -> int:
    """The `tlc_size` for a network that was trained on crops of this many pixels.

    Networks take only sizes that suit all their levels, so it is rounded up to one.
    """
    return -(-int(crop) // network.size_multiple) * network.size_multiple


def parse(content: Any) -> dict[str, Any]:
    """Content of `model.json`, once it is known to be one that this version reads.

    Raises:
        ValueError: if it is not.
    """
    try:
        if content["format"] != 1:
            raise ValueError(f"format {content['format']} is newer than this version reads")
        return content
    except (KeyError, TypeError) as error:
        raise ValueError(str(error)) from error


def read_description(file: Path) -> dict[str, Any]:
    """Reads a `model.json`.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged, or of a format that this version does not know.
    """
    try:
        return parse(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{file} does not describe weights: {error}") from error


def _tuples(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
