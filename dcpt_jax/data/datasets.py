"""Table of the public datasets in the published task sets: folders, content, authors.

docs/data.md shows the folder trees and the sources. `dataset_files` finds the files.
"""

import dataclasses

SPLITS = ("train", "held_out")
_NAMED_LAYOUTS = 4  # most layouts named in a message


@dataclasses.dataclass(frozen=True)
class Folders:
    """One layout of (a part of) a split: folders below that of the dataset.

    Attributes:
        degraded: folder of the degraded photos; "" for datasets of clean photos. "*" matches any
            folder, the same one in both; "{kind}" is the dataset's own name of the class.
        clean: folder of the clean photos.
        rule: how file names correspond; see `data.spec`.
        border: pixels by which clean photos are larger on each side in some releases.
        deep: whether sub-folders are included.
        without: sub-folders of clean photos to leave out, as lower-case patterns.
    """

    degraded: str
    clean: str
    rule: str = "same"
    border: int = 0
    deep: bool = True
    without: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The folders in one line."""
        return f"{self.degraded} + {self.clean}" if self.degraded else self.clean


# Alternative layouts of one part of a dataset; the first one found is used.
Alternatives = tuple[Folders, ...]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A public dataset.

    Attributes:
        name: its name in task sets and configs.
        title: its published name.
        content: short description of the content.
        folders: accepted names of its folder below `config.data.datasets`, besides `name`.
        home: web page of its authors.
        licence: terms of use stated by them.
        train: the parts of its training data, each with alternative layouts; () without.
        held_out: likewise the test data.
        tested_on: dataset whose test data publications use for models trained on this one; "" =
            its own.
        degradation: spec by which publications degrade these clean test photos; "" = that of the
            class.
    """

    name: str
    title: str
    content: str
    folders: tuple[str, ...]
    home: str
    licence: str
    train: tuple[Alternatives, ...] = ()
    held_out: tuple[Alternatives, ...] = ()
    tested_on: str = ""
    degradation: str = ""

    def split(self, split: str) -> tuple[Alternatives, ...]:
        """The parts of "train" or "held_out"."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        return self.train if split == "train" else self.held_out

    def tree(self, split: str, kind: str = "") -> str:
        """The accepted folders of a split, for messages; `kind` replaces "{kind}"."""
        parts = []
        for part in self.split(split):
            layouts = list(dict.fromkeys(map(str, part)))
            ellipsis = " or others, see docs/data.md" if len(layouts) > _NAMED_LAYOUTS else ""
            parts.append(" or ".join(layouts[:_NAMED_LAYOUTS]) + ellipsis)
        text = "; and ".join(parts) or f"none: it has no {split.replace('_', '-')} data"
        return text.replace("{kind}", kind) if kind else text


def _rainy(*tops: str) -> Alternatives:
    """Layouts of the rain datasets of Yang et al., whose releases differ in folders and names."""
    layouts = []
    for top in tops:
        top = f"{top}/" if top else ""
        layouts.append(Folders(f"{top}input", f"{top}target"))
        for rainy in ("rain/X2", "rain"):
            for rule in ("suffix:x2", "same", "prefix:rain=norain"):
                layouts.append(Folders(f"{top}{rainy}", f"{top}norain", rule))
        layouts.append(Folders(top or ".", top or ".", "prefix:rain=norain", deep=False))
    return tuple(layouts)


def _training_photos(folder: str) -> Folders:
    """All clean photos of a folder, except test data and low-resolution copies."""
    without = ("lr", "lr_*", "*_lr", "*_lr_*", "*valid*", "val", "test", "*bsd68*")
    return Folders("", folder, without=without)


_YANG = "https://www.icst.pku.edu.cn/struct/Projects/joint_rain_removal.html"
_NONE_STATED = "no licence known to us; made for research, ask the authors before any other use"
_BERKELEY = "photos for non-commercial research and teaching"


def _rain200(letter: str) -> Dataset:
    word = {"H": "heavy", "L": "light"}[letter]
    return Dataset(
        f"rain200{letter.lower()}",
        f"Rain200{letter}",
        f"{word} synthetic rain, 1,800 training and 200 test pairs",
        (f"RainTrain{letter}", f"rain_data_train_{word}", f"Rain100{letter}_train"),
        _YANG,
        _NONE_STATED,
        train=(_rainy("train", ""),),
        held_out=(_rainy("test"),),
        tested_on="rain100l",
    )


_ALL = (
    Dataset(
        "rain100l",
        "Rain100L",
        "light synthetic rain, 200 training and 100 test pairs",
        ("Rain100L_test", "test/Rain100L", "rain_data_test_Light"),
        _YANG,
        _NONE_STATED,
        train=(_rainy("train", "RainTrainL"),),
        held_out=(_rainy("test", "Rain100L", ""),),
    ),
    _rain200("H"),
    _rain200("L"),
    Dataset(
        "rain13k",
        "Rain13K",
        "synthetic rain gathered from five sets, 13,712 training pairs",
        (),
        "https://github.com/swz30/MPRNet",
        "that of the sets it is gathered from; " + _NONE_STATED,
        train=(
            (
                Folders("train/Rain13K/input", "train/Rain13K/target"),
                Folders("train/input", "train/target"),
                Folders("input", "target"),
            ),
        ),
        held_out=((Folders("test/Rain100L/input", "test/Rain100L/target"),),),
        tested_on="rain100l",
    ),
    Dataset(
        "dfwb",
        "DFWB",
        "clean photos of DIV2K (800), Flickr2K (2,650), WED (4,744) and BSD (400)",
        (),
        "https://data.vision.ee.ethz.ch/cvl/DIV2K/",
        "DIV2K for academic research only; Flickr2K the terms of each photo; WED for research; "
        "BSD " + _BERKELEY,
        train=(
            (Folders("", "DIV2K/DIV2K_train_HR"), Folders("", "DIV2K_train_HR"),
             _training_photos("DIV2K")),
            (Folders("", "Flickr2K/Flickr2K_HR"), _training_photos("Flickr2K")),
            (Folders("", "WED/pristine_images"), Folders("", "pristine_images"),
             _training_photos("WED"), _training_photos("WaterlooED")),
            (Folders("", "BSD400"), Folders("", "BSDS500/data/images/train"),
             _training_photos("BSD")),
        ),
        tested_on="cbsd68",
    ),
    Dataset(
        "reside_ots",
        "RESIDE OTS",
        "outdoor photos with synthetic haze, 72,135 training pairs of 2,061 clean photos",
        ("OTS", "OTS_BETA", "OTS_ALPHA", "RESIDE/OTS", "RESIDE/OTS_BETA"),
        "https://sites.google.com/view/reside-dehaze-datasets",
        _NONE_STATED,
        train=(
            (
                Folders("hazy", "clear/clear_images", "reside"),
                Folders("hazy", "clear", "reside"),
                Folders("haze", "clear_images", "reside"),
                Folders("haze/OTS", "clear/clear_images", "reside"),
                Folders("hazy", "gt", "reside"),
                Folders("OTS", "clear", "reside"),
            ),
        ),
        tested_on="sots",
    ),
    Dataset(
        "sots",
        "RESIDE SOTS outdoor",
        "outdoor photos with synthetic haze, 500 test pairs",
        ("RESIDE/SOTS", "SOTS_outdoor"),
        "https://sites.google.com/view/reside-dehaze-datasets",
        _NONE_STATED,
        held_out=(
            (
                Folders("outdoor/hazy", "outdoor/gt", "reside"),
                Folders("outdoor/hazy", "outdoor/clear", "reside"),
                Folders("hazy", "gt", "reside"),
                Folders("hazy", "clear", "reside"),
            ),
        ),
    ),
    Dataset(
        "sots_indoor",
        "RESIDE SOTS indoor",
        "rooms with synthetic haze, 500 test pairs of 50 clean photos",
        ("SOTS", "RESIDE/SOTS"),
        "https://sites.google.com/view/reside-dehaze-datasets",
        _NONE_STATED,
        held_out=(
            # The clean photos are 640x480 pixels, the hazy ones 620x460 of their middle.
            (
                Folders("indoor/hazy", "indoor/gt", "reside", border=10),
                Folders("indoor/hazy", "indoor/clear", "reside", border=10),
                Folders("indoor/nyuhaze500/hazy", "indoor/nyuhaze500/gt", "reside", border=10),
            ),
        ),
    ),
    Dataset(
        "lol",
        "LOL (v1)",
        "photos taken with short and long exposure, 485 training and 15 test pairs",
        ("LOLdataset", "LOL-v1", "LOLv1"),
        "https://daooshee.github.io/BMVC2018website/",
        _NONE_STATED,
        train=((Folders("our485/low", "our485/high"), Folders("train/low", "train/high")),),
        held_out=((Folders("eval15/low", "eval15/high"), Folders("test/low", "test/high")),),
    ),
    Dataset(
        "lol_synthetic",
        "LOL synthetic (of LOL-v2)",
        "normal photos darkened by a program, 900 training and 100 test pairs",
        ("LOL-v2/Synthetic", "LOLv2/Synthetic", "LOL_v2/Synthetic", "Synthetic"),
        "https://github.com/flyywh/CVPR-2020-Semi-Low-Light",
        _NONE_STATED,
        train=(
            tuple(
                Folders(low, normal, rule)
                for low, normal in (
                    ("train/low", "train/normal"),
                    ("low", "normal"),
                    ("Low_degraded", "Normal"),
                )
                for rule in ("same", "prefix:low=normal")
            ),
        ),
        held_out=(
            tuple(
                Folders("test/low", "test/normal", rule) for rule in ("same", "prefix:low=normal")
            ),
        ),
        tested_on="lol",
    ),
    Dataset(
        "gopro",
        "GoPro",
        "frames of fast video averaged to motion blur, 2,103 training and 1,111 test pairs",
        ("GOPRO_Large", "GoPro_Large"),
        "https://seungjunnah.github.io/Datasets/gopro",
        "CC BY 4.0",
        train=(
            (
                Folders("train/*/blur", "train/*/sharp"),
                Folders("train/input", "train/target"),
                Folders("train/blur_crops", "train/sharp_crops"),
                Folders("train/blur", "train/sharp"),
            ),
        ),
        held_out=(
            (
                Folders("test/*/blur", "test/*/sharp"),
                Folders("test/input", "test/target"),
                Folders("test/blur", "test/sharp"),
            ),
        ),
    ),
    Dataset(
        "dpdd",
        "DPDD (Canon)",
        "photos taken with wide and narrow aperture, 350 training and 76 test pairs; the combined "
        "image of both half pixels is used",
        ("dd_dp_dataset_canon", "dd_dp_dataset_png"),
        "https://github.com/Abdullah-Abuolaim/defocus-deblurring-dual-pixel",
        _NONE_STATED,
        # In the authors' release the two photos of a pair have different numbers, in the same
        # order. Other releases have equal names.
        train=(
            tuple(
                Folders(degraded, clean, rule)
                for degraded, clean in (
                    ("train_c/source", "train_c/target"),
                    ("train/inputC", "train/target"),
                    ("train/inputC_crops", "train/target_crops"),
                )
                for rule in ("order", "same")
            ),
        ),
        held_out=(
            tuple(
                Folders(degraded, clean, rule)
                for degraded, clean in (
                    ("test_c/source", "test_c/target"),
                    ("test/inputC", "test/target"),
                )
                for rule in ("order", "same")
            ),
        ),
    ),
    Dataset(
        "snow100k",
        "Snow100K",
        "synthetic snow, 50,000 training pairs and three test sets of flakes of growing size",
        (),
        "https://sites.google.com/view/yunfuliu/desnownet",
        _NONE_STATED,
        train=(
            (
                Folders("train/synthetic", "train/gt"),
                Folders("all/synthetic", "all/gt"),
                Folders("train/input", "train/gt"),
            ),
        ),
        held_out=tuple(
            (
                Folders(f"test/Snow100K-{size}/synthetic", f"test/Snow100K-{size}/gt"),
                Folders(f"Snow100K-{size}/synthetic", f"Snow100K-{size}/gt"),
            )
            for size in "LMS"
        ),
    ),
    Dataset(
        "cdd11",
        "CDD-11",
        "mixed synthetic degradations, 11 of each of 1,183 training and 200 test photos",
        (),
        "https://github.com/gy65896/OneRestore",
        "see the authors' repository; " + _NONE_STATED,
        train=(
            (
                Folders("train/{kind}", "train/clear"),
                Folders("CDD-11_train/{kind}", "CDD-11_train/clear"),
            ),
        ),
        held_out=(
            (
                Folders("test/{kind}", "test/clear"),
                Folders("CDD-11_test/{kind}", "CDD-11_test/clear"),
            ),
        ),
    ),
    Dataset(
        "cbsd68",
        "CBSD68",
        "68 clean colour photos of the Berkeley segmentation data, to test denoising",
        (),
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/",
        _BERKELEY,
        held_out=(
            (Folders("", "original_png"), Folders("", "HQ"), Folders("", ".", deep=False)),
        ),
        degradation="noise:25",
    ),
)  # fmt: skip
DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in _ALL}


def get(name: str) -> Dataset:
    """The dataset with that name; ValueError with the known names otherwise."""
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]
