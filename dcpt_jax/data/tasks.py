"""Task sets: which degradations a run trains on, as data.

The position of a task in its set is the class label, so an order once published never changes.

A mixture's name is its spec: the single degradations joined by "+", in the order in which they
happen to a photo. The classes of CDD-11 follow "low light, then rain or snow, then haze" (the
scene is dark, drops and flakes fly through it, haze lies before all of it), so that the class its
paper calls `l+h+r` is "low_light+rain+haze". The paper's short names can be asked for, and are
turned into these.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from dcpt_jax import degradations

Stage = Literal["pretrain", "restore"]


@dataclasses.dataclass(frozen=True)
class Task:
    """One class of a run.

    Attributes:
        name: class name, unique within a set.
        degradation: spec of the synthetic degradation that stands in where there are no real pairs,
            as `degradations.parse` takes it: "rain", "noise:1-50", "low_light+haze".
        repeats: how often each item (photo or pair) of the class is used per pass over all classes,
            >= 1, where all classes are synthesised from the same photos.
        datasets: names in `data.datasets.DATASETS` that together are the class's published training
            data; () where it has none.
        samples: published number of samples of the class in a pass over all classes, items times
            repeats, in (pre-training, restoration); 0 where none is published.
        pretrain_datasets: those of pre-training where they are others; () where they are not.
    """

    name: str
    degradation: str
    repeats: int = 1
    datasets: tuple[str, ...] = ()
    samples: tuple[int, int] = (0, 0)
    pretrain_datasets: tuple[str, ...] = ()

    def published(self, stage: Stage) -> tuple[tuple[str, ...], int]:
        """Names and number of samples of a stage's published training data; () and 0 without."""
        if stage == "pretrain":
            return self.pretrain_datasets or self.datasets, self.samples[0]
        return self.datasets, self.samples[1]


# RainTrainHL: the training halves of Rain200H and Rain200L, 3,600 pairs. For 5d the publication
# counts 200 of them, 300 times each.
_RAIN = {"datasets": ("rain200h", "rain200l"), "pretrain_datasets": ("rain13k",)}
_LOW_LIGHT = {"datasets": ("lol",), "pretrain_datasets": ("lol_synthetic",)}

# Training data, and items times repeats: DCPT (ICLR 2025), its released options; CDD-11: OneRestore
# (ECCV 2024). Items are counted as there: DFWB (85,443 or 69,635), GoPro (16,824) and DPDD (7,000)
# cut into sub-images. As the number of samples is kept and not that of repeats, a class has its
# published share whether its photos are whole, cut or packed. The pre-training of 5d is that of
# NAFNet; `config.presets` has what other backbones change.
TASK_SETS: dict[str, tuple[Task, ...]] = {
    # The class order of DCPT's five-degradation setting.
    "5d": (
        Task("rain", "rain", samples=(13_702, 200 * 300), **_RAIN),
        Task("noise", "noise:15/25/50", datasets=("dfwb",), samples=(85_443, 85_443 * 8)),
        Task("haze", "haze", datasets=("reside_ots",), samples=(72_135, 72_135)),
        Task("low_light", "low_light", samples=(1_383 * 10, 485 * 160), **_LOW_LIGHT),
        Task("motion_blur", "motion_blur", datasets=("gopro",), samples=(16_824, 16_824 * 5)),
    ),
    # That of its ten-degradation setting.
    "10d": (
        Task("noise", "noise:1-50", datasets=("dfwb",), samples=(69_635,) * 2),
        Task("motion_blur", "motion_blur", datasets=("gopro",), samples=(16_824 * 4,) * 2),
        Task("defocus_blur", "defocus_blur", datasets=("dpdd",), samples=(7_000 * 9,) * 2),
        Task("jpeg", "jpeg:50/60/70/80/90", datasets=("dfwb",), samples=(69_635,) * 2),
        # 30 times each of 2,061 clean photos, each time with one of its hazy versions.
        Task("haze", "haze", datasets=("reside_ots",), samples=(2_061 * 30,) * 2),
        Task("rain", "rain", samples=(13_702 * 5, 3_600 * 20), **_RAIN),
        Task("snow", "snow", datasets=("snow100k",), samples=(50_000,) * 2),
        Task("mosaic", "mosaic", datasets=("dfwb",), samples=(69_635,) * 2),
        Task("low_light", "low_light", datasets=("lol_synthetic",), samples=(1_383 * 50,) * 2),
        Task("inpainting", "inpainting", datasets=("dfwb",), samples=(69_635,) * 2),
    ),
    # That of the mixed setting, l, h, r, s, l+h, l+r, l+s, h+r, h+s, l+h+r, l+h+s.
    "cdd11": tuple(
        Task(name, name, datasets=("cdd11",), samples=(1_183, 1_183))
        for name in (
            "low_light",
            "haze",
            "rain",
            "snow",
            "low_light+haze",
            "low_light+rain",
            "low_light+snow",
            "rain+haze",
            "snow+haze",
            "low_light+rain+haze",
            "low_light+snow+haze",
        )
    ),
}

# What the CDD-11 paper calls its classes.
SHORT_NAMES: dict[str, str] = dict(
    zip(
        ("l", "h", "r", "s", "l+h", "l+r", "l+s", "h+r", "h+s", "l+h+r", "l+h+s"),
        (task.name for task in TASK_SETS["cdd11"]),
        strict=True,
    )
)


def class_names() -> tuple[str, ...]:
    """Names of all single classes that can be asked for."""
    return degradations.names()


def resolve_tasks(names: str | Task | Sequence[str | Task]) -> tuple[Task, ...]:
    """Turns what a config says into tasks; the index in the result is the class label.

    Args:
        names: a task set ("5d"), a class ("haze"), a mixture or fixed strength ("low_light+rain",
            "noise:25"), a short name of CDD-11 ("l+r"), a ready `Task`, or several of these as a
            sequence or separated by commas; quotes and brackets around them are ignored. A mixture
            is a class of its own, named as it is written. A class that stands in a set, the first
            of `TASK_SETS` if in several, brings its data and repeats from there, and has its
            degradation's own range of strengths.

    Raises:
        ValueError: for unknown names (the message lists the known sets and classes), for none, for
            a class that occurs twice, and for repeats below 1.
    """
    if isinstance(names, str):
        names = _plain(names).split(",")
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


def class_named(name: str) -> str | None:
    """The class name that some text means, a short name too; None if it means no single class."""
    if not name.strip() or "," in name:
        return None
    try:
        tasks = _tasks_named(name)
    except ValueError:
        return None
    return tasks[0].name if len(tasks) == 1 else None


def resolve_trained(task_set: str, classes: Sequence[str]) -> tuple[Task, ...]:
    """The tasks that weights were trained on, from what `model.json` says.

    Args:
        task_set: what the run was asked for. As classes of one name can come from different data in
            different sets, it decides where it still means these classes.
        classes: class names in index order.

    Raises:
        ValueError: if these are no classes, such as the numbered ones of converted weights.
    """
    try:
        tasks = resolve_tasks(task_set)
    except ValueError:
        tasks = ()
    if [task.name for task in tasks] == list(classes):
        return tasks
    return resolve_tasks(tuple(classes))


def _plain(text: str) -> str:
    """A list of names without the brackets, quotes and last comma that Python or a shell needs."""
    text = text.strip().strip("\"'").strip()
    if text[:1] + text[-1:] in ("[]", "()"):
        text = text[1:-1]
    return text.strip().removesuffix(",")


def _tasks_named(name: str) -> tuple[Task, ...]:
    spec = "".join(name.split()).strip("\"'")
    if spec in TASK_SETS:
        return TASK_SETS[spec]
    spec = SHORT_NAMES.get(spec, spec)
    try:
        degradations.parse(spec)
    except ValueError as error:
        raise ValueError(f"unknown task set or class {name!r} ({error}); {_known()}") from error
    published = (task for tasks in TASK_SETS.values() for task in tasks if task.name == spec)
    return (dataclasses.replace(next(published, Task(spec, spec)), degradation=spec),)


def _known() -> str:
    return (
        f"task sets: {', '.join(TASK_SETS)}; classes: {', '.join(class_names())}; several are "
        "separated by commas: haze,rain"
    )
