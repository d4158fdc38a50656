"""Task sets: which degradations a run trains on, as data.

The position of a task in its set is the class label, so an order once published never changes.
"""

import dataclasses
from collections.abc import Sequence

from dcpt_jax import degradations


@dataclasses.dataclass(frozen=True)
class Task:
    """One class of a run.

    Attributes:
        name: class name, unique within a set.
        degradation: spec of the synthetic degradation that stands in for the class's data, as
            `degradations.parse` takes it: "rain", "noise:25", "low_light+haze".
        repeats: how often the class is drawn in relation to the others, >= 1.
    """

    name: str
    degradation: str
    repeats: int = 1


TASK_SETS: dict[str, tuple[Task, ...]] = {
    # The class order of DCPT's five-degradation setting.
    "5d": (
        Task("rain", "rain"),
        Task("noise", "noise"),
        Task("haze", "haze"),
        Task("low_light", "low_light"),
        Task("motion_blur", "motion_blur"),
    ),
}


def class_names() -> tuple[str, ...]:
    """Names of all single classes that can be asked for."""
    return degradations.names()


def resolve_tasks(names: str | Task | Sequence[str | Task]) -> tuple[Task, ...]:
    """Turns what a config says into tasks; the index in the result is the class label.

    Args:
        names: a task set ("5d"), a class ("haze"), a mixture or fixed strength ("low_light+rain",
            "noise:25"), a ready `Task`, or several of these as a sequence or separated by commas.
            A mixture is a class of its own, named as it is written.

    Raises:
        ValueError: for unknown names (the message lists the known sets and classes), for none, for
            a class that occurs twice, and for repeats below 1.
    """
    if isinstance(names, str):
        names = names.split(",")
    elif isinstance(names, Task):
        names = (names,)
    tasks = []
    for name in names:
        tasks.extend((name,) if isinstance(name, Task) else _tasks_named(name))
    if not tasks:
        raise ValueError(f"no class given; {_known()}")
    found = [task.name for task in tasks]
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise ValueError(f"given more than once: {', '.join(twice)}")
    for task in tasks:
        if not isinstance(task.repeats, int) or task.repeats < 1:
            raise ValueError(f"repeats of {task.name!r} must be an integer >= 1: {task.repeats!r}")
    return tuple(tasks)


def _tasks_named(name: str) -> tuple[Task, ...]:
    spec = "".join(name.split())
    if spec in TASK_SETS:
        return TASK_SETS[spec]
    try:
        degradations.parse(spec)
    except ValueError as error:
        raise ValueError(f"unknown task set or class {name!r} ({error}); {_known()}") from error
    return (Task(spec, spec),)


def _known() -> str:
    return f"task sets: {', '.join(TASK_SETS)}; classes: {', '.join(class_names())}"
