"""Published figures of DCPT, MaskDCPT and the methods that they are compared with.

Nothing here was measured with this package. Each `Table` states the convention of PSNR and SSIM
and, if the publication names them, the test images. Figures that a publication quotes for other
groups' methods are marked as second-hand.
"""

import dataclasses
import functools
from collections.abc import Mapping

from dcpt_jax.metrics import Convention

AVERAGE = "average"


@dataclasses.dataclass(frozen=True)
class Score:
    """Published figures of one method and class."""

    method: str  # as named in the publication
    name: str  # class, or `AVERAGE`: the mean over the classes as published
    psnr: float | None  # dB; None if not published, like the others
    ssim: float | None = None  # in [-1, 1]
    lpips: float | None = None  # AlexNet, version 0.1 (smaller is better)
    fid: float | None = None  # Fréchet inception distance (smaller is better)
    second_hand: bool = False  # whether quoted for another group's method


@dataclasses.dataclass(frozen=True)
class TestSet:
    """The test images of published figures."""

    name: str  # as in `data.classes.TrainingClass.test_set`
    images: int  # number of images


@dataclasses.dataclass(frozen=True)
class Table:
    """A published table."""

    # Training data of the networks: "5d", "10d", "cdd11", "12d", "mixed", or "gaussian_noise" for
    # networks of 5d (or as stated) tested on noise of several strengths
    task_set: str
    title: str  # title for people
    classes: tuple[str, ...]  # in the publication's order; names of this package where they exist
    convention: Convention  # of PSNR and SSIM; all figures are of whole images
    source: str  # publication and table
    # By class, if known and readable by this package. Figures of other classes cannot be compared
    # with measured ones.
    test_sets: Mapping[str, TestSet]
    scores: tuple[Score, ...]  # all figures
    remark: str = ""  # a note for readers; or ""

    @functools.cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods, in the table's order."""
        return tuple(dict.fromkeys(score.method for score in self.scores))

    def score(self, method: str, name: str) -> Score | None:
        """The figures of a method and class (or `AVERAGE`); None if not published."""
        matches = (s for s in self.scores if (s.method, s.name) == (method, name))
        return next(matches, None)


@dataclasses.dataclass(frozen=True)
class Series:
    """A published figure as a function of another quantity."""

    title: str
    method: str
    x: str  # the other quantity, e.g. "steps"
    at: tuple[float, ...]  # values of x
    values: tuple[float, ...]  # the figure at each value of x
    source: str  # publication and figure


_ROUNDED, _FLOATS = Convention("rgb", "uint8"), Convention("rgb", "none")
_DCPT = "Hu et al., DCPT (ICLR 2025), arXiv 2501.15510"
_MASK = "Hu et al., MaskDCPT (2025), arXiv 2510.13282"
_RELEASE = f"{_MASK}, README of the release of 15 October 2025"
_FIRST_HAND = ("DCPT", "MaskDCPT")


def _scores(columns: tuple[str, ...], text: str) -> tuple[Score, ...]:
    """Scores of lines "method cell cell ...", a cell being PSNR[/SSIM[/LPIPS[/FID]]] or "-"."""
    scores = []
    for line in text.strip().splitlines():
        method, *cells = line.split()
        second_hand = not method.startswith(_FIRST_HAND)
        for name, cell in zip(columns, cells, strict=True):
            if cell != "-":
                values = map(float, cell.split("/"))
                scores.append(Score(method, name, *values, second_hand=second_hand))
    return tuple(scores)


_FIVE = ("haze", "rain", "noise", "motion_blur", "low_light")
_FIVE_TESTS = {
    "rain": TestSet("rain100l", 100),
    "haze": TestSet("sots", 500),
    "motion_blur": TestSet("gopro", 1111),
    "low_light": TestSet("lol", 15),
}
_DCPT_FIVE = Table(
    "5d",
    "Five degradations",
    _FIVE,
    _ROUNDED,
    f"{_DCPT}, results on five degradations",
    {**_FIVE_TESTS, "noise": TestSet("cbsd68 noise:25", 68)},
    _scores(
        (*_FIVE, AVERAGE),
        """
        AirNet          21.04 32.98 30.91 24.35 18.18 25.49/.846
        IDR             25.24 35.63 31.60 27.87 21.34 28.34/.893
        SwinIR          21.50 30.78 30.59 24.52 17.81 25.04/.835
        DCPT-SwinIR     28.67 35.70 31.16 26.42 20.38 28.47/.894
        NAFNet          25.23 35.56 31.02 26.53 20.49 27.76/.881
        DCPT-NAFNet     29.47 35.68 31.31 29.22 23.52 29.84/.914
        Restormer       24.09 34.81 31.49 27.22 20.41 27.60/.881
        DCPT-Restormer  29.86 36.68 31.46 28.95 23.26 30.04/.911
        PromptIR        25.20 35.94 31.17 27.32 20.94 28.11/.883
        DCPT-PromptIR   30.72 37.32 31.32 28.84 23.35 30.31/.911
        """,
    ),
    "The authors' own later measurement of their released weights is up to 0.67 dB lower in a "
    "cell: compare with those weights first.",
)

_MASK_FIVE = Table(
    "5d",
    "Five degradations, MaskDCPT",
    _FIVE,
    _FLOATS,
    f"{_RELEASE}; convention from its test options",
    _FIVE_TESTS,
    _scores(
        (*_FIVE, AVERAGE),
        """
        MaskDCPT-SwinIR    29.29/.981/.015/5.88 37.16/.979/.014/7.60 31.13/.890/.080/27.41 26.53/.808/.218/29.23 21.94/.905/.111/55.69 29.21
        MaskDCPT-NAFNet    31.40/.978/.012/3.39 39.92/.986/.008/4.21 31.41/.894/.076/26.55 31.40/.920/.092/7.61 26.31/.888/.071/25.88 32.09
        MaskDCPT-Restormer 32.67/.985/.010/3.12 39.27/.985/.009/4.87 31.29/.892/.076/26.50 30.58/.910/.102/11.12 26.11/.879/.076/30.33 31.98
        MaskDCPT-PromptIR  32.71/.985/.009/3.07 39.12/.985/.009/4.94 31.30/.892/.079/27.67 29.99/.900/.111/11.81 26.30/.881/.078/29.53 31.88
        """,  # noqa: E501
    ),
    "Its noise is clipped to [0, 1], unlike that of dcpt_jax, so noise is not compared.",
)

_TEN = (
    *("noise", "motion_blur", "defocus_blur", "jpeg", "haze", "snow", "rain"),
    *("mosaic", "low_light", "inpainting"),
)
_DCPT_TEN = Table(
    "10d",
    "Ten degradations",
    _TEN,
    _ROUNDED,
    f"{_DCPT}, results on ten degradations",
    {},
    _scores(
        (*_TEN, AVERAGE),
        """
        AirNet         - - - - - - - - - - 26.41/.842
        TransWeather   - - - - - - - - - - 22.83/.779
        WeatherDiff    - - - - - - - - - - 24.60/.793
        PromptIR       - - - - - - - - - - 27.93/.851
        DiffUIR-L      - - - - - - - - - - 28.75/.869
        NAFNet         - - - - - - - - - - 27.17/.837
        DA-CLIP-NAFNet - - - - - - - - - - 27.42/.798
        InstructIR     - - - - - - - - - - 28.30/.862
        DCPT-NAFNet    28.16 30.29 25.68 27.56 30.45 29.30 29.17 40.53 22.87 33.24 29.72/.888
        """,
    ),
    "One test set for each class; their names are not recorded here, so none is compared.",
)

_ELEVEN = (
    *("low_light", "haze", "rain", "snow", "low_light+haze", "low_light+rain", "low_light+snow"),
    *("rain+haze", "snow+haze", "low_light+rain+haze", "low_light+snow+haze"),
)
_CDD11 = TestSet("cdd11", 200)
_DCPT_CDD11 = Table(
    "cdd11",
    "Mixed degradations, CDD-11",
    _ELEVEN,
    _FLOATS,
    f"{_DCPT}, or its successor arXiv 2510.13282, results on CDD-11",
    dict.fromkeys(_ELEVEN, _CDD11),
    _scores(
        (*_ELEVEN, AVERAGE),
        """
        AirNet         - - - - - - - - - - - 23.75/.814
        NAFNet         - - - - - - - - - - - 24.13/.796
        PromptIR       - - - - - - - - - - - 25.90/.850
        InstructIR     - - - - - - - - - - - 28.21
        DA-CLIP-NAFNet - - - - - - - - - - - 28.38
        OneRestore     - - - - - - - - - - - 28.47/.878
        MoCE-IR        - - - - - - - - - - - 29.05/.881
        DCPT-NAFNet    27.61 36.71 35.75 37.92 27.15 26.75 26.70 32.63 33.40 26.23 26.40 30.66/.891
        QuReC          - - - - - - - - - - - 30.71/.903
        """,
    ),
)

_TWELVE = (
    *("rain", "haze", "snow", "raindrop", "low_light", "motion_blur", "defocus_blur", "jpeg"),
    *("real noise", "gaussian blur", "mosaic", "moire"),
)
_MASK_TWELVE = Table(
    "12d",
    "Twelve degradations, MaskDCPT",
    _TWELVE,
    _FLOATS,
    f"{_RELEASE}; convention from its test options",
    {},
    _scores(
        _TWELVE,
        """
        MaskDCPT-NAFNet 31.93/.922/.056/20.46 31.82/.982/.011/3.19 30.51/.909/.073/1.84 27.57/.838/.124/26.83 24.35/.794/.168/34.83 29.83/.884/.127/8.68 25.64/.809/.183/38.49 32.02/.944/.039/2.83 38.68/.934/.152/29.48 33.28/.927/.057/2.13 38.59/.992/.005/0.72 25.21/.942/.095/24.41
        DCPT-NAFNet     30.50 30.40 30.42 20.32 19.54 27.68 25.68 31.89 37.07 32.06 38.11 24.18
        """,  # noqa: E501
    ),
    "Most columns are means over several test sets, by an unspecified rule.",
)

_STRENGTHS = tuple(
    f"{photos} sigma {sigma}"
    for photos in ("Urban100", "Kodak24", "BSD68")
    for sigma in (15, 25, 50, 60, 75)
)
_NOISE_REMARK = "Sigma 60 and 75 are not part of the training. The noise is clipped to [0, 1]."
_MASK_NOISE = tuple(
    Table(
        "gaussian_noise",
        f"Gaussian noise, MaskDCPT, {which}",
        _STRENGTHS,
        convention,
        f"{_RELEASE}; convention from its test options",
        {},
        _scores(_STRENGTHS, text),
        _NOISE_REMARK,
    )
    for which, convention, text in (
        (
            "NAFNet",
            _FLOATS,
            """
            MaskDCPT-NAFNet:5d  34.11 31.80 28.63 27.03 20.79 34.92 32.49 29.42 27.49 20.31 34.03 31.41 28.21 26.58 20.17
            MaskDCPT-NAFNet:12d 33.86 31.49 28.23 27.28 25.92 34.75 32.31 29.17 28.28 26.89 33.91 31.29 28.04 27.16 25.86
            """,  # noqa: E501
        ),
        (
            "other backbones",
            _ROUNDED,
            """
            MaskDCPT-SwinIR    33.83 31.39 27.91 25.63 21.31 34.65 32.15 28.93 26.15 21.39 33.78 31.13 27.85 25.51 21.25
            MaskDCPT-Restormer 34.17 31.81 28.53 26.94 23.81 34.83 32.36 29.20 27.57 24.30 33.91 31.29 28.06 26.60 23.93
            MaskDCPT-PromptIR  34.14 31.79 28.52 26.91 23.84 34.81 32.34 29.20 27.56 24.51 33.92 31.30 28.08 26.62 23.91
            """,  # noqa: E501
        ),
    )
)

_MIXTURES = ("low_light+rain+haze", "low_light+snow+haze", "low_light+motion_blur+noise")
_MASK_MIXED = Table(
    "mixed",
    "Mixed degradations, MaskDCPT",
    _MIXTURES,
    _FLOATS,
    f"{_RELEASE}; convention from its test options",
    dict.fromkeys(_MIXTURES[:2], _CDD11),
    _scores(
        _MIXTURES,
        """
        MaskDCPT-NAFNet 26.24/.811/.151/22.80 26.38/.814/.143/22.90 27.13/.881/.131/10.27
        DCPT-NAFNet     25.76 25.90 25.56
        """,
    ),
)

TABLES: tuple[Table, ...] = (
    *(_DCPT_FIVE, _MASK_FIVE, _DCPT_TEN, _DCPT_CDD11, _MASK_TWELVE, *_MASK_NOISE, _MASK_MIXED),
)


def _series(
    title: str, x: str, at: tuple[float, ...], source: str, text: str
) -> tuple[Series, ...]:
    """Series of lines "method value,value,..."."""
    lines = (line.split() for line in text.strip().splitlines())
    return tuple(
        Series(title, method, x, at, tuple(map(float, values.split(","))), source)
        for method, values in lines
    )


_PRETRAINING = (0, 25_000, 50_000, 75_000, 100_000)
SERIES: tuple[Series, ...] = (
    *_series(
        "PSNR in dB, mean of 5d, after fine-tuning",
        "share of hidden patches in pre-training, %",
        (0, 25, 50, 75),
        f"{_MASK}, mask ratio",
        "MaskDCPT-PromptIR 30.27,31.37,31.88,31.76",
    ),
    *_series(
        "classification accuracy in pre-training, %",
        "steps of pre-training",
        _PRETRAINING,
        f"{_MASK}, length of pre-training",
        """
        MaskDCPT-SwinIR    54,69,82,89,94
        MaskDCPT-NAFNet    52,90,95,97,98
        MaskDCPT-Restormer 60,92,97,99,99
        MaskDCPT-PromptIR  56,90,94,97,98
        """,
    ),
    *_series(
        "PSNR in dB, mean of 5d, after fine-tuning",
        "steps of pre-training",
        _PRETRAINING,
        f"{_MASK}, length of pre-training",
        """
        MaskDCPT-SwinIR    25.04,26.10,27.58,28.44,29.21
        MaskDCPT-NAFNet    27.77,29.40,30.95,31.88,32.09
        MaskDCPT-Restormer 27.60,29.34,30.76,31.63,31.98
        MaskDCPT-PromptIR  28.11,29.77,30.43,31.50,31.88
        """,
    ),
    *_series(
        "accuracy of 5 nearest neighbours on the features, five degradations, %",
        "steps of restoration training on three tasks",
        (0, 200_000, 400_000, 600_000),
        f"{_DCPT}, preliminary study",
        """
        NAFNet    52,90,94,94
        SwinIR    54,80,92,94
        Restormer 60,86,94,98
        PromptIR  56,84,93,95
        """,
    ),
)


def tables_of(task_set: str) -> tuple[Table, ...]:
    """The tables of a task set; () if none is published."""
    return tuple(table for table in TABLES if table.task_set == task_set)
