"""The order of classes and items."""

import dataclasses
import pickle
import time
from collections import Counter

import numpy as np
import pytest

from dcpt_jax import images
from dcpt_jax.data.classes import synthetic_classes
from dcpt_jax.data.mixing import Order, Stream, hashed
from dcpt_jax.data.photos import PhotoSource
from dcpt_jax.data.pipeline import make_batches
from dcpt_jax.data.tasks import resolve_tasks

# Rain100L-like, one with a common divisor, one of a single item, one larger than its share.
UNEVEN = (Stream("rain", 5, 6), Stream("haze", 12, 1), Stream("one", 1, 9), Stream("blur", 7, 3))
EVEN = tuple(Stream(name, 7, 1) for name in "abcde")


def take(order, count, start=0):
    """Classes and items of samples, int [count, 2]."""
    return np.array([order(n) for n in range(start, start + count)])


# --- exact shares --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("streams", "counts"),
    [
        ((Stream("a", 7, 3), Stream("b", 7, 7)), [3, 7]),
        ((Stream("a", 7, 30), Stream("b", 7, 70)), [3, 7]),
        ((Stream("a", 40, 2), Stream("b", 60, 2)), [2, 3]),
        (UNEVEN, [10, 4, 3, 7]),
        ((Stream("only", 9, 4),), [1]),
    ],
)
def test_every_block_holds_the_exact_counts(streams, counts):
    order = Order(streams, 0)
    assert order.counts == counts
    assert order.block_length == sum(counts)
    seen = set()
    for block in range(12):
        labels = take(order, sum(counts), block * sum(counts))[:, 0]
        np.testing.assert_array_equal(np.bincount(labels, minlength=len(counts)), counts)
        seen.add(tuple(labels.tolist()))
    assert len(seen) > 4 or len(counts) == 1  # drawn anew, not one pattern over and over


@pytest.mark.parametrize("start", [0, 3])
def test_every_item_is_used_exactly_its_repeats_in_a_pass(start):
    order = Order(UNEVEN, 4)
    assert order.pass_length == 30 + 12 + 9 + 21
    used = Counter(map(tuple, take(order, order.pass_length, start * order.pass_length).tolist()))
    assert used == {
        (label, item): stream.repeats
        for label, stream in enumerate(UNEVEN)
        for item in range(stream.num_items)
    }


@pytest.mark.parametrize("streams", [EVEN, UNEVEN])
def test_rounds_of_a_class_follow_one_another(streams):
    order = Order(streams, 1)
    samples = take(order, 20 * sum(stream.num_items for stream in streams))
    orders = set()
    for label, stream in enumerate(streams):
        items = samples[samples[:, 0] == label, 1]
        rounds = items[: len(items) // stream.num_items * stream.num_items]
        rounds = rounds.reshape(-1, stream.num_items)
        assert len(rounds) > 5
        assert (np.sort(rounds) == np.arange(stream.num_items)).all()
        if stream.num_items > 1:
            found = {(label, *row) for row in rounds.tolist()}
            assert len(found) > 0.8 * len(rounds)  # a new order each time
            orders |= {row[1:] for row in found}
    if streams is EVEN:
        assert len(orders) > 80  # nor the same for every class


def test_no_run_of_samples_of_even_classes_is_far_from_the_shares():
    labels = take(Order(EVEN, 0), 400)[:, 0]
    for length in (8, 16, 33):
        for start in range(0, len(labels) - length):
            counts = np.bincount(labels[start : start + length], minlength=5)
            assert np.abs(counts - length / 5).max() < 2


def test_runs_of_uneven_classes_are_near_their_shares():
    streams = (Stream("a", 1000, 3), Stream("b", 4000, 1), Stream("c", 500, 2))
    assert Order(streams, 0).block_length == 3 + 4 + 1
    # No common divisor: one block is the pass.
    order = Order((*streams, Stream("d", 1993, 1)), 0)
    assert order.block_length == order.pass_length == 9993
    shares = np.array(order.counts) / order.block_length
    labels = take(order, 9975)[:, 0].reshape(-1, 35)
    counts = np.stack([(labels == label).sum(axis=1) for label in range(4)], axis=1)
    limit = 5 * np.sqrt(35 * shares * (1 - shares))  # five standard deviations
    assert (np.abs(counts - 35 * shares) < limit).all()


# --- the same everywhere -------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [EVEN, UNEVEN])
def test_any_sample_can_be_asked_for_first(streams):
    whole = take(Order(streams, 3), 300)
    order = Order(streams, 3)
    for n in np.random.default_rng(0).permutation(300):
        assert order(int(n)) == tuple(whole[n])
    np.testing.assert_array_equal(take(pickle.loads(pickle.dumps(order)), 300), whole)


def test_seeds_and_names_choose_the_order():
    first = take(Order(UNEVEN, 0), 200)
    np.testing.assert_array_equal(first, take(Order(UNEVEN, 0), 200))
    assert (take(Order(UNEVEN, 1), 200) != first).any()
    renamed = UNEVEN[0]._replace(name="sleet")
    others = take(Order((renamed, *UNEVEN[1:]), 0), 200)
    np.testing.assert_array_equal(others[:, 0], first[:, 0])  # classes as before
    rain = first[:, 0] == 0
    np.testing.assert_array_equal(others[~rain], first[~rain])
    assert (others[rain] != first[rain]).any()


def test_shards_see_every_class():
    for count in (2, 5, 8):
        for shard in range(count):
            labels = [Order(EVEN, 0)(n)[0] for n in range(shard, 40 * count, count)]
            assert set(labels) == set(range(5))


def test_a_block_of_a_million_samples_is_made_fast():
    streams = (  # the five classes of the paper
        Stream("rain", 200, 300),
        Stream("noise", 85443, 8),
        Stream("haze", 72135, 1),
        Stream("low_light", 485, 160),
        Stream("motion_blur", 16824, 5),
    )
    order = Order(streams, 0)
    assert order.block_length == order.pass_length == 977_399
    times = []
    for block in range(3):
        begun = time.process_time()
        order(block * order.block_length)
        times.append(time.process_time() - begun)
    assert min(times) < 0.2  # 0.06 s on one core
    begun = time.process_time()
    for n in range(20_000):
        order(n)
    assert time.process_time() - begun < 1  # 2 us each; making a sample takes 500
    kept = sum(order.nbytes for kept in order._kept.values() for _, order in kept)
    assert kept < 12e6


def test_orders_at_a_border_are_kept():
    order = Order((Stream("a", 40, 3), Stream("b", 31, 2)), 0)
    assert order.block_length == 91
    order(90), order(91)
    before = {seed: [id(array) for _, array in kept] for seed, kept in order._kept.items()}
    for _ in range(3):  # as two threads do in turn
        order(90), order(91)
    assert before == {seed: [id(array) for _, array in kept] for seed, kept in order._kept.items()}


@pytest.mark.parametrize("stream", [Stream("bad", 0, 1), Stream("bad", 3, 0)])
def test_empty_classes_are_refused(stream):
    with pytest.raises(ValueError, match="class 'bad' needs at least one item and repeats"):
        Order((EVEN[0], stream), 0)


def test_hashes_never_change():
    assert hashed(0, "photos", "rain") == 3501557323
    assert hashed(3) == 1842515611


# --- recorded streams ----------------------------------------------------------------------------

# Classes and photos of the first 40 batches of four, of the five classes on seven photos with
# repeats 1, 1, 1, 1, 3. Runs continue from checkpoints of earlier versions, so these never change
# once a version is released.
RECORDED = {
    0: (
        "3424104312404414424304144032324440104423414342014420143444204134142043421434030244143444"
        "120034412430444212340441304214443440124430124240314444413021344402144432",
        "2260311142345456513024210334606205064534661535012122531542430346603416612452135035452163"
        "156004206051501221030244666004251362131035543554234162064362312306446564",
    ),
    1: (
        "4034412214044334414024431204410234441204344440321431244044423014130442434204140213444204"
        "431120443443102441340244342414044103424140342321044444021433102444421434",
        "2131416353260055230314614263124465200555261430406600203352445131115100543506546662245326"
        "332414106223213460603635411062564445103556265021235024043111105026363125",
    ),
}


def numbers(text):
    return [int(character) for character in text]


@pytest.mark.parametrize("seed", [0, 1])
def test_streams_on_shared_photos_are_as_recorded(seed, tmp_path):
    classes, photos = map(numbers, RECORDED[seed])
    repeats = (1, 1, 1, 1, 3)
    tasks = resolve_tasks("5d")
    names = ("rain", "noise", "haze", "low_light", "motion_blur")
    streams = [Stream(name, 7, count) for name, count in zip(names, repeats, strict=True)]
    np.testing.assert_array_equal(take(Order(streams, seed), 160).T, [classes, photos])
    # And so does the pipeline: the red of each photo is its number.
    for i in range(7):
        images.write_image(tmp_path / f"{i}.png", np.full((4, 4, 3), i / 255))
    tasks = [
        dataclasses.replace(task, repeats=count) for task, count in zip(tasks, repeats, strict=True)
    ]
    source = PhotoSource(sorted(tmp_path.iterdir()))
    with make_batches(synthetic_classes(tasks, source), batch_size=32, crop=4, seed=seed) as stream:
        batches = [next(stream) for _ in range(2)]
    used = np.rint(np.concatenate([batch["clean"] for batch in batches])[:, 0, 0, 0] * 255)
    np.testing.assert_array_equal(used, photos[:64])
    np.testing.assert_array_equal(
        np.concatenate([batch["task"] for batch in batches]), classes[:64]
    )
