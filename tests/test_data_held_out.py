"""Samples for evaluation: their crops and sources, and that they are reproducible."""

import numpy as np
import pytest

from dcpt_jax import images
from dcpt_jax.data import held_out, pairs
from dcpt_jax.data.classes import TrainingClass, synthetic_classes
from dcpt_jax.data.pair_files import pair_folders
from dcpt_jax.data.photos import PhotoSource
from dcpt_jax.data.tasks import Task, resolve_tasks
from tests.conftest import HEIGHT, WIDTH


@pytest.fixture
def paths(position_photos):
    return position_photos


@pytest.fixture
def photos(paths):
    return PhotoSource(paths)


def samples(photos, **options):
    (one,) = synthetic_classes(resolve_tasks("noise"), photos)
    return list(held_out.samples_of(3, one, **options))


def corner(sample):
    return tuple(np.rint(sample.clean[0, 0] * 255).astype(int).tolist())


def test_one_crop_per_photo_is_its_centre(photos):
    found = samples(photos, size=16, per_photo=1, seed=5)
    assert [sample.name for sample in found] == [str(i) for i in range(7)]
    assert [corner(sample) for sample in found] == [(20, 12, i) for i in range(7)]
    assert found[0].clean.dtype == found[0].degraded.dtype == np.float32
    assert {sample.task for sample in found} == {3}


@pytest.mark.parametrize("per_photo", [2, 3, 4, 5, 12])
def test_crops_are_spread_and_always_the_same(photos, per_photo):
    found = samples(photos, size=8, per_photo=per_photo, seed=1)
    assert len(found) == len({sample.name for sample in found}) == 7 * per_photo
    assert len({corner(sample) for sample in found}) == 7 * per_photo
    again = samples(photos, size=8, per_photo=per_photo, seed=1)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.degraded, other.degraded)
        np.testing.assert_array_equal(one.clean, other.clean)
    if per_photo == 12:  # 3 rows of 4 on photos of 40x56: none overlap
        places = np.array([corner(sample)[:2] for sample in found[:12]])
        gaps = np.abs(places[:, None] - places[None]).max(axis=-1)
        assert gaps[~np.eye(12, dtype=bool)].min() >= 8


def test_seed_chooses_the_cells_that_are_left_empty(photos):
    found = {
        tuple(map(corner, samples(photos, size=8, per_photo=5, seed=seed))) for seed in range(4)
    }
    assert len(found) > 1


def test_small_photos_are_extended(tmp_path):
    images.write_image(tmp_path / "a.png", np.full((3, 5, 3), 0.2))
    found = samples(PhotoSource([tmp_path / "a.png"]), size=16, per_photo=2)
    assert [sample.clean.shape for sample in found] == [(16, 16, 3)] * 2


def test_whole_images_too_small_to_measure_are_named(tmp_path, caplog):
    for name, size in (("small", 10), ("enough", 11)):
        images.write_image(tmp_path / f"{name}.png", np.zeros((size, 20, 3)))
    (one,) = synthetic_classes(
        [Task("rain", "rain")], PhotoSource([tmp_path / "small.png", tmp_path / "enough.png"])
    )
    assert [sample.name for sample in held_out.samples([one], size=0, per_photo=1)] == ["enough"]
    assert "small left out: 20x10 pixels" in caplog.text
    assert len(list(held_out.samples([one], size=16, per_photo=1))) == 2


def test_whole_images_have_their_own_sizes(tmp_path, photos):
    found = samples(photos, size=0, per_photo=6)
    assert [sample.name for sample in found] == [str(i) for i in range(7)]
    assert found[0].clean.shape == found[0].degraded.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(found[2].clean, images.to_float(photos[2]))
    (one,) = synthetic_classes(resolve_tasks("noise"), photos)
    assert held_out.count(one, size=0, per_photo=6) == 7
    assert held_out.count(one, size=8, per_photo=6) == 42


def test_pairs_are_cut_at_the_same_place_and_not_degraded_again(tmp_path, paths):
    for i in range(2):
        images.write_image(tmp_path / "bad" / f"{i}.png", images.read_image(paths[i]) + 100 / 255)
        images.write_image(tmp_path / "good" / f"{i}.png", images.read_image(paths[i]))
    source = pairs.PairSource(pair_folders(tmp_path / "bad", tmp_path / "good"))
    one = TrainingClass(Task("haze", "haze"), source, "pairs")
    found = list(held_out.samples([one], size=8, per_photo=4))
    assert len(found) == 8
    for sample in found:
        np.testing.assert_allclose(sample.degraded - sample.clean, 100 / 255, atol=1e-6)
    (whole, _) = held_out.samples([one], size=0, per_photo=4)
    assert whole.degraded.shape == (HEIGHT, WIDTH, 3)


def test_bad_photo_is_never_evaluated_under_another_name(tmp_path):
    for i in range(3):
        images.write_image(tmp_path / f"{i}.png", np.full((20, 20, 3), i / 255))
    data = bytearray((tmp_path / "1.png").read_bytes())
    data[-20] ^= 1  # shows only in decoding
    (tmp_path / "1.png").write_bytes(data)
    paths = sorted(tmp_path.iterdir())
    found = samples(PhotoSource(paths), size=8, per_photo=1)
    assert [(sample.name, corner(sample)[2]) for sample in found] == [("0", 0), ("2", 2)]
    with pytest.raises(images.ImageError, match=r"1\.png"):
        samples(PhotoSource(paths, on_bad_file="refuse"), size=8, per_photo=1)


def test_photos_of_which_none_can_be_read(tmp_path):
    for i in range(5):
        images.write_image(tmp_path / f"{i}.png", np.full((20, 20, 3), i / 255))
    photos = PhotoSource(sorted(tmp_path.iterdir()))
    for i in (1, 3):  # once the source has looked at them
        (tmp_path / f"{i}.png").write_bytes(b"none")
    options = {"size": 8, "per_photo": 1, "most_photos": 2}
    message = "none of the 2 photos tried for noise can be read"
    with pytest.raises(images.ImageError, match=message):
        samples(photos, **options)
    # Others may have what a part of them has not.
    assert samples(photos, **options, part=(0, 2)) == []
    assert samples(photos, **options, part=(2, 3)) == []


@pytest.mark.parametrize("options", [{"size": -1, "per_photo": 1}, {"size": 8, "per_photo": 0}])
def test_bad_arguments(photos, options):
    with pytest.raises(ValueError, match="must be at least 0 and"):
        samples(photos, **options)


def test_samples_depend_on_names_only(photos, paths):
    tasks = resolve_tasks("noise,haze,low_light")
    options = {"size": 16, "per_photo": 2, "seed": 2}
    by_name = {
        (s.name, tasks[s.task].name): s
        for s in held_out.samples(synthetic_classes(tasks, photos), **options)
    }
    assert len(by_name) == 7 * 2 * 3
    fewer = tasks[::-2]
    for sample in held_out.samples(synthetic_classes(fewer, PhotoSource(paths[::-3])), **options):
        expected = by_name[sample.name, fewer[sample.task].name]
        np.testing.assert_array_equal(sample.degraded, expected.degraded)
        np.testing.assert_array_equal(sample.clean, expected.clean)


def test_every_seed_crop_and_class_has_its_own_draw(tmp_path):
    images.write_image(tmp_path / "a.png", np.full((40, 40, 3), 0.5))
    tasks = (Task("a", "noise:25"), Task("b", "noise:25"))
    classes = synthetic_classes(tasks, PhotoSource([tmp_path / "a.png"]))
    found = {
        sample.degraded.tobytes()
        for seed in (0, 1)
        for sample in held_out.samples(classes, size=16, per_photo=4, seed=seed)
    }
    assert len(found) == 2 * 4 * 2
