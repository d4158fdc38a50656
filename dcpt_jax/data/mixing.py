"""The order of classes and items in the stream of samples.

In a pass over the data, class c has n(c) = len(c) * repeats(c) samples, where len(c) is its number
of items (photos or pairs). The stream consists of blocks: with d the greatest common divisor of all
n(c), each block has exactly n(c) / d samples of class c, in a new random order, and d blocks are
one pass. Within a class, items are used in rounds: each round uses every item once, in a new random
order. So in a pass, every item of class c is used exactly repeats(c) times.

If all classes have equally many items, for example the same photos, a block has sum(repeats)
samples, and in any sequence of consecutive samples, the count of a class differs from its exact
share by less than 2 * repeats. Otherwise a block can be as long as a pass.
"""

import bisect
import itertools
import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Threads work on neighbouring batches, so at the end of a round they need two orders in turn.
_ORDERS_KEPT = 2


class Stream(NamedTuple):
    """One class of the stream: its name, number of items, and repeats of each item."""

    name: str
    num_items: int
    repeats: int


class Order:
    """Class and item of sample number n, by the rules at the top of this module.

    A pure function of the streams, the seed and n, so samples can be computed in any order.
    Permutations are computed on demand (20 ms for a block of a million samples), and the latest are
    cached: four bytes per sample of a block and per item of each class.

    Grain's own operations are not suitable: its mixing cycles through the classes in a fixed order
    (with as many shards as classes, each shard would see one class only) and rounds ratios such as
    3 to 7; its shuffling takes 1.6 ms per sample for eleven photos, four times as long as making
    the sample.

    Attributes:
        counts: number of samples of each class in a block.
        block_length: number of samples in a block.
        pass_length: number of samples in a pass over the data.
    """

    def __init__(self, streams: Sequence[Stream], seed: int):
        """The order for these classes; it depends on their names and the seed."""
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
        # A seed per class, else all classes would use shared photos in the same order.
        self._seeds = [hashed(seed, "photos", stream.name) for stream in streams]
        self._block_seed = hashed(seed, "classes")
        self._kept: dict[int, tuple[tuple[int, np.ndarray], ...]] = {}

    def __call__(self, n: int) -> tuple[int, int]:
        """Index of the class of sample number n, and index of the item in that class."""
        block, position = divmod(n, self.block_length)
        slot = int(self._shuffled(self._block_seed, block, self.block_length)[position])
        label = bisect.bisect_right(self._ends, slot)
        k = slot - self._ends[label] + (block + 1) * self.counts[label]
        round_, position = divmod(k, self._num_items[label])
        return label, int(
            self._shuffled(self._seeds[label], round_, self._num_items[label])[position]
        )

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
    """A seed in [0, 2^32) from numbers and names; the same on every machine."""
    return zlib.crc32("/".join(map(str, parts)).encode())
