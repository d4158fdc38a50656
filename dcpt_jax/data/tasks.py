"""Task sets: the classes of degradation that a run trains on.

The position of a task in its set is the class label, so the order of a published set must not
change.

The name of a mixture is its spec: single degradations joined by "+", in the order of application.
CDD-11 applies low light, then rain or snow, then haze (the scene is dark, with rain or snow in it,
and haze in front), so the class that its paper calls `l+h+r` is "low_light+rain+haze" here. The
short names of the paper are accepted as well.
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
        degradation: spec of its synthetic degradation, see `degradations.parse`: "rain",
            "noise:1-50", "low_light+haze".
        repeats: how often each item (photo or pair) is used in a pass over all classes, >= 1, if
            all classes are synthesised from the same photos.
        datasets: names in `data.datasets.DATASETS` that together are the published training data of
            the class; () if there are none.
        samples: published number of samples in a pass over all classes (items times repeats), for
            (pre-training, restoration); 0 = not published.
        pretrain_datasets: datasets of pre-training, if different; () = the same.
        clip_noise: whether to clip the result of the synthetic degradation to [0, 1]; without it,
            noise is not clipped.
    """

    name: str
    degradation: str
    repeats: int = 1
    datasets: tuple[str, ...] = ()
    samples: tuple[int, int] = (0, 0)
    pretrain_datasets: tuple[str, ...] = ()
    clip_noise: bool = False

    def published(self, stage: Stage) -> tuple[tuple[str, ...], int]:
        """Datasets and number of samples published for a stage; () and 0 if there are none."""
        if stage == "pretrain":
            return self.pretrain_datasets or self.datasets, self.samples[0]
        return self.datasets, self.samples[1]


# RainTrainHL is the training data of Rain200H and Rain200L, 3,600 pairs. For 5d the publication
# counts 200 pairs, 300 times each.
_RAIN = {"datasets": ("rain200h", "rain200l"), "pretrain_datasets": ("rain13k",)}
_LOW_LIGHT = {"datasets": ("lol",), "pretrain_datasets": ("lol_synthetic",)}

# Datasets and numbers of samples (items times repeats) from the released options of DCPT (ICLR
# 2025); CDD-11 from OneRestore (ECCV 2024). These count sub-images of DFWB (85,443 or 69,635),
# GoPro (16,824) and DPDD (7,000). The number of samples is fixed here, not the repeats, so a class
# has its published share whether its photos are whole, cut or packed. The pre-training of 5d is
# that of NAFNet; see below for the differences of other backbones.
TASK_SETS: dict[str, tuple[Task, ...]] = {
    # DCPT's five-degradation setting, in its class order.
    "5d": (
        Task("rain", "rain", samples=(13_702, 200 * 300), **_RAIN),
        Task("noise", "noise:15/25/50", datasets=("dfwb",), samples=(85_443, 85_443 * 8)),
        Task("haze", "haze", datasets=("reside_ots",), samples=(72_135, 72_135)),
        Task("low_light", "low_light", samples=(1_383 * 10, 485 * 160), **_LOW_LIGHT),
        Task("motion_blur", "motion_blur", datasets=("gopro",), samples=(16_824, 16_824 * 5)),
    ),
    # DCPT's ten-degradation setting, in its class order.
    "10d": (
        Task("noise", "noise:1-50", datasets=("dfwb",), samples=(69_635,) * 2),
        Task("motion_blur", "motion_blur", datasets=("gopro",), samples=(16_824 * 4,) * 2),
        Task("defocus_blur", "defocus_blur", datasets=("dpdd",), samples=(7_000 * 9,) * 2),
        Task("jpeg", "jpeg:50/60/70/80/90", datasets=("dfwb",), samples=(69_635,) * 2),
        # Each of 2,061 clean photos 30 times, with one of its hazy versions.
        Task("haze", "haze", datasets=("reside_ots",), samples=(2_061 * 30,) * 2),
        Task("rain", "rain", samples=(13_702 * 5, 3_600 * 20), **_RAIN),
        Task("snow", "snow", datasets=("snow100k",), samples=(50_000,) * 2),
        Task("mosaic", "mosaic", datasets=("dfwb",), samples=(69_635,) * 2),
        Task("low_light", "low_light", datasets=("lol_synthetic",), samples=(1_383 * 50,) * 2),
        Task("inpainting", "inpainting", datasets=("dfwb",), samples=(69_635,) * 2),
    ),
    # The mixed setting: l, h, r, s, l+h, l+r, l+s, h+r, h+s, l+h+r, l+h+s.
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

# Samples in a pre-training pass on 5d, by class, where they differ from NAFNet's in the task set.
_MORE_SAMPLES = {"low_light": 1_383 * 50, "motion_blur": 16_824 * 5}
# Samples of MaskDCPT's pre-training on 5d, the same for all backbones: the fine-tuning data with
# repeats of its own (MaskDCPT, 2025).
_MASKED_SAMPLES = {
    "rain": 200 * 300,
    "noise": 85_443 * 15,
    "haze": 72_135,
    "low_light": 485 * 60,
    "motion_blur": 16_824 * 5,
}

# Short names of the classes in the CDD-11 paper.
SHORT_NAMES: dict[str, str] = dict(
    zip(
        ("l", "h", "r", "s", "l+h", "l+r", "l+s", "h+r", "h+s", "l+h+r", "l+h+s"),
        (task.name for task in TASK_SETS["cdd11"]),
        strict=True,
    )
)


def class_names() -> tuple[str, ...]:
    """Names of all single classes."""
    return degradations.names()


def resolve_tasks(names: str | Task | Sequence[str | Task]) -> tuple[Task, ...]:
    """The tasks named by `config.tasks`; the index in the result is the class label.

    Args:
        names: a task set ("5d"), a class ("haze"), a mixture or fixed strength ("low_light+rain",
            "noise:25"), a short name of CDD-11 ("l+r"), a `Task`, or several of these as a sequence
            or separated by commas; quotes and brackets around them are ignored. A mixture is a
            class of its own, named as written. A class that occurs in `TASK_SETS` takes its
            datasets and repeats from the first such set, and the default range of strengths of its
            degradation.

    Raises:
        ValueError: for unknown names (the message lists the known ones), an empty list, duplicate
            classes, or repeats below 1.
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
    names_found = [task.name for task in tasks]
    twice = sorted({name for name in names_found if names_found.count(name) > 1})
    if twice:
        raise ValueError(f"given more than once: {', '.join(twice)}")
    for task in tasks:
        if not isinstance(task.repeats, int) or task.repeats < 1:
            raise ValueError(f"repeats of {task.name!r} must be an integer >= 1: {task.repeats!r}")
    return tuple(tasks)


def class_named(name: str) -> str | None:
    """The class that a text names (short names included); None if it does not name exactly one."""
    if not name.strip() or "," in name:
        return None
    try:
        tasks = _tasks_named(name)
    except ValueError:
        return None
    return tasks[0].name if len(tasks) == 1 else None


def published_samples(task: Task, recipe: str, *, masked: bool = False) -> tuple[int, int]:
    """Published number of samples of a class in a pass of (pre-training, restoration).

    Args:
        task: the class; only classes of 5d differ between backbones.
        recipe: the backbone, or "" for NAFNet.
        masked: for the masked pre-training, which uses the data of the restoration: the second
            number is then that of the pre-training. Only those of 5d are published; for other
            classes it stays that of the restoration.
    """
    before, after = task.samples
    of_5d = any(
        (task.name, task.samples) == (other.name, other.samples) for other in TASK_SETS["5d"]
    )
    if of_5d and recipe not in ("", "nafnet"):
        before = _MORE_SAMPLES.get(task.name, before)
    if of_5d and masked:
        after = _MASKED_SAMPLES[task.name]
    return before, after


def resolve_trained(task_set: str, classes: Sequence[str]) -> tuple[Task, ...]:
    """The tasks that weights were trained on, from `model.json`.

    Args:
        task_set: the recorded `config.tasks`, used if it still has these classes: a class may have
            different data in different sets.
        classes: class names in index order.

    Raises:
        ValueError: for unknown classes, such as the numbered ones of converted weights.
    """
    try:
        tasks = resolve_tasks(task_set)
    except ValueError:
        tasks = ()
    if [task.name for task in tasks] == list(classes):
        return tasks
    return resolve_tasks(tuple(classes))


def _plain(text: str) -> str:
    """Removes the brackets, quotes and trailing comma of a list in Python or shell syntax."""
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
        reason = str(error).partition("; known:")[0]  # `_known` has the list
        raise ValueError(f"unknown task set or class {name!r} ({reason}); {_known()}") from error
    published = (task for tasks in TASK_SETS.values() for task in tasks if task.name == spec)
    return (dataclasses.replace(next(published, Task(spec, spec)), degradation=spec),)


def _known() -> str:
    return (
        f"task sets: {', '.join(TASK_SETS)}; classes: {', '.join(class_names())}; several are "
        "separated by commas: haze,rain; for a class of your own see docs/extending.md"
    )
