"""Task sets: order, names, published data, components and errors."""

import pytest

from dcpt_jax import degradations
from dcpt_jax.data import tasks
from dcpt_jax.data.tasks import Task, resolve_tasks


def names(found):
    return [task.name for task in found]


# Weights carry the classes as numbers: these orders must never change.
ORDER = {
    "5d": ["rain", "noise", "haze", "low_light", "motion_blur"],
    "10d": [
        *("noise", "motion_blur", "defocus_blur", "jpeg", "haze"),
        *("rain", "snow", "mosaic", "low_light", "inpainting"),
    ],
    "cdd11": [
        *("low_light", "haze", "rain", "snow"),
        *("low_light+haze", "low_light+rain", "low_light+snow", "rain+haze", "snow+haze"),
        *("low_light+rain+haze", "low_light+snow+haze"),
    ],
}


def test_order_of_the_papers_is_the_class_index():
    assert {name: names(resolve_tasks(name)) for name in tasks.TASK_SETS} == ORDER


def test_published_numbers_of_samples():
    """Items times repeats, as the papers count their items."""
    found = {name: [task.samples for task in found] for name, found in tasks.TASK_SETS.items()}
    before, after = zip(*found["5d"], strict=True)
    assert before == (13_702, 85_443, 72_135, 13_830, 16_824)
    assert after == (60_000, 683_544, 72_135, 77_600, 84_120)
    before, after = zip(*found["10d"], strict=True)
    others = (69_635, 67_296, 63_000, 69_635, 61_830)
    assert before == (*others, 68_510, 50_000, 69_635, 69_150, 69_635)
    assert after == (*others, 72_000, 50_000, 69_635, 69_150, 69_635)
    assert found["cdd11"] == [(1_183, 1_183)] * 11
    assert all(task.repeats == 1 for found in tasks.TASK_SETS.values() for task in found)


def test_published_data_of_the_stages():
    rain = tasks.TASK_SETS["5d"][0]
    assert rain.published("pretrain") == (("rain13k",), 13_702)
    assert rain.published("restore") == (("rain200h", "rain200l"), 60_000)
    assert tasks.TASK_SETS["10d"][5].published("restore") == (("rain200h", "rain200l"), 72_000)
    haze = tasks.TASK_SETS["5d"][2]
    assert haze.published("pretrain") == haze.published("restore") == (("reside_ots",), 72_135)
    assert Task("a", "rain").published("restore") == ((), 0)
    assert all(task.datasets for found in tasks.TASK_SETS.values() for task in found)


def test_short_names_are_those_of_cdd11_in_its_order():
    short = ("l", "h", "r", "s", "l+h", "l+r", "l+s", "h+r", "h+s", "l+h+r", "l+h+s")
    assert tuple(tasks.SHORT_NAMES) == short
    assert names(resolve_tasks(short)) == ORDER["cdd11"]
    with pytest.raises(ValueError, match="unknown task set or class 'h\\+l'"):
        resolve_tasks("h+l")
    assert resolve_tasks("l+h+r") == tasks.TASK_SETS["cdd11"][9:10]
    for task in tasks.TASK_SETS["cdd11"]:  # low light, then rain or snow, then haze
        places = {"low_light": 0, "rain": 1, "snow": 1, "haze": 2}
        found = [places[part] for part in task.degradation.split("+")]
        assert found == sorted(set(found))


def test_every_task_of_every_set_has_a_known_degradation():
    for found in tasks.TASK_SETS.values():
        for task in found:
            assert degradations.parse(task.degradation)


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
        ("h, l+r", ["haze", "low_light+rain"]),
    ],
)
def test_accepted_names_of_tasks(given, expected):
    assert names(resolve_tasks(given)) == expected


def test_resolving_the_names_of_tasks_gives_the_tasks():
    found = resolve_tasks(("low_light+rain", "noise:25", "haze"))
    assert resolve_tasks(tuple(names(found))) == found
    assert found[1] == Task("noise:25", "noise:25")


def test_a_class_brings_its_data_from_the_first_set_that_has_it():
    assert resolve_tasks("haze,rain") == (tasks.TASK_SETS["5d"][2], tasks.TASK_SETS["5d"][0])
    assert resolve_tasks("snow") == (tasks.TASK_SETS["10d"][6],)
    assert resolve_tasks("low_light+haze")[0].datasets == ("cdd11",)
    assert resolve_tasks("haze+low_light")[0].datasets == ()  # another order, other images


def test_tasks_of_weights_are_those_of_their_set():
    ten = tasks.TASK_SETS["10d"]
    assert tasks.resolve_trained("10d", names(ten)) == ten
    assert tasks.resolve_trained("gone", ["haze", "l"]) == resolve_tasks("haze,low_light")
    assert tasks.resolve_trained("10d", ["haze"]) == resolve_tasks("haze")  # its classes were named
    with pytest.raises(ValueError, match="class_0"):
        tasks.resolve_trained("class_0,class_1", ["class_0", "class_1"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("haze", "haze"),
        (" low_light + rain", "low_light+rain"),
        ("l+h+s", "low_light+snow+haze"),
        ("noise:25", "noise:25"),
        *((name, None) for name in ("5d", "haze,rain", "fog", "", "haze+", "noise:much")),
    ],
)
def test_the_class_that_a_text_means(given, expected):
    assert tasks.class_named(given) == expected


def test_clean_is_a_class():
    resolved = resolve_tasks("clean,rain,rain+haze")
    assert names(resolved) == ["clean", "rain", "rain+haze"]
    with pytest.raises(ValueError, match="'clean' means no degradation"):
        resolve_tasks("clean+rain")
    assert tasks.class_named("clean") == "clean" and tasks.class_named("clean:1") is None


def test_ready_tasks_are_kept():
    mine = (Task("a", "rain", 3), Task("b", "haze"))
    assert resolve_tasks(mine) == mine


@pytest.mark.parametrize("given", ["fog", "5D", ("haze", "fog"), "haze+fog", "noise:much"])
def test_unknown_names_list_the_known_ones(given):
    message = r"unknown task set or class .*task sets: 5d, 10d, cdd11; classes: "
    with pytest.raises(ValueError, match=message) as caught:
        resolve_tasks(given)
    assert str(caught.value).count("poisson_noise") == 1  # the list, once


@pytest.mark.parametrize("given", [(), "", ",", ("",)])
def test_no_class_is_refused(given):
    with pytest.raises(ValueError, match=r"task sets: 5d, 10d, cdd11; classes: .*haze"):
        resolve_tasks(given)


def test_a_class_may_occur_once_only():
    with pytest.raises(ValueError, match="given more than once: haze"):
        resolve_tasks(("5d", "haze"))


@pytest.mark.parametrize("repeats", [0, -1, 1.5])
def test_repeats_are_whole_numbers(repeats):
    with pytest.raises(ValueError, match=f"repeats of 'a' .*{repeats}"):
        resolve_tasks(Task("a", "rain", repeats))


@pytest.mark.parametrize(
    "text",
    [
        "haze,rain",
        "[haze, rain]",
        "(haze,rain)",
        "['haze', 'rain']",
        '("haze", "rain",)',
        "'haze,rain'",
        "\"['haze','rain']\"",
        "'haze','rain'",
    ],
)
def test_brackets_and_quotes_of_lists_are_ignored(text):
    assert names(resolve_tasks(text)) == ["haze", "rain"]


def test_errors_say_how_lists_are_written():
    with pytest.raises(ValueError, match=r"'haze rain fog'.*separated by commas: haze,rain"):
        resolve_tasks("haze rain fog")
