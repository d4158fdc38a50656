"""From config keys to classes: their sources, stand-ins and repeats."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcpt_jax import config as configs
from dcpt_jax import images
from dcpt_jax.data import classes as data_classes
from dcpt_jax.data import held_out, pipeline
from dcpt_jax.data.classes import open_classes
from dcpt_jax.data.spec import SourceError
from dcpt_jax.data.tasks import Task, resolve_tasks
from dcpt_jax.images import colour
from tests.profiles import rgb_profile


def write(root, names, value=0.5):
    for name in names.split():
        images.write_image(root / name, np.full((6, 8, 3), value))


@pytest.fixture
def photos(tmp_path):
    write(tmp_path / "photos", "1.png 2.png")
    return str(tmp_path / "photos")


@pytest.fixture
def data(tmp_path):
    """Two datasets: LOL with 3 + 1 pairs, and two parts of DFWB with 4 photos."""
    root = tmp_path / "data"
    for i in range(3):
        write(root, f"lol/our485/low/{i}.png lol/our485/high/{i}.png")
    write(root, "lol/eval15/low/a.png lol/eval15/high/a.png")
    write(root, "dfwb/DIV2K/1.png dfwb/DIV2K/2.png dfwb/BSD400/1.png dfwb/BSD400/2.png")
    write(root, "cbsd68/a.png")
    return str(root)


TASKS = (
    Task("low_light", "low_light", datasets=("lol",), samples=(6, 480)),
    Task("noise", "noise:15/25", datasets=("dfwb",), samples=(40, 320)),
    Task("haze", "haze", datasets=("reside_ots",)),
)


def test_by_default_all_is_synthesised_from_the_same_photos(photos):
    classes = open_classes(resolve_tasks("5d"), root=photos)
    assert len({id(one.source) for one in classes}) == 1
    assert all(one.is_synthetic and one.task.repeats == 1 for one in classes)
    assert classes[0].origin == f"synthetic rain on 2 photos of {photos}"
    (clean,) = open_classes(resolve_tasks("clean"), root=photos)
    assert clean.origin == f"2 photos of {photos}, as they are" and clean.is_synthetic


def test_bundled_photos_of_both_splits():
    train, held_out = (
        open_classes(resolve_tasks("haze"), split=split)[0] for split in ("train", "held_out")
    )
    assert train.origin == "synthetic haze on 11 bundled photos"
    assert not set(train.source.paths) & set(held_out.source.paths)


def test_available_datasets_are_used(photos, data):
    low_light, noise, haze = open_classes(TASKS, root=photos, datasets=data, stage="restore")
    assert low_light.origin == f"pairs of lol in {data}/lol" and not low_light.is_synthetic
    assert low_light.source[0].clean.shape == (6, 8, 3)
    assert noise.origin == (
        f"synthetic noise:15/25 on 4 photos of dfwb in {data}/dfwb without Flickr2K/Flickr2K_HR, "
        "WED/pristine_images"
    )
    assert haze.origin == f"synthetic haze on 2 photos of {photos} (reside_ots not found in {data})"
    assert [one.is_synthetic for one in (low_light, noise, haze)] == [False, True, True]


def test_repeats_of_published_data_and_of_stand_ins(photos, data):
    options = {"root": photos, "datasets": data}

    def repeats(**more):
        return [one.task.repeats for one in open_classes(TASKS, **options, **more)]

    # 480 samples of 3 pairs, 320 of 4 photos. The stand-in, of 2 photos, comes nearest to the mean.
    assert repeats(stage="restore") == [160, 80, 200]
    assert repeats(stage="pretrain") == [2, 10, 12]  # (6 + 40) / 2 = 23
    assert repeats(stage="restore", repeats={"haze": 7, "noise": 1}) == [160, 1, 7]


def test_packed_published_data_keep_their_share(photos, data, tmp_path):
    from dcpt_jax.data import pack

    command = [f"lol:{data}/lol", "--output", str(tmp_path / "packed"), "--size", "4"]
    assert pack.main([*command, "--stride", "4"]) == 0
    options = {"root": photos, "sources": {"low_light": f"packed:{tmp_path}/packed"}}
    low_light = open_classes(TASKS, **options, stage="restore")[0]
    assert len(low_light.source) == 3 * 4  # four parts of each photo of 6x8
    assert low_light.task.repeats == 160 // 4
    assert low_light.origin == f"sub-images packed in {tmp_path}/packed"


def test_without_published_data_classes_come_near_the_largest(photos, tmp_path):
    for i in range(7):
        write(tmp_path, f"bad/{i}.png good/{i}.png")
    source = f"pairs:{tmp_path}/bad,{tmp_path}/good"
    classes = open_classes(resolve_tasks("5d"), root=photos, sources={"haze": source})
    assert [one.task.repeats for one in classes] == [4, 4, 1, 4, 4]  # round(7 / 2) of 2 photos
    assert classes[2].origin == f"pairs of {tmp_path}/bad and {tmp_path}/good"


def test_repeats_of_the_task_set_where_all_share_their_photos(photos):
    tasks = (Task("a", "haze", 3), Task("b", "noise", 2))
    assert [c.task.repeats for c in open_classes(tasks, root=photos)] == [3, 2]
    chosen = open_classes(tasks, root=photos, repeats={"b": 5})
    assert [c.task.repeats for c in chosen] == [3, 5]


def test_held_out_is_the_test_data(photos, data):
    options = {"root": photos, "datasets": data, "split": "held_out"}
    low_light, noise, haze = open_classes(TASKS, **options)
    assert low_light.source.names == ("a",)
    assert noise.task.degradation == "noise:25" and noise.name == "noise"
    assert noise.origin == f"synthetic noise:25 on 1 photos of cbsd68 in {data}/cbsd68"
    assert [one.test_set for one in (low_light, noise, haze)] == ["lol", "cbsd68 noise:25", ""]
    assert "sots not found" in haze.origin
    # Another class of the same clean photos keeps its own degradation.
    jpeg = Task("jpeg", "jpeg", datasets=("dfwb",))
    assert open_classes((jpeg,), **options)[0].task.degradation == "jpeg"


def test_only_whole_test_data_of_a_data_set_are_a_test_set(photos, data):
    write(Path(data), "Snow100K/test/Snow100K-L/synthetic/a.png Snow100K/test/Snow100K-L/gt/a.png")
    sources = {"snow": f"snow100k:{data}/Snow100K"}
    (snow,) = open_classes(resolve_tasks("snow"), sources=sources, root=photos, split="held_out")
    assert "without" in snow.origin and snow.test_set == ""  # S and M are not there
    sources = {"noise:15": f"cbsd68:{data}/cbsd68"}
    (noise,) = open_classes(
        resolve_tasks("noise:15"), sources=sources, root=photos, split="held_out"
    )
    assert noise.test_set == "cbsd68 noise:15"
    low_light = open_classes(TASKS[:1], root=photos, datasets=data, stage="restore")
    assert low_light[0].test_set == ""  # training data


def test_no_stand_ins(photos, data):
    with pytest.raises(SourceError, match=r"stand_ins=False.*\n  haze: RESIDE OTS is not in"):
        open_classes(TASKS, root=photos, datasets=data, stand_ins=False)
    with pytest.raises(
        SourceError, match=r"haze: its data are reside_ots, but config\.data\.datasets"
    ):
        open_classes(TASKS[2:], root=photos, stand_ins=False)
    # A class without published data is synthetic by definition.
    assert open_classes((Task("a", "haze"),), root=photos, stand_ins=False)


def test_every_kind_of_source(photos, data, tmp_path):
    write(tmp_path, "bad/1x2.png good/1.png")
    (tmp_path / "list.txt").write_text("bad/1x2.png good/1.png\n")
    for text, count, is_synthetic in (
        (f"photos:{photos}", 2, True),
        (f"pairs:{tmp_path}/bad,{tmp_path}/good,suffix:x2", 1, False),
        (f"list:{tmp_path}/list.txt", 1, False),
        (f"lol:{data}/lol", 3, False),
        (f"lol:{data}/lol; list:{tmp_path}/list.txt", 4, False),
        (f"photos:{photos};dfwb:{data}/dfwb", 6, True),
    ):
        (one,) = open_classes(resolve_tasks("rain+haze"), sources={"rain+haze": text})
        assert len(one.source) == count and one.is_synthetic == is_synthetic
    one = open_classes(TASKS[:1], sources={"low_light": f"lol:{data}/lol"}, stage="restore")[0]
    assert one.task.repeats == 160  # its published data, wherever they lie


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photos", "is not a source of data; known: photos:DIR"),
        ("fotos:/x", "is not a source of data"),
        (";", "names no source"),
        ("pairs:/a", "must name two folders"),
        ("pairs:/a,/b,c", "unknown rule 'c'"),
        ("photos:/gone", "no such folder"),
        ("lol:/gone", "no such folder"),
        ("pairs:/gone,/gone", "no such folder"),
        ("list:/gone", "cannot be read"),
    ],
)
def test_bad_sources_name_the_key(text, message):
    with pytest.raises(SourceError, match=rf"--config\.data\.sources\.haze=.*{message}"):
        open_classes(resolve_tasks("haze"), sources={"haze": text})


def test_pairs_and_photos_are_not_joined(photos, data):
    text = f"photos:{photos};lol:{data}/lol"
    with pytest.raises(SourceError, match="must all be pairs, or all clean photos"):
        open_classes(TASKS[:1], sources={"low_light": text})


def test_source_of_a_class_that_the_run_does_not_have(photos):
    with pytest.raises(SourceError, match="names fog, which the run does not have"):
        open_classes(TASKS, root=photos, sources={"fog": "photos:x", "rain": ""})


def test_bad_files_are_refused_through_all_sources(photos, data, tmp_path):
    (tmp_path / "data/lol/our485/low/1.png").write_bytes(b"")
    options = {"root": photos, "datasets": data}
    assert len(open_classes(TASKS, **options)[0].source) == 2
    with pytest.raises(images.ImageError, match=r"1\.png: the file is empty.*on_bad_file=skip"):
        open_classes(TASKS, **options, on_bad_file="refuse")


def test_one_cache_for_all_classes(photos, data):
    classes = open_classes(TASKS, root=photos, datasets=data, cache_megabytes=1)
    assert len({id(one.source._cache) for one in classes}) == 1


def test_errors_of_one_class_do_not_hide_the_others(photos, data):
    found = data_classes.try_open_classes(
        TASKS, root=photos, datasets=data, sources={"noise": "photos:/gone"}, stage="restore"
    )
    assert [one.error is None for one in found] == [True, False, True]
    assert found[2].is_stand_in and found[2].missing.reasons and not found[0].is_stand_in
    assert found[0].training_class.task.repeats == 160


def test_progress_shown_during_training(photos, data):
    classes = open_classes(TASKS, root=photos, datasets=data)
    shown = data_classes.validation_classes(classes, datasets=data, sources={})
    assert shown[0].source.names == ("a",)  # of the test data
    assert "bundled photos" in shown[1].origin and shown[1].task.degradation == "noise:15/25"
    shutil.rmtree(f"{data}/lol/eval15")
    assert data_classes.validation_classes(classes, datasets=data)[0] is classes[0]
    stated = open_classes(TASKS, root=photos, sources={"low_light": f"lol:{data}/lol"})
    assert (
        data_classes.validation_classes(stated, sources={"low_light": f"lol:{data}/lol"})[0]
        is stated[0]
    )


def test_bad_test_data_are_refused(photos, data, tmp_path):
    write(tmp_path, "data/lol/eval15/low/b.png data/lol/eval15/high/b.png")
    (tmp_path / "data/lol/eval15/low/b.png").write_bytes(b"")
    classes = open_classes(TASKS, root=photos, datasets=data)
    assert data_classes.validation_classes(classes, datasets=data)[0].source.names == ("a",)
    with pytest.raises(images.ImageError, match=r"b\.png: the file is empty.*on_bad_file=skip"):
        data_classes.validation_classes(classes, datasets=data, on_bad_file="refuse")
    with pytest.raises(TypeError, match="held_out_rot"):
        data_classes.validation_classes(classes, held_out_rot=photos)


def test_keys_of_a_config():
    config = configs.load("pretrain")
    keys = data_classes.options_from(config.data)
    assert set(keys) >= {"root", "datasets", "stand_ins", "sources", "on_bad_file"}
    assert set(config.data.sources) == set(configs.load("restore").repeats)
    config.data.sources.haze = "pairs:/a,/b"
    configs.validate(config)
    config.data.sources.haze = "pear:/a"
    with pytest.raises(configs.ConfigError, match=r"config\.data\.sources\.haze: 'pear:/a' is no"):
        configs.validate(config)


def test_noise_is_clipped_by_a_key(tmp_path):
    """In training, validation and evaluation; values inside the range stay the same."""
    images.write_image(tmp_path / "a.png", np.linspace(0, 1, 24 * 24 * 3).reshape(24, 24, 3))
    config = configs.load("restore")
    config.data.root = str(tmp_path)

    def degraded():
        options = data_classes.options_from(config.data)
        classes = open_classes(resolve_tasks("noise:50"), **options)
        with pipeline.make_batches(
            classes, batch_size=2, crop=16, seed=0, num_workers=0, start=0
        ) as batches:
            trained = next(batches)["degraded"]
        validated = data_classes.validation_classes(classes, held_out_root=str(tmp_path))
        (sample,) = held_out.samples(validated, size=16, per_photo=1)
        return trained, sample.degraded

    plain = degraded()
    config.data.clip_noise = True
    for free, clipped in zip(plain, degraded(), strict=True):
        assert free.min() < 0 and free.max() > 1
        np.testing.assert_array_equal(clipped, np.clip(free, 0, 1))


def test_colours_and_the_size_limit_are_keys(tmp_path):
    pixels = np.arange(20 * 30 * 3, dtype=np.uint16).reshape(20, 30, 3).astype(np.uint8)
    profile = rgb_profile()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    data = configs.load("restore").data
    data.root = str(tmp_path)

    def photo():
        arguments = data_classes.options_from(data)
        return open_classes((Task("haze", "haze"),), **arguments)[0].source[0]

    expected = colour.to_srgb(pixels / 255, profile) * 255
    assert np.abs(photo() - expected).max() < 1
    data.colour = "as_is"
    np.testing.assert_array_equal(photo(), pixels)
    data.max_pixels = 599
    with pytest.raises(images.ImageError, match=r"--config\.data\.max_pixels=N"):
        photo()
