"""Public datasets: all layouts are found, and missing ones are explained."""

import itertools
import re

import pytest

from dcpt_jax.data import dataset_files, datasets, tasks
from dcpt_jax.data.dataset_files import DatasetError, find, locate
from dcpt_jax.data.datasets import DATASETS


def touch(root, names):
    for name in names.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def files(found):
    """(degraded, clean) stems of pairs, or stems of photos."""
    if found.pairing is None:
        return [path.stem for path in found.photos]
    pairing = found.pairing
    return [(a.stem, b.stem) for a, b in zip(pairing.degraded, pairing.clean, strict=True)]


def example(alternative):
    """Names of the files in one layout."""
    names = {
        "same": ("a", "a"),
        "reside": ("7_0.8_0.2", "7"),
        "suffix:x2": ("norain-1x2", "norain-1"),
        "prefix:rain=norain": ("rain-1", "norain-1"),
        "prefix:low=normal": ("low1", "normal1"),
        "order": ("n7", "n8"),
    }[alternative.rule]
    folders = (alternative.degraded, alternative.clean)
    return [
        f"{folder.replace('*', 'scene').replace('{kind}', 'low_haze')}/{name}.png"
        for folder, name in zip(folders, names, strict=True)
        if folder
    ]


ALTERNATIVES = [
    pytest.param(name, split, alternative, id=f"{name}-{split}-{alternative}")
    for name, dataset in DATASETS.items()
    for split in datasets.SPLITS
    for part in dataset.split(split)
    for alternative in part
]


@pytest.mark.parametrize(("name", "split", "alternative"), ALTERNATIVES)
def test_every_way_of_packing_is_found(tmp_path, name, split, alternative):
    names = example(alternative)
    touch(tmp_path, " ".join(names))
    found = find(name, tmp_path, split, task="low_light+haze")
    stems = tuple(re.split(r"[/]", file)[-1].removesuffix(".png") for file in names)
    assert files(found) == ([stems] if len(stems) == 2 else list(stems))


def test_declarations_are_complete():
    used = {
        name
        for found in tasks.TASK_SETS.values()
        for task in found
        for stage in ("pretrain", "restore")
        for name in task.published(stage)[0]
    }
    assert used <= set(DATASETS)
    for name, dataset in DATASETS.items():
        assert dataset.name == name and dataset.train + dataset.held_out
        tested = DATASETS[dataset.tested_on or name]
        assert tested.held_out, f"{name} is tested on what has no test data"


def test_letters_count_the_same_in_folder_names(tmp_path):
    touch(tmp_path, "lol/Our485/Low/1.png lol/Our485/HIGH/1.png")
    assert locate("lol", tmp_path) == tmp_path / "lol"
    assert files(find("lol", tmp_path / "lol", "train")) == [("1", "1")]


def test_the_very_name_wins_over_other_letters(tmp_path):
    both = ("our485", "OUR485"), ("low", "Low"), ("high", "High")
    for i, (top, low, high) in enumerate(itertools.product(*both)):
        touch(tmp_path, f"{top}/{low}/{i}.png {top}/{high}/{i}.png")
    found = find("lol", tmp_path, "train").pairing
    assert {str(path.parent.relative_to(tmp_path)) for path in found.degraded} == {"our485/low"}
    assert {str(path.parent.relative_to(tmp_path)) for path in found.clean} == {"our485/high"}
    touch(tmp_path, "data/LOL/x data/lol/y")
    assert locate("lol", tmp_path / "data").name == "lol"
    touch(tmp_path, "half/train/x half/Train/low/1.png half/Train/high/1.png")
    assert files(find("lol", tmp_path / "half", "train")) == [("1", "1")]


@pytest.mark.parametrize("folder", ["rain200h", "RainTrainH", "Rain200H"])
def test_folders_are_known_by_several_names(tmp_path, folder):
    touch(tmp_path, f"{folder}/norain/norain-1.png {folder}/rain/norain-1.png")
    assert locate("rain200h", tmp_path) == tmp_path / folder


def test_scenes_are_joined_and_not_mixed_up(tmp_path):
    touch(tmp_path, "train/A/blur/1.png train/A/sharp/1.png train/B/blur/1.png train/B/sharp/1.png")
    touch(tmp_path, "train/C/blur/2.png")
    found = find("gopro", tmp_path, "train")
    assert [p.parent.parent.name for p in found.pairing.degraded] == ["A", "B"]
    assert [p.parent.parent.name for p in found.pairing.clean] == ["A", "B"]


def test_parts_that_are_missing_are_named(tmp_path):
    touch(tmp_path, "DIV2K_train_HR/1.png BSD400/2.png BSD400/3.jpg")
    found = find("dfwb", tmp_path, "train")
    assert files(found) == ["1", "2", "3"]
    assert found.missing == ("Flickr2K/Flickr2K_HR", "WED/pristine_images")


@pytest.mark.parametrize(
    ("wanted", "unwanted"),
    [
        ("DIV2K/train/1.png", "DIV2K/DIV2K_valid_HR/2.png DIV2K/DIV2K_train_LR_bicubic/X2/3.png"),
        ("Flickr2K/HR/1.png", "Flickr2K/Flickr2K_LR_unknown/X4/2.png Flickr2K/LR/3.png"),
        ("BSD/train/1.jpg", "BSD/val/2.jpg BSD/test/3.jpg BSD/CBSD68/4.png"),
    ],
)
def test_test_data_and_small_copies_are_no_training_photos(tmp_path, wanted, unwanted):
    touch(tmp_path / "valid/LR_test", f"{wanted} {unwanted}")
    assert files(find("dfwb", tmp_path / "valid/LR_test", "train")) == ["1"]


def test_noisy_copies_beside_clean_photos_are_no_clean_photos(tmp_path):
    touch(tmp_path, "0001.png noisy25/0001.png")
    assert files(find("cbsd68", tmp_path, "held_out")) == ["0001"]
    assert len(find("cbsd68", tmp_path, "held_out").photos) == 1


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("low_light+rain+haze", "low_haze_rain"),
        ("low_light+snow+haze", "low_haze_snow"),
        ("rain+haze", "haze_rain"),
        ("rain", "rain"),
        ("low_light:0.2+haze:0.5", "low_haze"),
        ("noise", ""),
        ("low_light+noise", ""),
        ("", ""),
    ],
)
def test_folders_of_cdd11(task, kind):
    assert dataset_files.cdd11_folder(task) == kind


def test_a_class_that_a_data_set_does_not_have(tmp_path):
    touch(tmp_path, "train/low/1.png train/clear/1.png")
    with pytest.raises(DatasetError, match="it has no class 'noise'"):
        find("cdd11", tmp_path, "train", task="noise")
    with pytest.raises(DatasetError, match=r"Expected: train/haze \+ train/clear or"):
        find("cdd11", tmp_path, "train", task="haze")


def test_missing_datasets_are_reported_with_expected_and_present_folders(tmp_path):
    touch(tmp_path, "data/lol/low/1.png data/x/y/z.png")
    with pytest.raises(
        DatasetError,
        match=r"LOL \(v1\) has no train data in .*: it holds low\. .*our485/low \+ our",
    ):
        find("lol", tmp_path / "data/lol", "train")
    with pytest.raises(DatasetError, match=r"GoPro is not in .*: it holds lol, x; .*GOPRO_Large"):
        locate("gopro", tmp_path / "data")
    with pytest.raises(DatasetError, match="there is no such folder"):
        locate("gopro", tmp_path / "gone")
    with pytest.raises(DatasetError, match="no such folder"):
        find("gopro", tmp_path / "gone", "train")
    with pytest.raises(DatasetError, match="has no train data"):
        find("sots", tmp_path / "data", "train")
    touch(tmp_path, "names/our485/low/1.png names/our485/high/2.png")
    with pytest.raises(DatasetError, match=r"no file in .* has its clean photo"):
        find("lol", tmp_path / "names", "train")


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown dataset 'lolo'; known: rain100l"):
        find("lolo", "x", "train")
    with pytest.raises(ValueError, match="unknown split 'test'; known: train, held_out"):
        DATASETS["lol"].split("test")


def test_the_document_has_every_data_set():
    from tests.conftest import ROOT

    text = (ROOT / "docs/data.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)`(.*)$", text, re.MULTILINE))
    for name, dataset in DATASETS.items():
        row = rows[name]
        for other in re.findall(r"\| as `(\w+)`", rows[name]):  # a cell that says "as rain200h"
            row += rows[other]
        assert "https://" in row
        for part in dataset.train + dataset.held_out:
            first = str(part[0]).replace("{kind}", "low_haze_rain")
            assert first.replace("-M/", "-L/").replace("-S/", "-L/") in row, (name, first)
