"""Labels of a classifier: one of several classes, or several independent degradations.

A flat classifier has one logit per class and predicts a class by softmax. A multi-hot classifier
has one logit per component (the single degradations that classes consist of) and predicts by a
sigmoid whether each is present. NumPy only: nothing here imports JAX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dcpt_jax import degradations
from dcpt_jax.data.tasks import Task

FLAT, MULTI_HOT = "flat", "multi_hot"
KINDS = (FLAT, MULTI_HOT)
CLEAN = "clean"  # a class without components


@dataclasses.dataclass(frozen=True)
class Labels:
    """The labels of a classifier.

    Attributes:
        names: of the classes (flat) or the components (multi-hot), in the order of the logits.
        kind: `FLAT` or `MULTI_HOT`.
    """

    names: tuple[str, ...]
    kind: str = FLAT

    @classmethod
    def of_tasks(cls, tasks: Sequence[Task], kind: str = FLAT) -> Labels:
        """Labels of a classifier for some classes; components are ordered by first appearance."""
        parts = (_parts(task, kind) for task in tasks)
        return cls(tuple(dict.fromkeys(name for names in parts for name in names)), kind)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Labels:
        """Labels from the keys written by `to_json`."""
        kind = content.get("label", FLAT)
        return cls(tuple(content["classes" if kind == FLAT else "components"]), kind)

    def to_json(self) -> dict[str, Any]:
        """The labels as JSON values, without the classes of a multi-hot classifier."""
        if self.kind == FLAT:
            return {"label": FLAT, "classes": list(self.names)}
        return {"label": MULTI_HOT, "components": list(self.names)}

    @property
    def multi_hot(self) -> bool:
        """Whether each logit is independent."""
        return self.kind == MULTI_HOT

    @property
    def noun(self) -> str:
        """The word for the names in messages: class or component."""
        return "components" if self.multi_hot else "classes"

    def unknown(self, tasks: Sequence[Task]) -> tuple[str, ...]:
        """Classes or components of some tasks that have no logit.

        A multi-hot classifier needs neither mixtures nor "clean" among its names.
        """
        required = Labels.of_tasks(tasks, self.kind).names
        return tuple(name for name in required if name not in self.names)

    def rows(self, tasks: Sequence[Task]) -> np.ndarray:
        """The labels of each task, uint8 [tasks, names] of 0 and 1."""
        if unknown := self.unknown(tasks):
            raise ValueError(f"{', '.join(unknown)}: not among the {self.noun} {self.names}")
        rows = [[name in _parts(task, self.kind) for name in self.names] for task in tasks]
        return np.array(rows, np.uint8).reshape(len(tasks), len(self.names))

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """Predictions for logits [..., names], uint8: one-hot if flat, else logits > 0."""
        logits = np.asarray(logits)
        if self.multi_hot:
            return (logits > 0).astype(np.uint8)
        return np.eye(logits.shape[-1], dtype=np.uint8)[logits.argmax(-1)]

    def probabilities(self, logits: np.ndarray) -> dict[str, float]:
        """Probability of each name, the largest first."""
        logits = np.asarray(logits, np.float64)
        if self.multi_hot:
            probabilities = np.exp(-np.logaddexp(0, -logits))
        else:
            probabilities = np.exp(logits - np.logaddexp.reduce(logits))
        return {
            self.names[i]: float(probabilities[i])
            for i in np.argsort(-probabilities, kind="stable")
        }

    def verdict(self, probabilities: Mapping[str, float]) -> str:
        """The most probable class; or all components above 0.5 joined by "+", or `CLEAN`."""
        if not self.multi_hot:
            return next(iter(probabilities))
        present = [name for name, probability in probabilities.items() if probability > 0.5]
        return "+".join(present) or CLEAN

    def shared_with(self, other: Labels) -> tuple[tuple[int, int], ...]:
        """(position there, position here) of the shared names, in the order of these labels.

        A class "rain" matches a component "rain"; mixtures have no component. Converted classifiers
        may lack names and have only `class_0`, `class_1` and so on: these are matched by position
        if both are of the same kind and number.
        """
        numbered = other.names == numbered_names(len(other.names))
        if numbered and other.kind == self.kind and len(other.names) == len(self.names):
            return tuple((i, i) for i in range(len(self.names)))
        position = {name: i for i, name in enumerate(other.names)}
        return tuple((position[name], i) for i, name in enumerate(self.names) if name in position)


def numbered_names(count: int) -> tuple[str, ...]:
    """Names of the classes of a classifier without names: `class_0`, `class_1` and so on."""
    return tuple(f"class_{i}" for i in range(count))


def _parts(task: Task, kind: str) -> tuple[str, ...]:
    """The names of one task: its own, or its degradations without their strengths."""
    if kind == FLAT:
        return (task.name,)
    parts = degradations.parse(task.degradation)
    return tuple(part.name for part, _ in parts if part.name != CLEAN)
