"""In which order the stream goes through the classes and their items.

The stream is cut into blocks. A block holds class c exactly len(c) * repeats(c) times, where len(c)
is the number of its items (photos or pairs), all these divided by their greatest common divisor d,
in an order drawn anew for each block. So d blocks are one pass over the data: in a pass every item
of class c is used exactly repeats(c) times. Within a class every item is used once per round, in a
new order each round; a round begins when the one before it is over.

In a block of classes with equally many items, such as those that share their photos, there are
sum(repeats) samples; in any run of consecutive samples, a class is less than 2 * repeats away from
its exact share. With other numbers of items a block can be as long as the pass.
"""

import bisect
import itertools
import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Threads work on neighbouring batches, so at a border they ask for two orders in turn.
_ORDERS_KEPT = 2


class Stream(NamedTuple):
    """One class as the order sees it: its name, number of items, and how often each is used."""

    name: str
    num_items: int
    repeats: int


class Order:
    """Class and item of sample number n, by the rules at the top of this module.

    It is a pure function of the streams, the seed and n, so any sample can be asked for first.
    Orders are made when they are needed (20 ms for a block of a million samples), and the newest
    ones are kept: four bytes per sample of a block and per item of each class.

    Grain's own operations are not used for this: its mixing goes round the classes in a fixed order
    (with as many shards as classes each shard would see one class only) and rounds ratios such as
    3 to 7, and its shuffling takes 1.6 ms per sample in a list of eleven photos, four times as long
    as making the sample.

    Attributes:
        counts: samples of each class in a block.
        block_length: samples of a block.
        pass_length: samples after which each item of each class was used `repeats` times.
    """

    def __init__(self, streams: Sequence[Stream], seed: int):
        """An order for these classes; those of the same name and seed go the same way."""
        for stream in streams:
            if stream.num_items < 1 or stream.repeats < 1:
                raise ValueError(
                    f"class {stream.name!r} needs at least one item and repeats of at least 1, "
                    f"not {stream.num_items} and {stream.repeats}"
                )
        samples = [stream.num_items * stream.repeats for stream in streams]
        self.pass_length = sum(samples)
        self.counts = [count // math.gcd(*samples) for count in samples]
        self.block_length = sum(self.counts)
        # A block's slots are numbered class by class; class c has those below _ends[c].
        self._ends = list(itertools.accumulate(self.counts))
        self._num_items = [stream.num_items for stream in streams]
        # Classes of one seed would go through shared photos in step.
        self._seeds = [hashed(seed, "photos", stream.name) for stream in streams]
        self._block_seed = hashed(seed, "classes")
        self._kept: dict[int, tuple[tuple[int, np.ndarray], ...]] = {}

    def __call__(self, n: int) -> tuple[int, int]:
        """Index of the class of sample number n, and index of the item in that class."""
        block, place = divmod(n, self.block_length)
        slot = int(self._shuffled(self._block_seed, block, self.block_length)[place])
        label = bisect.bisect_right(self._ends, slot)
        k = slot - self._ends[label] + (block + 1) * self.counts[label]
        round_, place = divmod(k, self._num_items[label])
        return label, int(self._shuffled(self._seeds[label], round_, self._num_items[label])[place])

    def _in_turn(self, slots: np.ndarray) -> np.ndarray:
        """The slots of each class in ascending order, at the positions that the class has."""
        labels = np.searchsorted(self._ends, slots, side="right").astype(np.uint16)
        slots[np.argsort(labels, kind="stable")] = np.arange(len(slots), dtype=np.int32)
        return slots

    def _shuffled(self, seed: int, round_: int, length: int) -> np.ndarray:
        """The order of one round, int32 [length]."""
        kept = self._kept.get(seed, ())
        for number, order in kept:
            if number == round_:
                return order
        order = np.random.default_rng([seed, round_]).permutation(length).astype(np.int32)
        if seed == self._block_seed:
            order = self._in_turn(order)
        # One assignment, so threads need no lock.
        self._kept[seed] = (*kept, (round_, order))[-_ORDERS_KEPT:]
        return order


def hashed(*parts: int | str) -> int:
    """A seed in [0, 2^32) from numbers and names, the same in every process and on any machine."""
    return zlib.crc32("/".join(map(str, parts)).encode())
