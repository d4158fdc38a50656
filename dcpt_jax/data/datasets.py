"""Table of the public datasets in the published task sets: their folders and test data.

docs/data.md also has their content, authors and licences. `dataset_files` finds the files.
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
        folders: accepted names of its folder below `config.data.datasets`, besides `name`.
        train: the parts of its training data, each with alternative layouts; () without.
        held_out: likewise the test data.
        tested_on: dataset whose test data publications use for models trained on this one; "" =
            its own.
        degradation: spec by which publications degrade these clean test photos; "" = that of the
            class.
    """

    name: str
    title: str
    folders: tuple[str, ...]
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


def _rain200(letter: str) -> Dataset:
    word = {"H": "heavy", "L": "light"}[letter]
    return Dataset(
        f"rain200{letter.lower()}",
        f"Rain200{letter}",
        (f"RainTrain{letter}", f"rain_data_train_{word}", f"Rain100{letter}_train"),
        train=(_rainy("train", ""),),
        held_out=(_rainy("test"),),
        tested_on="rain100l",
    )


_ALL = (
    Dataset(
        "rain100l",
        "Rain100L",
        ("Rain100L_test", "test/Rain100L", "rain_data_test_Light"),
        train=(_rainy("train", "RainTrainL"),),
        held_out=(_rainy("test", "Rain100L", ""),),
    ),
    _rain200("H"),
    _rain200("L"),
    Dataset(
        "rain13k",
        "Rain13K",
        (),
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
        (),
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
        ("OTS", "OTS_BETA", "OTS_ALPHA", "RESIDE/OTS", "RESIDE/OTS_BETA"),
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
        ("RESIDE/SOTS", "SOTS_outdoor"),
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
        ("SOTS", "RESIDE/SOTS"),
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
        ("LOLdataset", "LOL-v1", "LOLv1"),
        train=((Folders("our485/low", "our485/high"), Folders("train/low", "train/high")),),
        held_out=((Folders("eval15/low", "eval15/high"), Folders("test/low", "test/high")),),
    ),
    Dataset(
        "lol_synthetic",
        "LOL synthetic (of LOL-v2)",
        ("LOL-v2/Synthetic", "LOLv2/Synthetic", "LOL_v2/Synthetic", "Synthetic"),
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
        ("GOPRO_Large", "GoPro_Large"),
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
        ("dd_dp_dataset_canon", "dd_dp_dataset_png"),
        # In the authors' release the two photos of a pair have different numbers, in the same
        # order. Other releases have equal names. Those of "c" combine both half pixels.
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
        (),
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
        (),
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
        (),
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
