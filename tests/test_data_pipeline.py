"""The stream of batches: content, reproducibility and failures."""

import time
from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from dcpt_jax import degradations, images
from dcpt_jax.data import pipeline, sources
from dcpt_jax.data.classes import TrainingClass, synthetic_classes
from dcpt_jax.data.phases import Phase
from dcpt_jax.data.photos import PhotoSource
from dcpt_jax.data.pipeline import crop_start, make_batches
from dcpt_jax.data.sources import Pair
from dcpt_jax.data.tasks import Task, resolve_tasks
from tests.conftest import HEIGHT, WIDTH

FIVE = resolve_tasks("5d")


@pytest.fixture
def paths(position_photos):
    return position_photos


@pytest.fixture
def photos(paths):
    return PhotoSource(paths)


def stream(photos, *, tasks=FIVE, batch_size=4, crop=16, seed=0, **options):
    classes = synthetic_classes(tasks, photos)
    return make_batches(classes, batch_size=batch_size, crop=crop, seed=seed, **options)


def take(count, photos, **options):
    with stream(photos, **options) as batches:
        return [next(batches) for _ in range(count)]


def assert_same(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def photo_of(clean):
    """Numbers of the photos in a batch of clean crops."""
    return np.rint(clean[:, 0, 0, 2] * 255).astype(int).tolist()


def spoil(path):
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


# --- what is in a batch ---------------------------------------------------------------------------


def test_shapes_and_types(photos):
    (batch,) = take(1, photos)
    assert set(batch) == {"degraded", "clean", "task"}
    for key in ("degraded", "clean"):
        assert (batch[key].shape, batch[key].dtype) == ((4, 16, 16, 3), np.float32)
    assert (batch["task"].shape, batch["task"].dtype) == ((4,), np.int32)
    assert batch["clean"].min() >= 0
    assert batch["clean"].max() <= 1
    assert np.isfinite(batch["degraded"]).all()


def test_crops_lie_anywhere_and_are_turned_in_all_eight_ways(photos):
    seen, corners = set(), set()
    for batch in take(60, photos):
        for crop in np.rint(batch["clean"] * 255).astype(int):
            assert np.ptp(crop[..., 2]) == 0
            steps = [tuple(crop[1, 0, :2] - crop[0, 0, :2]), tuple(crop[0, 1, :2] - crop[0, 0, :2])]
            seen.add(tuple(map(int, np.ravel(steps))))
            left, top = crop[..., 0].min(), crop[..., 1].min()
            corners.add((int(left), int(top)))
            # All of it is one square of the photo.
            assert len(np.unique(crop[..., 0] * 256 + crop[..., 1])) == 256
            assert crop[..., 0].max() - left == crop[..., 1].max() - top == 15
    assert len(seen) == 8
    assert {left for left, _ in corners} >= {0, WIDTH - 16}
    assert {top for _, top in corners} >= {0, HEIGHT - 16}
    assert len(corners) > 180


@pytest.mark.parametrize("task", FIVE, ids=lambda task: task.name)
def test_every_class_is_degraded(photos, task):
    (batch,) = take(1, photos, tasks=[task])
    differences = np.abs(batch["degraded"] - batch["clean"]).mean(axis=(1, 2, 3))
    assert (differences > 1e-4).all()
    if degradations.parse(task.degradation)[-1][0].clips:
        assert batch["degraded"].min() >= 0
        assert batch["degraded"].max() <= 1


def test_stated_strength_is_used_and_noise_is_not_clipped(photos):
    batches = take(8, photos, tasks=resolve_tasks("noise:25"), crop=32)
    noise = np.concatenate([b["degraded"] - b["clean"] for b in batches])
    assert noise.std() == pytest.approx(25 / 255, rel=0.02)
    assert min(b["degraded"].min() for b in batches) < 0


def test_task_is_the_class_of_the_degradation(photos):
    tasks = [Task("low", "noise:1"), Task("high", "noise:60")]
    for batch in take(10, photos, tasks=tasks):
        strong = np.abs(batch["degraded"] - batch["clean"]).mean(axis=(1, 2, 3)) > 0.05
        np.testing.assert_array_equal(batch["task"], strong.astype(int))


def test_16_bit_photos(tmp_path):
    pixels = np.full((20, 20, 3), 1000, np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    (batch,) = take(1, PhotoSource([tmp_path / "a.png"]))
    np.testing.assert_allclose(batch["clean"], 1000 / 65535, rtol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (5, 3), (15, 16), (40, 2)])
def test_small_photos_are_reflected(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found = pipeline.crop_at(pixels, 0, 0, 16)
    missing = [(0, max(16 - length, 0)) for length in size]
    np.testing.assert_array_equal(found, np.pad(pixels[:16, :16], [*missing, (0, 0)], "reflect"))


def test_stream_of_small_photos(tmp_path):
    sizes = [(1, 1), (3, 60), (60, 3), (15, 15)]
    for i, size in enumerate(sizes):
        images.write_image(tmp_path / f"{i}.png", np.full((*size, 3), i / 255))
    found = set()
    for batch in take(6, PhotoSource(sorted(tmp_path.iterdir()))):
        assert batch["clean"].shape == (4, 16, 16, 3)
        found.update(photo_of(batch["clean"]))
    assert found == {0, 1, 2, 3}


def test_each_round_draws_anew(paths):
    batches = take(10, PhotoSource(paths[:1]), tasks=resolve_tasks("noise"), batch_size=1, crop=30)
    clean = {batch["clean"].tobytes() for batch in batches}
    noise = {(batch["degraded"] - batch["clean"]).tobytes() for batch in batches}
    assert len(clean) == len(noise) == 10


# --- pairs, and classes of different sources -----------------------------------------------------


class Pairs(Sequence):
    """Pairs in memory, like those of a source."""

    on_bad_file = "skip"
    is_pairs = True
    parts = ()

    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]

    def describe(self, index):
        return f"pair {index}"


def pair(number, size=(30, 44), kinds=(np.uint8, np.uint8)):
    """Two photos; the second is the first with red and green exchanged."""
    y, x = np.mgrid[: size[0], : size[1]]
    clean = np.stack([x, y, np.full_like(x, number)], axis=-1)
    return Pair(clean[..., (1, 0, 2)].astype(kinds[0]), clean.astype(kinds[1]))


def of_pairs(pairs, name="rain", repeats=1):
    return TrainingClass(Task(name, "rain", repeats), Pairs(pairs), "pairs")


def take_of(classes, count, *, batch_size=8, crop=16, seed=0, **options):
    with make_batches(classes, batch_size=batch_size, crop=crop, seed=seed, **options) as batches:
        return [next(batches) for _ in range(count)]


def mixed(paths):
    """A class of photos, one of pairs, and one of few pairs, some smaller than the crop."""
    return (
        *synthetic_classes([Task("noise", "noise:20", 2)], PhotoSource(paths)),
        of_pairs([pair(i) for i in range(5)], repeats=3),
        of_pairs([pair(9, (12, 40)), pair(8, (3, 3))], "haze", repeats=4),
    )


@pytest.mark.parametrize("size", [(30, 44), (16, 16), (9, 40), (5, 3)])
def test_both_photos_of_a_pair_are_cut_alike(size):
    seen = set()
    for batch in take_of([of_pairs([pair(3, size), pair(7, size)])], 8):
        assert batch["degraded"].dtype == batch["clean"].dtype == np.float32
        np.testing.assert_array_equal(batch["degraded"][..., (1, 0, 2)], batch["clean"])
        seen.update(crop.tobytes() for crop in batch["clean"])
    assert len(seen) >= 16  # at least all turns of both


@pytest.mark.parametrize(
    "kinds", [(np.uint16, np.uint16), (np.uint8, np.uint16), (np.uint16, np.uint8)]
)
def test_pairs_of_16_bits(kinds):
    (batch,) = take_of([of_pairs([pair(3, kinds=kinds)])], 1)
    for key, kind in zip(("degraded", "clean"), kinds, strict=True):
        levels = batch[key] * np.float32(np.iinfo(kind).max)
        np.testing.assert_allclose(levels[..., 2], 3, rtol=1e-5)


def test_stream_of_classes_of_different_sources(paths):
    classes = mixed(paths)
    labels, names = [], set()
    for batch in take_of(classes, 37, batch_size=1):  # 7 * 2 + 5 * 3 + 2 * 4: one pass
        (label,) = batch["task"].tolist()
        labels.append(label)
        names.add((label, *photo_of(batch["clean"])))
        is_swapped = (batch["degraded"][..., (1, 0, 2)] == batch["clean"]).all()
        assert is_swapped == (label > 0)
    assert Counter(labels) == {0: 14, 1: 15, 2: 8}
    expected = {(0, i) for i in range(7)} | {(1, i) for i in range(5)} | {(2, 8), (2, 9)}
    assert names == expected


def test_mixed_stream_continues_and_is_the_same_for_any_shards(paths):
    whole = take_of(mixed(paths), 8, batch_size=6)
    assert_same(whole[5:], take_of(mixed(paths), 3, batch_size=6, start=5))
    for count in (2, 3):
        for i in range(count):
            ours = take_of(mixed(paths), 8, batch_size=6 // count, shard=(i, count))
            assert_same(ours, [{key: b[key][i::count] for key in b} for b in whole])


@pytest.mark.slow
def test_mixed_stream_is_the_same_for_any_number_of_workers(paths):
    whole = take_of(mixed(paths), 20)
    for num_workers in (1, 4):
        assert_same(whole, take_of(mixed(paths), 20, num_workers=num_workers))
        assert_same(whole[7:], take_of(mixed(paths), 13, num_workers=num_workers, start=7))


def test_class_without_items_is_refused():
    with pytest.raises(ValueError, match="class 'rain' needs at least one item"):
        take_of([of_pairs([])], 1)


# --- the same stream again -----------------------------------------------------------------------


def test_same_seed_same_bytes_and_other_seed_other_bytes(photos, paths):
    first = take(4, photos, seed=3)
    assert_same(first, take(4, PhotoSource(paths, cache=0), seed=3))
    for other in (4, -3, 3 + 2**32):
        differing = take(4, photos, seed=other)
        assert any((a["clean"] != b["clean"]).any() for a, b in zip(first, differing, strict=True))


def test_global_random_state_is_neither_used_nor_changed(photos):
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first = take(2, photos)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(2)
    assert_same(first, take(2, photos))


@pytest.mark.parametrize("start", [1, 5, 7])
def test_resumed_stream_equals_the_uninterrupted_one(photos, start):
    assert_same(take(8, photos)[start:], take(8 - start, photos, start=start))


def test_far_start_is_quick(photos):
    begun = time.perf_counter()
    far = take(1, photos, start=10**9)
    assert time.perf_counter() - begun < 5
    assert_same(far, take(1, photos, start=10**9))


def test_position_continues_the_stream(photos):
    with stream(photos, start=2) as batches:
        assert batches.position == 2
        next(batches)
        next(batches)
        position = batches.position
        expected = next(batches)
    assert position == 4
    assert_same([expected], take(1, photos, start=position))


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_phases_go_on_with_the_samples_of_the_stream(photos, num_workers):
    later = [Phase(3, 16, 2), Phase(5, 24, 3)]
    batches = take(7, photos, later=later)
    assert [len(b["task"]) for b in batches] == [4, 4, 4, 2, 2, 3, 3]
    assert [b["clean"].shape[1] for b in batches] == [16] * 5 + [24] * 2
    assert_same(batches[:3], take(3, photos))
    # Samples 12 to 15 in two batches of two, then as in a stream of larger crops.
    assert_same(batches[3:5], take(8, photos, batch_size=2)[6:])
    assert np.concatenate([b["task"] for b in batches]).tolist() == [
        *np.concatenate([b["task"] for b in take(22, photos, batch_size=1)])
    ]
    for start in (2, 3, 4, 5):
        resumed = take(7 - start, photos, later=later, start=start, num_workers=num_workers)
        assert_same(batches[start:], resumed)


def test_shards_of_phases_together_are_the_stream(photos):
    later = [Phase(2, 24, 1)]
    shards = [take(4, photos, batch_size=2, later=later, shard=(i, 2)) for i in range(2)]
    whole = take(4, photos, batch_size=4, later=[Phase(2, 24, 2)])
    for step in range(4):
        np.testing.assert_array_equal(
            np.stack([shard[step]["clean"] for shard in shards], axis=1).reshape(
                whole[step]["clean"].shape
            ),
            whole[step]["clean"],
        )


@pytest.mark.parametrize("count", [2, 5])
def test_shards_together_are_the_stream(photos, count):
    shards = [take(6, photos, batch_size=2, shard=(i, count)) for i in range(count)]
    whole = take(6, photos, batch_size=2 * count)
    for step in range(6):
        for i in range(count):
            ours = {key: whole[step][key][i::count] for key in whole[step]}
            assert_same([shards[i][step]], [ours])
    for shard in shards:  # with as many shards as classes, too, each sees all of them
        assert len({label for batch in shard for label in batch["task"].tolist()}) >= 4


def test_worker_process_gives_the_same_bytes(photos):
    assert_same(take(5, photos, start=2), take(5, photos, start=2, num_workers=1))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(photos, num_workers):
    assert_same(take(30, photos), take(30, photos, num_workers=num_workers))
    assert_same(take(9, photos, start=7), take(9, photos, start=7, num_workers=num_workers))


@pytest.mark.slow
def test_bad_photo_keeps_the_stream_the_same_for_any_number_of_workers(tmp_path):
    for i in range(4):
        images.write_image(tmp_path / f"{i}.png", np.full((20, 20, 3), i / 255))
    spoil(tmp_path / "1.png")
    expected = take(12, PhotoSource(sorted(tmp_path.iterdir())))
    assert {i for batch in expected for i in photo_of(batch["clean"])} == {0, 2, 3}
    for workers in (1, 2):
        source = PhotoSource(sorted(tmp_path.iterdir()))
        assert_same(expected, take(12, source, num_workers=workers))


# --- failures ------------------------------------------------------------------------------------


def test_a_bad_photo_is_replaced_with_a_warning(tmp_path, caplog):
    for i in range(3):
        images.write_image(tmp_path / f"{i}.png", np.full((20, 20, 3), i / 255))
    spoil(tmp_path / "1.png")
    source = PhotoSource(sorted(tmp_path.iterdir()))
    batches = take(8, source)
    counts = Counter(i for batch in batches for i in photo_of(batch["clean"]))
    assert set(counts) == {0, 2}
    assert counts[2] > counts[0]  # it stands in for photo 1
    assert len([message for message in caplog.messages if "1.png" in message]) == 1


def test_bad_photo_is_refused_by_name(tmp_path):
    images.write_image(tmp_path / "only.png", np.zeros((20, 20, 3)))
    spoil(tmp_path / "only.png")
    source = PhotoSource([tmp_path / "only.png"], on_bad_file="refuse")
    with pytest.raises(images.ImageError, match=r"only\.png: .*checksum.*on_bad_file=skip"):
        take(1, source)


def test_failing_degradation_is_named(photos, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(degradations, "apply_parts", fail)
    batches = stream(photos, tasks=resolve_tasks("haze"))
    with pytest.raises(
        pipeline.DataError, match=r"class 'haze' from .*\d\.png: ZeroDivisionError: by nothing"
    ) as caught:
        next(batches)
    assert "batch 0" in caught.value.__notes__[-1]
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_pair_that_makes_no_sample_is_named():
    broken = pair(0)._replace(degraded=np.zeros((30, 44, 3), np.float64))
    with pytest.raises(pipeline.DataError, match=r"class 'rain' from pair 1: TypeError: pixels"):
        take_of([of_pairs([pair(0), broken])], 4)


def test_item_that_cannot_be_read_is_named(photos, monkeypatch):
    def fail(*_):
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(photos, "_decode", fail)
    with pytest.raises(pipeline.DataError, match=r"class 'haze' from .*\d\.png: RuntimeError: the"):
        take(1, photos, tasks=resolve_tasks("haze"))


@pytest.mark.slow
def test_error_in_a_worker_comes_through(tmp_path):
    images.write_image(tmp_path / "only.png", np.zeros((20, 20, 3)))
    spoil(tmp_path / "only.png")
    source = PhotoSource([tmp_path / "only.png"], on_bad_file="refuse")
    with pytest.raises(images.ImageError, match=r"only\.png: .*checksum"):
        take(1, source, num_workers=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": (2, 2)}, r"shard must be \(index, count\)"),
        ({"shard": (-1, 2)}, r"shard must be \(index, count\)"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"crop": 0}, "crop must be at least 1, not 0"),
        ({"start": -1}, "start must be at least 0, not -1"),
        ({"num_workers": -1}, "num_workers must be at least 0, not -1"),
        ({"tasks": ()}, "number of classes must be at least 1, not 0"),
    ],
)
def test_bad_arguments(photos, options, message):
    with pytest.raises(ValueError, match=message):
        stream(photos, **options)


def test_closing_twice_is_fine(photos):
    batches = stream(photos)
    assert iter(batches) is batches
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_table_of_classes(photos):
    classes = synthetic_classes([Task("a", "noise", 1), Task("bee", "haze:0.5", 3)], photos)
    assert pipeline.describe(classes).splitlines() == [
        "2 classes, 28 samples in a pass over all:",
        "  class  items  repeats  share  from",
        "  a          7      x 1  25.0%  synthetic noise on 7 photos",
        "  bee        7      x 3  75.0%  synthetic haze:0.5 on 7 photos",
    ]


def test_the_table_reports_skipped_files(tmp_path, monkeypatch):
    for i in range(3):
        images.write_image(tmp_path / f"{i}.png", np.zeros((20, 20, 3)))
    (tmp_path / "1.png").write_bytes(b"none")
    source = PhotoSource(sorted(tmp_path.iterdir()))
    lines = pipeline.describe(synthetic_classes(FIVE, source)).splitlines()
    assert lines[0] == "5 classes, 10 samples in a pass over all:"
    assert lines[-1] == "  all classes: 2 photos (1 of 3 files left out as unreadable)"
    rain = TrainingClass(Task("rain", "rain"), source, "here")
    other = PhotoSource([tmp_path / "0.png"])
    lines = pipeline.describe((rain, *synthetic_classes(FIVE[1:], other))).splitlines()
    assert lines[-1].startswith("  rain: 2 photos (1 of 3")
    monkeypatch.setattr(sources, "CHECK_LIMIT", 1)
    source = PhotoSource([tmp_path / "0.png", tmp_path / "2.png"])
    line = pipeline.describe(synthetic_classes(FIVE, source)).splitlines()[-1]
    assert line == "  all classes: 2 photos (too many to check each before the run)"


@pytest.mark.parametrize("length", [16, 17, 18, 19, 40])
def test_the_centre_crop_starts_as_in_the_original(length):
    assert crop_start(length, 16) == (length - 16) // 2


def test_crops_of_cells_are_in_their_middles():
    assert [crop_start(40, 16, cell, 3) for cell in range(3)] == [4, 12, 20]
    assert [crop_start(10, 16, cell, 3) for cell in range(3)] == [0, 0, 0]
