"""What a run trains on: each class with the source of its photos or pairs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from dcpt_jax.data.sources import PhotoSource
from dcpt_jax.data.tasks import Task


@dataclasses.dataclass(frozen=True)
class TrainingClass:
    """One class of a run together with its items.

    Attributes:
        task: name, degradation, and `repeats` as finally decided.
        source: the class's items, a sequence of clean photos or of pairs; see `data.sources`.
        origin: what the items are, for people: "synthetic rain on 11 photos".
        is_synthetic: True where the items are clean photos, to which `task.degradation` is applied;
            False for pairs.
        test_set: the published test set whose images these all are: "rain100l", or for clean
            photos with what degrades them, "cbsd68 noise:25"; "" for other items.
    """

    task: Task
    source: Any
    origin: str
    is_synthetic: bool
    test_set: str = ""

    @property
    def name(self) -> str:
        """The class's name."""
        return self.task.name


def synthetic_classes(tasks: Sequence[Task], photos: PhotoSource) -> tuple[TrainingClass, ...]:
    """Every task as a synthetic degradation of the same clean photos, which share one cache."""
    return tuple(
        TrainingClass(
            task, photos, synthetic_origin(task, f"{len(photos)} photos"), is_synthetic=True
        )
        for task in tasks
    )


def synthetic_origin(task: Task, photos: str) -> str:
    """What the items of a synthetic class are, for people.

    Args:
        task: the class.
        photos: how many of which photos, "11 photos".
    """
    if task.degradation == "clean":
        return f"{photos}, as they are"
    return f"synthetic {task.degradation} on {photos}"
