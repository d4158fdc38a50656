"""The stream of batches: what is in it, that it is reproducible, and how it fails."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from dcpt_jax import degradations, images
from dcpt_jax.data import pipeline
from dcpt_jax.data.pipeline import evaluation_samples, held_out_crops, make_batches
from dcpt_jax.data.sources import PhotoSource
from dcpt_jax.data.tasks import Task, resolve_tasks

FIVE = resolve_tasks("5d")
HEIGHT, WIDTH = 40, 56


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Seven photos in which every pixel tells its column (red), row (green), and photo (blue)."""
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for i in range(7):
        pixels = np.stack([x, y, np.full_like(x, i)], axis=-1)
        images.write_image(folder / f"{i}.png", pixels / 255)
    return sorted(folder.iterdir())


@pytest.fixture
def photos(paths):
    return PhotoSource(paths)


def stream(photos, *, tasks=FIVE, batch_size=4, crop=16, seed=0, **options):
    return make_batches(tasks, photos, batch_size=batch_size, crop=crop, seed=seed, **options)


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
    if degradations.get(task.degradation).clips:
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
    found = pipeline._crop_at(pixels, 0, 0, 16)
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


# --- how classes and photos are mixed ------------------------------------------------------------


def test_classes_are_exact_in_every_block(photos):
    tasks = [Task("a", "noise", 3), Task("b", "haze", 7)]
    batches = take(12, photos, tasks=tasks, batch_size=10)
    for batch in batches:
        assert Counter(batch["task"].tolist()) == {0: 3, 1: 7}
    orders = {tuple(batch["task"].tolist()) for batch in batches}
    assert len(orders) > 6  # drawn anew, not one pattern over and over


def test_common_divisor_of_repeats_makes_no_larger_blocks(photos):
    tasks = [Task("a", "noise", 30), Task("b", "haze", 70)]
    for batch in take(5, photos, tasks=tasks, batch_size=10):
        assert Counter(batch["task"].tolist()) == {0: 3, 1: 7}


def test_no_run_of_samples_is_far_from_the_shares(photos):
    labels = np.concatenate([batch["task"] for batch in take(50, photos, batch_size=8)])
    for length in (8, 16, 33):
        for start in range(0, len(labels) - length):
            counts = np.bincount(labels[start : start + length], minlength=5)
            assert np.abs(counts - length / 5).max() < 2


def test_every_class_uses_every_photo_once_per_round(photos):
    rounds = 6
    batches = take(7 * rounds, photos, batch_size=5)
    labels = np.concatenate([batch["task"] for batch in batches])
    used = np.concatenate([photo_of(batch["clean"]) for batch in batches])
    orders = set()
    for label in range(5):
        of_class = used[labels == label].reshape(rounds, 7)
        assert (np.sort(of_class) == np.arange(7)).all()
        orders.update(map(tuple, of_class.tolist()))
    assert len(orders) > 25  # neither the same every round nor the same for every class


def test_each_round_draws_anew(paths):
    batches = take(10, PhotoSource(paths[:1]), tasks=resolve_tasks("noise"), batch_size=1, crop=30)
    clean = {batch["clean"].tobytes() for batch in batches}
    noise = {(batch["degraded"] - batch["clean"]).tobytes() for batch in batches}
    assert len(clean) == len(noise) == 10


# --- the same stream again -----------------------------------------------------------------------


def test_same_seed_same_bytes_and_other_seed_other_bytes(photos, paths):
    first = take(4, photos, seed=3)
    assert_same(first, take(4, PhotoSource(paths, cache_megabytes=0), seed=3))
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


def test_state_continues_the_stream(photos):
    with stream(photos, start=2) as batches:
        assert batches.position == 2
        next(batches)
        next(batches)
        state = json.loads(json.dumps(batches.get_state()))
        expected = next(batches)
    assert state == {"start": 4}
    assert_same([expected], take(1, photos, **state))


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


def test_bad_photo_is_replaced_and_told(tmp_path, caplog):
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
    def fail(*_):
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


@pytest.mark.slow
def test_error_in_a_worker_comes_through(tmp_path):
    images.write_image(tmp_path / "only.png", np.zeros((20, 20, 3)))
    spoil(tmp_path / "only.png")
    source = PhotoSource([tmp_path / "only.png"], on_bad_file="refuse")
    with pytest.raises(images.ImageError, match=r"only\.png: .*checksum"):
        take(1, source, num_workers=2)


def children(pid):
    psutil = pytest.importorskip("psutil")
    found = psutil.Process(pid).children(recursive=True)
    return [p for p in found if "resource_tracker" not in " ".join(p.cmdline())]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_worker_is_told(photos, num_workers):
    before = {p.pid for p in children(os.getpid())}
    with stream(photos, num_workers=num_workers) as batches:
        next(batches)
        victim = next(p for p in children(os.getpid()) if p.pid not in before)
        victim.kill()
        with pytest.raises(pipeline.DataError, match=r"worker process died before batch .*code -9"):
            for _ in range(100):
                next(batches)
    assert {p.pid for p in children(os.getpid())} <= before


@pytest.mark.slow
def test_workers_outlive_ctrl_c_and_stop_when_closed(photos):
    before = {p.pid for p in children(os.getpid())}
    batches = stream(photos, num_workers=2)
    for _ in range(2):  # one batch from each worker: both have started
        next(batches)
    workers = [p for p in children(os.getpid()) if p.pid not in before]
    assert len(workers) == 2
    for worker in workers:
        worker.send_signal(signal.SIGINT)
        worker.send_signal(signal.SIGTERM)
    for _ in range(20):
        next(batches)
    batches.close()
    assert not [worker for worker in workers if worker.is_running()]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
PROGRAM = """
import os, signal, sys
from dcpt_jax.data import pipeline, sources, tasks

def main():
    batches = pipeline.make_batches(
        tasks.resolve_tasks("5d"), sources.PhotoSource(sys.argv[1:]),
        batch_size=2, crop=16, seed=0, num_workers=2,
    )
    next(batches)
    print("running", flush=True)
    signal.pause()

"""


@pytest.mark.slow
def test_workers_end_when_the_main_process_is_killed(paths, tmp_path):
    psutil = pytest.importorskip("psutil")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + 'if __name__ == "__main__":\n    main()\n')
    command = [sys.executable, str(program), *map(str, paths)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    ) as main:
        assert main.stdout.readline() == b"running\n"
        workers = children(main.pid)
        assert len(workers) == 2
        main.kill()
    gone, alive = psutil.wait_procs(workers, timeout=10)
    for worker in alive:
        worker.kill()
    assert len(gone) == 2


@pytest.mark.slow
def test_program_without_main_guard_is_told_so(paths, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + "main()\n")
    command = [sys.executable, str(program), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
    assert done.returncode == 1
    assert 'the program lacks `if __name__ == "__main__":`' in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": (2, 2)}, r"shard must be \(index, count\)"),
        ({"shard": (-1, 2)}, r"shard must be \(index, count\)"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"crop": 0}, "crop must be at least 1, not 0"),
        ({"start": -1}, "start must be at least 0, not -1"),
        ({"num_workers": -1}, "num_workers must be at least 0, not -1"),
        ({"tasks": ()}, "number of tasks must be at least 1, not 0"),
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


# --- evaluation ----------------------------------------------------------------------------------


def corner(crop):
    return tuple(np.rint(crop.image[0, 0] * 255).astype(int).tolist())


def test_one_crop_per_photo_is_its_centre(photos):
    crops = held_out_crops(photos, size=16, per_photo=1, seed=5)
    assert [crop.name for crop in crops] == [str(i) for i in range(7)]
    assert [corner(crop) for crop in crops] == [(20, 12, i) for i in range(7)]
    assert crops[0].image.dtype == np.float32


@pytest.mark.parametrize("per_photo", [2, 3, 4, 5, 12])
def test_crops_are_spread_and_always_the_same(photos, per_photo):
    crops = held_out_crops(photos, size=8, per_photo=per_photo, seed=1)
    assert len(crops) == len({crop.name for crop in crops}) == 7 * per_photo
    assert len({corner(crop) for crop in crops}) == 7 * per_photo
    again = held_out_crops(photos, size=8, per_photo=per_photo, seed=1)
    assert [corner(crop) for crop in crops] == [corner(crop) for crop in again]
    if per_photo == 12:  # 3 rows of 4 on photos of 40x56: none overlap
        found = np.array([corner(crop)[:2] for crop in crops[:12]])
        gaps = np.abs(found[:, None] - found[None]).max(axis=-1)
        assert gaps[~np.eye(12, dtype=bool)].min() >= 8


def test_seed_chooses_the_cells_that_are_left_empty(photos):
    found = {
        tuple(map(corner, held_out_crops(photos, size=8, per_photo=5, seed=seed)))
        for seed in range(4)
    }
    assert len(found) > 1


def test_held_out_crops_of_small_photos(tmp_path):
    images.write_image(tmp_path / "a.png", np.full((3, 5, 3), 0.2))
    crops = held_out_crops(PhotoSource([tmp_path / "a.png"]), size=16, per_photo=2)
    assert [crop.image.shape for crop in crops] == [(16, 16, 3)] * 2


def test_bad_photo_is_never_evaluated_under_another_name(tmp_path):
    for i in range(3):
        images.write_image(tmp_path / f"{i}.png", np.full((20, 20, 3), i / 255))
    spoil(tmp_path / "1.png")
    paths = sorted(tmp_path.iterdir())
    crops = held_out_crops(PhotoSource(paths), size=8, per_photo=1)
    assert [(crop.name, corner(crop)[2]) for crop in crops] == [("0", 0), ("2", 2)]
    with pytest.raises(images.ImageError, match=r"1\.png"):
        held_out_crops(PhotoSource(paths, on_bad_file="refuse"), size=8, per_photo=1)
    with pytest.raises(images.ImageError, match="none of 1 photos"):
        held_out_crops(PhotoSource(paths[1:2]), size=8, per_photo=1)


@pytest.mark.parametrize("options", [{"size": 0, "per_photo": 1}, {"size": 8, "per_photo": 0}])
def test_bad_arguments_of_held_out_crops(photos, options):
    with pytest.raises(ValueError, match="must be at least 1"):
        held_out_crops(photos, **options)


def test_evaluation_samples_depend_on_names_only(photos):
    crops = held_out_crops(photos, size=16, per_photo=2)
    before = [crop.image.copy() for crop in crops]
    samples = list(evaluation_samples(FIVE, crops, seed=2))
    assert len(samples) == len(crops) * 5
    assert [sample.task for sample in samples[:5]] == [0, 1, 2, 3, 4]
    assert [sample.name for sample in samples[:6]] == [crops[0].name] * 5 + [crops[1].name]
    for crop, image in zip(crops, before, strict=True):
        np.testing.assert_array_equal(crop.image, image)
    by_name = {(s.name, FIVE[s.task].name): s for s in samples}
    fewer = FIVE[::-2]
    for sample in evaluation_samples(fewer, crops[::-3], seed=2):
        expected = by_name[sample.name, fewer[sample.task].name]
        np.testing.assert_array_equal(sample.degraded, expected.degraded)
        np.testing.assert_array_equal(sample.clean, expected.clean)


def test_evaluation_samples_draw_for_each_seed_crop_and_class(tmp_path):
    images.write_image(tmp_path / "a.png", np.full((40, 40, 3), 0.5))
    crops = held_out_crops(PhotoSource([tmp_path / "a.png"]), size=16, per_photo=4)
    tasks = (Task("a", "noise:25"), Task("b", "noise:25"))
    found = {
        sample.degraded.tobytes()
        for seed in (0, 1)
        for sample in evaluation_samples(tasks, crops, seed=seed)
    }
    assert len(found) == 2 * 4 * 2


def test_description_counts_photos_and_shares(photos):
    tasks = [Task("a", "noise", 1), Task("b", "haze", 3)]
    text = pipeline.describe(tasks, photos)
    assert text == "7 photos; photos x repeats per class: a 7 x 1 (25.0%), b 7 x 3 (75.0%)"
