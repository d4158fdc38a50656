"""`model.json`, the typed description of weights: its only reader and writer."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn

from dcpt_jax import files, models
from dcpt_jax.labels import FLAT, KINDS, MULTI_HOT, Labels

DESCRIPTION = "model.json"
FORMAT = 1
CONVERTED = "converted"  # mode of weights from other programs

Params = dict[str, Any]
Arguments = dict[str, Any]  # keyword arguments of a module; sequences are tuples

_MOST = 2**53  # largest integer; `_LARGEST` has those of network sizes
_LARGEST = 2**16
_BLOCK_COUNTS = {
    *("encoder_blocks", "middle_blocks", "decoder_blocks"),
    *("num_blocks", "num_refinement_blocks", "depths"),
}
_LONGEST = 10_000  # longest list of names, and longest text in characters


class WeightsError(ValueError):
    """Weights that are damaged or have an invalid description."""


@dataclasses.dataclass(frozen=True)
class ClassifierDescription:
    """A classifier, without its parameters."""

    arguments: Arguments
    labels: Labels

    def module(self, **changes: Any) -> nn.Module:
        """Creates the classifier, with some keyword arguments changed."""
        return models.create_classifier(**{**self.arguments, **changes})


@dataclasses.dataclass(frozen=True)
class Checksums:
    """CRC-32 of a weights folder."""

    description: int  # of everything else in `model.json`
    arrays: Mapping[str, int]  # by name, e.g. "network/intro/kernel"


@dataclasses.dataclass(frozen=True)
class WeightsDescription:
    """Architecture and origin of weights.

    Attributes:
        architecture: name for `create_model`.
        arguments: keyword arguments for `create_model`.
        classifier: the degradation classifier beside the network, or None.
        task_set: name of the task set, or the classes joined by commas; "" if unknown.
        classes: names of the classes trained on, in index order; () if unknown.
        mode: of the run that trained the parameters.
        steps: of that run, up to here.
        crop_size: of its training crops, in pixels.
        averaged: parts stored as their moving average, "network" and "classifier".
        source: what the run was initialised from, see `_SOURCE` for the keys.
        metrics: means over its last steps.
        best: step and metrics of its best checkpoint, if it was validated.
        guide: the classifier that guided a transfer, needed to continue it.
        checksums: of the folder; None in checkpoints, which store checksums of files.
    """

    architecture: str
    arguments: Arguments
    classifier: ClassifierDescription | None = None
    task_set: str = ""
    classes: tuple[str, ...] = ()
    mode: str = CONVERTED
    steps: int | None = None
    crop_size: int | None = None
    averaged: tuple[str, ...] = ()
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    best: Mapping[str, Any] | None = None
    guide: ClassifierDescription | None = None
    checksums: Checksums | None = None

    def network(self, **changes: Any) -> nn.Module:
        """Creates the network, with some keyword arguments changed."""
        return models.create_model(self.architecture, **{**self.arguments, **changes})

    def required_classifier(self, path: Path | str | None) -> ClassifierDescription:
        """The classifier.

        Args:
            path: location of the weights for the message; None: the bundled ones.

        Raises:
            WeightsError: if the weights have no classifier.
        """
        if self.classifier is None:
            raise WeightsError(
                f"{path or 'the bundled network'}: these weights contain no classifier; use those "
                "of the pre-training that they started from, or train a classifier with "
                "configs/classify.py and --config.init_from"
            )
        return self.classifier

    def to_json(self) -> dict[str, Any]:
        """The content of `model.json`."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "architecture": self.architecture,
            "arguments": self.arguments,
            "classifier": None,
            "task_set": self.task_set,
            "classes": list(self.classes),
        }
        if self.classifier is not None:
            content["classifier"] = self.classifier.arguments
            content |= self.classifier.labels.to_json()
        content |= {"mode": self.mode}
        content |= {"steps": self.steps, "crop_size": self.crop_size}
        content |= {"averaged": list(self.averaged), "source": dict(self.source)}
        content |= {"metrics": dict(self.metrics)}
        if self.best is not None:
            content["best"] = dict(self.best)
        if self.guide is not None:
            content["guide"] = {"arguments": self.guide.arguments, **self.guide.labels.to_json()}
        if self.checksums is not None:
            content["checksums"] = dataclasses.asdict(self.checksums)
        return json.loads(json.dumps(content))  # tuples become lists, as in the file

    def with_checksums(self, arrays: Mapping[str, int]) -> WeightsDescription:
        """Returns a copy with the checksums of a weights folder.

        Args:
            arrays: checksum of each array by its name.
        """
        content = dataclasses.replace(self, checksums=None).to_json()
        checksums = Checksums(files.crc32_of_json(content), dict(arrays))
        return dataclasses.replace(self, checksums=checksums)


def describe(
    network: nn.Module,
    classifier: nn.Module | None = None,
    *,
    labels: Labels | None = None,
    **fields: Any,
) -> WeightsDescription:
    """Describes parameters of a network, and perhaps of a classifier.

    Args:
        network: restoration network.
        classifier: degradation classifier, or None.
        labels: of the classifier.
        **fields: further attributes of `WeightsDescription`, e.g. `metrics`, `source`, `crop_size`.
    """
    described = None
    if classifier is not None and labels is not None:
        described = ClassifierDescription(_tuples(classifier.arguments()), labels)
    return WeightsDescription(
        network.architecture, _tuples(network.arguments()), described, **fields
    )


def local_converter_size(network: nn.Module, crop: int) -> int:
    """The `tlc_size` for a network that was trained on crops of this number of pixels.

    Rounded up, as networks require a size that fits all their levels.
    """
    return -(-int(crop) // network.size_multiple) * network.size_multiple


def block_count(arguments: Mapping[str, Any]) -> int:
    """Number of blocks of a network with these keyword arguments."""
    counts = [value for name, value in arguments.items() if name in _BLOCK_COUNTS]
    return sum(sum(value) if isinstance(value, tuple) else value for value in counts)


def write_description(file: Path, description: WeightsDescription) -> None:
    """Writes a `model.json` with one key per line.

    Raises:
        OSError: if it cannot be written.
    """
    lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in description.to_json().items()]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def read_description(file: Path) -> WeightsDescription:
    """Reads a `model.json`.

    Raises:
        OSError: if it cannot be read.
        WeightsError: naming the file, the key, its value and what is allowed.
    """
    return parse_description(read_json(file), file)


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: if it cannot be read.
        WeightsError: if it is not valid JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{file} is damaged: it is not JSON ({error})") from error


def parse_description(content: Any, file: Path | str) -> WeightsDescription:
    """Parses the content of a `model.json`, or the equivalent in a checkpoint.

    Args:
        content: JSON values.
        file: its origin, for messages.

    Raises:
        WeightsError: naming the file, the key, its value and what is allowed.
    """
    try:
        return _description(content)
    except _InvalidValue as wrong:
        raise WeightsError(f"{file} is not a valid description of weights: {wrong}") from wrong


# The parser: a kind is a function that parses one JSON value, or raises `_InvalidValue`.


class _InvalidValue(Exception):
    """An invalid value; names the key, its value and what is allowed."""

    def __init__(self, key: str, value: Any, allowed: str):
        if isinstance(value, Exception):
            shown = str(value)
        else:
            shown = json.dumps(value)
            shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        super().__init__(f"{key or 'its content'} is {shown}; allowed: {allowed}")


_Kind = Callable[[str, Any], Any]
_REQUIRED: Any = object()


def _integer(least: int, most: int) -> _Kind:
    def read(key: str, value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise _InvalidValue(key, value, f"an integer from {least} to {most:,}")
        return value

    return read


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST or "\0" in value:
        raise _InvalidValue(key, value, f"a text of at most {_LONGEST:,} characters")
    return value


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _InvalidValue(key, value, "true or false")
    return value


def _number(key: str, value: Any) -> float:
    if type(value) not in (int, float) or (type(value) is int and abs(value) > _MOST):
        raise _InvalidValue(key, value, "a number")
    return value


def _one_of(*known: Any) -> _Kind:
    def read(key: str, value: Any) -> Any:
        if type(value) is not type(known[0]) or value not in known:
            raise _InvalidValue(key, value, ", ".join(map(str, known)))
        return value

    return read


def _architecture(key: str, value: Any) -> str:
    if not isinstance(value, str) or value not in models.BACKBONES:
        known = ", ".join(models.BACKBONES)
        raise _InvalidValue(
            key,
            value,
            f"{known}, or a registered one, after importing the module that registers it",
        )
    return value


def _names(key: str, value: Any) -> tuple[str, ...]:
    listed = isinstance(value, list) and len(value) <= _LONGEST
    if not listed or not all(isinstance(name, str) and name for name in value):
        raise _InvalidValue(key, value, "a list of names")
    if len(set(value)) < len(value):
        raise _InvalidValue(key, value, "a list of distinct names")
    return tuple(value)


def _optional(kind: _Kind) -> _Kind:
    return lambda key, value: None if value is None else kind(key, value)


def _values(kind: _Kind) -> _Kind:
    """An object with arbitrary keys and values of one kind."""

    def read(key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _InvalidValue(key, value, "a JSON object")
        return {name: kind(f"{key}.{name}", item) for name, item in value.items()}

    return read


def _keys(known: Mapping[str, tuple[_Kind, Any]]) -> _Kind:
    """An object with known keys, each with its kind and its default or `_REQUIRED`."""

    def read(key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _InvalidValue(key, value, "a JSON object")
        prefix = f"{key}." if key else ""
        for name in value:
            if name not in known:
                raise _InvalidValue(f"the key {prefix}{name[:60]}", value[name], ", ".join(known))
        values = {}
        for name, (kind, default) in known.items():
            if name in value:
                values[name] = kind(prefix + name, value[name])
            elif default is _REQUIRED:
                raise _InvalidValue(
                    prefix + name, LookupError("missing"), "a value, as the key is required"
                )
            elif default is not None:
                values[name] = default
        return values

    return read


_count = _integer(0, _MOST)
_crc = _integer(0, 2**32 - 1)
_METRICS = _values(_number)
_RUN = {"mode": (_text, None), "steps": (_optional(_count), None)}
_SOURCE = _keys(
    {
        "init_from": (_text, None),
        "classifier_from": (_keys({"path": (_text, _REQUIRED), **_RUN}), None),
        **_RUN,
        # For converted weights: the file, its entry, and the layout of names if MaskDCPT's.
        "file": (_text, None),
        "entry": (_text, None),
        "layout": (_text, None),
    }
)
_LABELS = {"label": (_one_of(*KINDS), FLAT), "components": (_names, None)}
_KEYS = _keys(
    {
        "format": (_one_of(FORMAT), _REQUIRED),
        "architecture": (_architecture, _REQUIRED),
        "arguments": (_values(lambda _, value: value), _REQUIRED),
        "classifier": (_optional(_values(lambda _, value: value)), _REQUIRED),
        "task_set": (_text, _REQUIRED),
        "classes": (_names, _REQUIRED),
        **_LABELS,
        "mode": (_text, CONVERTED),
        "steps": (_optional(_count), None),
        "crop_size": (_optional(_integer(1, _LARGEST)), None),
        "averaged": (_names, ()),
        "source": (_SOURCE, {}),
        "metrics": (_METRICS, {}),
        "best": (_keys({"step": (_count, _REQUIRED), "metrics": (_METRICS, _REQUIRED)}), None),
        "guide": (
            _keys(
                {
                    "arguments": (_values(lambda _, value: value), _REQUIRED),
                    "classes": (_names, ()),
                    **_LABELS,
                }
            ),
            None,
        ),
        "checksums": (
            _keys({"description": (_crc, _REQUIRED), "arrays": (_values(_crc), _REQUIRED)}),
            None,
        ),
    }
)


def _description(content: Any) -> WeightsDescription:
    fields = _KEYS("", content)
    del fields["format"]
    architecture = fields["architecture"]
    fields["arguments"] = _arguments(
        "arguments",
        fields["arguments"],
        lambda **given: models.create_model(architecture, **given),
        checked=models.BACKBONES[architecture].__module__.startswith(models.__name__),
    )
    labels = {key: fields.pop(key) for key in ("label", "components") if key in fields}
    if (arguments := fields.pop("classifier", None)) is not None:
        labels |= {"classes": fields["classes"]}
        fields["classifier"] = _classifier("classifier", {"arguments": arguments, **labels})
    if "guide" in fields:
        fields["guide"] = _classifier("guide.arguments", fields["guide"])
    if "checksums" in fields:
        fields["checksums"] = Checksums(**fields["checksums"])
        unsigned = {key: value for key, value in content.items() if key != "checksums"}
        if files.crc32_of_json(unsigned) != fields["checksums"].description:
            raise _InvalidValue(
                "the checksum of its content",
                files.crc32_of_json(unsigned),
                f"{fields['checksums'].description}; if the file was edited on purpose, remove the "
                "key checksums",
            )
    return WeightsDescription(**fields)


def _classifier(key: str, content: Mapping[str, Any]) -> ClassifierDescription:
    if content["label"] == MULTI_HOT and "components" not in content:
        raise _InvalidValue(
            "components", LookupError("missing"), "a list of names, for multi_hot labels"
        )
    labels = Labels.from_json(content)
    arguments = _arguments(key, content["arguments"], models.create_classifier)
    if arguments["num_classes"] != len(labels.names):
        count = f"{len(labels.names)}, the number of {labels.noun}"
        raise _InvalidValue(f"{key}.num_classes", arguments["num_classes"], count)
    return ClassifierDescription(arguments, labels)


def _arguments(
    key: str, given: dict[str, Any], create: Callable[..., nn.Module], *, checked: bool = True
) -> Arguments:
    """The keyword arguments of a module, with its defaults for missing ones.

    `checked`: whether their types must be those of the defaults; a plugin's network may take any.
    """
    needed = {"feature_dims": (1,), "num_classes": 1} if create is models.create_classifier else {}
    try:
        known = create(**needed, **({"image_input": True} if needed else {})).arguments()
    except TypeError:  # a user's network whose arguments have no defaults
        known = given
    for name, value in given.items():
        if name not in known:
            raise _InvalidValue(f"the key {key}.{name[:60]}", value, ", ".join(known))
        if checked:
            _check_like(f"{key}.{name}", value, known[name])
    for name in needed:
        if name not in given:
            raise _InvalidValue(
                f"{key}.{name}", LookupError("missing"), "a value, as the key is required"
            )
    try:
        return _tuples(create(**_tuples(given)).arguments())
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _InvalidValue(key, error, "arguments that the module accepts") from error


def _check_like(key: str, value: Any, example: Any) -> None:
    """Raises `_InvalidValue` unless a keyword argument has the type of an example."""
    if example is None:  # NAFNet's `tlc_size`
        if value is not None:
            _check_like(key, value, [1] if isinstance(value, list) else 1)
    elif isinstance(example, bool):
        _flag(key, value)
    elif isinstance(example, int):
        _integer(0, _LARGEST)(key, value)
    elif isinstance(example, float):
        if not math.isfinite(_number(key, value)) or not abs(value) <= _LARGEST:
            raise _InvalidValue(key, value, f"a number of at most {_LARGEST:,}")
    elif isinstance(example, str):
        _text(key, value)
    else:
        if not isinstance(value, list) or not 0 < len(value) <= 64:
            raise _InvalidValue(key, value, "a list of 1 to 64 integers")
        for number in value:
            _integer(0, _LARGEST)(key, number)


def _tuples(arguments: Mapping[str, Any]) -> Arguments:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
