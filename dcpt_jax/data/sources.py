"""Base of all sources: decoding on demand, a bounded cache, and the handling of bad files.

A source is a sequence of items (`__len__`, `__getitem__`), as Grain expects: clean photos, or pairs
of a degraded and a clean photo. An item that turns out to be bad when decoded is replaced by the
next one in the list. This depends on the files alone, so the stream of items is the same for any
number of worker processes and after a restart. Every bad file is logged once per process, and
counted.
"""

import bisect
import collections
import dataclasses
import functools
import itertools
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dcpt_jax import images
from dcpt_jax.images import listing

BAD_FILE_RULES = ("skip", "refuse")
NAMED_LIMIT = 20  # most bad files named individually at the start
CHECK_LIMIT = 5000  # most files checked at the start, which takes seconds on a slow disk

_logger = logging.getLogger(__name__)


class Pair(NamedTuple):
    """A degraded photo and its clean original: uint8 or uint16 [h, w, 3] RGB each."""

    degraded: np.ndarray
    clean: np.ndarray


class Cache:
    """Cache of decoded items of one or several sources; drops the least recently used ones.

    A pickled copy, as in worker processes, has the same limit and is empty.
    """

    def __init__(self, megabytes: float):
        """An empty cache."""
        if megabytes < 0:
            raise ValueError(f"cache_megabytes must be 0 or larger, not {megabytes}")
        self._limit = int(megabytes * 1e6)
        self._sources = 0
        self._start()

    def add_source(self) -> int:
        """A number that distinguishes the items of one source from those of the others."""
        with self.lock:
            self._sources += 1
            return self._sources

    def get(self, key: Any) -> Any:
        """The item with that key, or None."""
        with self.lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key]

    def put(self, key: Any, item: Any) -> None:
        """Caches an item (an array or a tuple of arrays), unless it alone exceeds the limit."""
        size = _bytes_of(item)
        with self.lock:
            if size > self._limit or key in self._items:
                return
            self._items[key] = item
            self.bytes += size
            while self.bytes > self._limit:
                self.bytes -= _bytes_of(self._items.popitem(last=False)[1])

    def __len__(self) -> int:
        """Number of cached items."""
        return len(self._items)

    def _start(self) -> None:
        self._items: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        self.bytes = 0
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """The settings only."""
        return {"_limit": self._limit, "_sources": self._sources}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the settings; the cache is empty."""
        vars(self).update(state)
        self._start()


class Source(Sequence):
    """Items by index, decoded on demand and kept in a bounded cache.

    Decoding a whole photo for a single crop is the main cost of the pipeline, hence the cache.
    Subclasses implement `__len__`, `names`, `describe`, `report` and `_decode`, and `check` if the
    items are files.

    Attributes:
        is_pairs: whether the items are pairs.
        report: result of the check at the start.
        on_bad_file: "skip" or "refuse".
        unreadable: index -> reason, of items that failed in decoding, in this process so far.
    """

    is_pairs = False
    report: "SourceReport"

    def __init__(
        self,
        *,
        on_bad_file: str = "skip",
        cache: Cache | float = 512,
        max_pixels: int = images.MAX_PIXELS,
        colour: str = "srgb",
    ):
        """The options that all sources have.

        Args:
            on_bad_file: "skip" leaves out bad items and names the first ones in the log; "refuse"
                stops at the first.
            cache: limit in megabytes of decoded items in memory, per process; or a cache shared
                with other sources.
            max_pixels: larger images count as bad.
            colour: "srgb" or "as_is", see `images.read_pixels`.

        Raises:
            ValueError: for another `on_bad_file`.
        """
        check_bad_file_rule(on_bad_file)
        self.on_bad_file = on_bad_file
        self.unreadable: dict[int, str] = {}
        self._max_pixels = max_pixels
        self._colour = colour
        self._cache = cache if isinstance(cache, Cache) else Cache(cache)
        self._number = self._cache.add_source()

    @property
    def noun(self) -> str:
        """What an item is, for people."""
        return "pair" if self.is_pairs else "photo"

    @property
    def parts(self) -> tuple["Source", ...]:
        """The sources that are joined in this one: itself, unless it is `Concatenated`."""
        return (self,)

    def describe(self, index: int) -> str:
        """The file or files of an item, for messages."""
        raise NotImplementedError

    def _decode(self, index: int) -> Any:
        """The item with this index; ImageError if it cannot be read."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        """An item, read-only; a bad one is replaced by the next.

        Raises:
            ImageError: for a bad file if `on_bad_file` is "refuse", or if all are bad.
            IndexError: if the index is out of range.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.noun} {index} of {len(self)}")
        for step in range(len(self)):
            try:
                return self.read((index + step) % len(self))
            except images.ImageError as error:
                if self.on_bad_file == "refuse":
                    raise refused(error) from error
        raise images.ImageError(f"none of {len(self)} {self.noun}s can be read")

    def read(self, index: int) -> Any:
        """The item with exactly this index; ImageError if it is bad."""
        if index in self.unreadable:
            raise images.ImageError(self.unreadable[index])
        key = (self._number, index)
        item = self._cache.get(key)
        if item is not None:
            return item
        try:
            item = self._decode(index)
        except images.ImageError as error:
            with self._cache.lock:  # two threads may read the same file
                is_new = index not in self.unreadable
                self.unreadable[index] = str(error)
                count = len(self.unreadable)
            if is_new and self.on_bad_file == "skip":
                _logger.warning("%s skipped (%d so far): %s", self.noun, count, error)
            raise
        for pixels in arrays_of(item):
            pixels.setflags(write=False)  # cached items are shared by all crops
        self._cache.put(key, item)
        return item

    def __repr__(self) -> str:
        """Short, since Grain prints it in messages."""
        return f"{type(self).__name__}({len(self)} {self.noun}s)"


def check_bad_file_rule(on_bad_file: str) -> None:
    """Raises ValueError unless the rule is "skip" or "refuse"."""
    if on_bad_file not in BAD_FILE_RULES:
        raise ValueError(f"on_bad_file must be 'skip' or 'refuse', not {on_bad_file!r}")


def refused(error: images.ImageError) -> images.ImageError:
    """The error for a bad file under the rule "refuse", with a hint how to skip such files."""
    return images.ImageError(f"{error} (--config.data.on_bad_file=skip skips such files)")


def warn_of_each(reasons: Sequence[str], noun: str) -> None:
    """Logs a warning for each of the first items left out, and the number of others."""
    for reason in reasons[:NAMED_LIMIT]:
        _logger.warning("%s left out: %s", noun, reason)
    if len(reasons) > NAMED_LIMIT:
        _logger.warning("... and %d more %ss left out", len(reasons) - NAMED_LIMIT, noun)


def check_each(
    check: Callable[[int], object], count: int, on_bad_file: str
) -> tuple[list[int], list[tuple[int, images.ImageError]]]:
    """Calls `check` with every index; returns the good indices, and the bad ones with their errors.

    Raises:
        ImageError: for the first bad file if `on_bad_file` is "refuse".
    """
    good, bad = [], []
    for index in range(count):
        try:
            check(index)
        except images.ImageError as error:
            if on_bad_file == "refuse":
                raise refused(error) from error
            bad.append((index, error))
        else:
            good.append(index)
    return good, bad


def arrays_of(item: Any) -> tuple[np.ndarray, ...]:
    """(photo,), or (degraded, clean) of a pair."""
    return (item,) if isinstance(item, np.ndarray) else tuple(item)


def _bytes_of(item: Any) -> int:
    return sum(pixels.nbytes for pixels in arrays_of(item))


class Concatenated(Source):
    """Concatenation of several sources of the same kind; each part has a report of its own."""

    def __init__(self, parts: Sequence[Source]):
        """Joins sources."""
        if not parts:
            raise ValueError("nothing to join")
        super().__init__(on_bad_file=parts[0].on_bad_file, cache=0)
        self.is_pairs = parts[0].is_pairs
        self._parts = tuple(parts)
        self._ends = tuple(itertools.accumulate(len(part) for part in self.parts))

    @property
    def parts(self) -> tuple[Source, ...]:
        """The joined sources."""
        return self._parts

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all items; duplicate names get the number of their source."""
        names = [name for part in self.parts for name in part.names]
        counts = collections.Counter(names)
        numbers = (i + 1 for i, part in enumerate(self.parts) for _ in range(len(part)))
        return tuple(
            name if counts[name] == 1 else f"{number}/{name}"
            for name, number in zip(names, numbers, strict=True)
        )

    def __len__(self) -> int:
        """Number of items."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        """An item, read-only; a bad one is replaced by the next of the same source."""
        part, index = self._find(index)
        return part[index]

    def read(self, index: int) -> Any:
        """The item with exactly this index."""
        part, index = self._find(index)
        return part.read(index)

    def describe(self, index: int) -> str:
        """The file or files of an item."""
        part, index = self._find(index)
        return part.describe(index)

    def _find(self, index: int) -> tuple[Source, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        index %= len(self)
        which = bisect.bisect_right(self._ends, index)
        return self.parts[which], index - (self._ends[which - 1] if which else 0)

    def __repr__(self) -> str:
        """Short, since Grain prints it in messages."""
        return f"Concatenated({', '.join(map(repr, self.parts))})"


@dataclasses.dataclass(frozen=True)
class SourceReport:
    """Result of checking a source at the start."""

    used: str  # the good items, for people: "5 photos"
    total: int  # number of files found, bad ones included; of items, if these are not files
    skipped: tuple[tuple[Path, str], ...] = ()  # (file, reason) of the bad ones
    lost: str = ""  # these, for people: "2 of 7 files left out"
    # Number of pairs "unpaired", "unreadable" or of "different size"; {} if all are unreadable
    kinds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unused: int = 0  # number of clean files without a degraded one
    checked: bool = True  # False if there were too many files to check before the run
    # Number of other files left out, see `FileList`
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()  # see `Pairing`

    def summary(self) -> str:
        """One line: how many items are used and how many files were left out, and why."""
        text = self.used + (f" ({self.lost})" if self.skipped else "")
        if self.unused:
            text += f", clean files without a degraded one: {self.unused}"
        if not self.checked:
            text += " (too many to check each before the run)"
        return "; ".join([text, *listing.left_out_texts(self.left_out)])


def unique_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Unique names of files: the stem, else the file name, else the path.

    Paths are relative to the common folder of all files, so names do not depend on where that
    folder is. A file that occurs twice gets its index in addition.
    """
    files = [os.path.abspath(path) for path in paths]
    folder = os.path.commonpath({os.path.dirname(file) for file in files}) if files else ""
    start = len(os.path.join(folder, ""))
    files = [file[start:] for file in files]
    names = [os.path.basename(file) for file in files]
    rows = [(os.path.splitext(n)[0], n, file) for n, file in zip(names, files, strict=True)]
    counts = collections.Counter(name for row in rows for name in set(row))
    names = [next((name for name in row if counts[name] == 1), row[-1]) for row in rows]
    counts = collections.Counter(names)
    return tuple(n if counts[n] == 1 else f"{n}#{i}" for i, n in enumerate(names))
