"""Task sets: order, names and errors."""

import pytest

from dcpt_jax import degradations
from dcpt_jax.data import tasks
from dcpt_jax.data.tasks import Task, resolve_tasks


def names(found):
    return [task.name for task in found]


def test_order_of_the_paper_is_the_class_index():
    # Weights carry the classes as numbers: this order must never change.
    assert names(resolve_tasks("5d")) == ["rain", "noise", "haze", "low_light", "motion_blur"]


def test_every_task_of_every_set_has_a_known_degradation():
    for found in tasks.TASK_SETS.values():
        for task in found:
            assert degradations.parse(task.degradation)
            assert task.repeats >= 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("haze", ["haze"]),
        (("noise", "low_light+rain"), ["noise", "low_light+rain"]),
        (["noise:25", "haze"], ["noise:25", "haze"]),
        ("haze, noise", ["haze", "noise"]),
        (" low_light + rain ", ["low_light+rain"]),
        (("5d", "low_light+haze"), [*names(tasks.TASK_SETS["5d"]), "low_light+haze"]),
        (Task("mine", "rain:1", 3), ["mine"]),
    ],
)
def test_what_can_be_asked_for(given, expected):
    assert names(resolve_tasks(given)) == expected


def test_resolving_the_names_of_tasks_gives_the_tasks():
    found = resolve_tasks(("low_light+rain", "noise:25", "haze"))
    assert resolve_tasks(tuple(names(found))) == found
    assert found[1] == Task("noise:25", "noise:25", 1)


def test_ready_tasks_are_kept():
    mine = (Task("a", "rain", 3), Task("b", "haze"))
    assert resolve_tasks(mine) == mine


@pytest.mark.parametrize("given", ["fog", "5D", ("haze", "fog"), "haze+fog", "noise:much"])
def test_unknown_names_list_the_known_ones(given):
    with pytest.raises(ValueError, match=r"unknown task set or class .*task sets: 5d; classes: "):
        resolve_tasks(given)


@pytest.mark.parametrize("given", [(), "", ",", ("",)])
def test_no_class_is_refused(given):
    with pytest.raises(ValueError, match=r"task sets: 5d; classes: .*haze"):
        resolve_tasks(given)


def test_a_class_may_occur_once_only():
    with pytest.raises(ValueError, match="given more than once: haze"):
        resolve_tasks(("5d", "haze"))


@pytest.mark.parametrize("repeats", [0, -1, 1.5])
def test_repeats_are_whole_numbers(repeats):
    with pytest.raises(ValueError, match=f"repeats of 'a' .*{repeats}"):
        resolve_tasks(Task("a", "rain", repeats))
