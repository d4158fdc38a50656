"""Reading pairs of a degraded and a clean photo; `data.pairs` finds which files belong together."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dcpt_jax import images
from dcpt_jax.data import decoded, sources
from dcpt_jax.data.decoded import DecodedCache, DecodedSource
from dcpt_jax.data.pairs import Pairing
from dcpt_jax.data.sources import Pair


class SizeError(images.ImageError):
    """The two photos of a pair have different sizes."""


@dataclasses.dataclass(frozen=True)
class PairReport:
    """What became of the files of a source of pairs at the start.

    Attributes:
        found: number of degraded files, and of files and folders that could not be looked at.
        used: number of pairs that remain.
        skipped: (degraded file, reason) of those left out.
        kinds: how many of these are "unpaired", "unreadable" or of "different size".
        unused: number of clean files that belong to no degraded one.
        checked: False where there were too many pairs to check before the run.
        left_out: how many other files were left out, see `images.Scan`.
    """

    found: int
    used: int
    skipped: tuple[tuple[Path, str], ...]
    kinds: dict[str, int]
    unused: int
    checked: bool
    left_out: Mapping[str, int]

    def summary(self) -> str:
        """One line: how many pairs are used and how many files were left out, and why."""
        text = f"{self.used} pairs"
        if self.skipped:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items() if count)
            text += f" ({len(self.skipped)} of {self.found} degraded files left out: {kinds})"
        if self.unused:
            text += f", {self.unused} clean files without a degraded one"
        if not self.checked:
            text += " (too many to check each before the run)"
        return "; ".join([text, *images.left_out_texts(self.left_out)])


def check_pair(
    degraded: Path, clean: Path, *, border: int = 0, max_pixels: int = images.MAX_PIXELS
) -> tuple[int, int]:
    """Checks both files of a pair by their headers.

    Returns:
        Height and width of the degraded photo.

    Raises:
        SizeError: if the sizes do not fit.
        ImageError: if a file cannot be an image that is read, or both are the same.
    """
    _require_two_files(degraded, clean)
    headers = [images.check_image(path, max_pixels=max_pixels) for path in (degraded, clean)]
    sizes = [header.size for header in headers]
    # Of other kinds than these the header does not say how the picture is turned.
    known = all(header.kind in ("PNG", "JPEG") for header in headers)
    turned = sizes[1] if known else sizes[1][::-1]
    if not (_sizes_fit(*sizes, border) or _sizes_fit(sizes[0], turned, border)):
        raise _size_error(degraded, clean, *sizes)
    return sizes[0]


class PairSource(DecodedSource):
    """Pairs by index: `Pair(degraded, clean)` of equal size, read-only.

    Attributes:
        report: what became of the files at the start.
        degraded: the degraded files in use.
        clean: the clean file of each.
        on_bad_file: "skip" or "refuse".
        unreadable: index -> reason, of pairs that failed in decoding, in this process so far.
    """

    noun = "pair"

    def __init__(
        self,
        pairing: Pairing,
        *,
        on_bad_file: str = "skip",
        cache_megabytes: DecodedCache | float = 512,
        max_pixels: int = images.MAX_PIXELS,
        colour: str = "srgb",
    ):
        """Checks the pairs, of up to `sources.CHECK_LIMIT` without decoding them.

        Args:
            pairing: from `pair_folders` or `pair_list`.
            on_bad_file: what to do with degraded files without a clean one, with files that cannot
                be read and with pairs of different sizes: "skip" leaves them out, the first ones
                named in the log, "refuse" stops at the first.
            cache_megabytes: see `PhotoSource`.
            max_pixels: larger images count as bad.
            colour: "srgb" or "as_is", see `images.read_pixels`.

        Raises:
            ImageError: for the first bad file where `on_bad_file` is "refuse", or if all are bad.
        """
        super().__init__(
            on_bad_file=on_bad_file, cache=cache_megabytes, max_pixels=max_pixels, colour=colour
        )
        self._border = pairing.border
        skipped = [*pairing.passed_by, *pairing.unpaired]
        if skipped and on_bad_file == "refuse":
            raise decoded.refused(images.ImageError(skipped[0][1]))
        unreadable, unpaired = len(pairing.passed_by), len(pairing.unpaired)
        kinds = {"unpaired": unpaired, "unreadable": unreadable, "different size": 0}
        self.degraded, self.clean = pairing.degraded, pairing.clean
        checked = len(pairing) <= sources.CHECK_LIMIT
        if checked:
            used = []
            for i, (degraded, clean) in enumerate(zip(self.degraded, self.clean, strict=True)):
                try:
                    check_pair(degraded, clean, border=pairing.border, max_pixels=max_pixels)
                except images.ImageError as error:
                    if on_bad_file == "refuse":
                        raise decoded.refused(error) from error
                    kind = "different size" if isinstance(error, SizeError) else "unreadable"
                    kinds[kind] += 1
                    skipped.append((degraded, str(error)))
                else:
                    used.append(i)
            if len(used) < len(pairing):
                self.degraded, self.clean = self.degraded.take(used), self.clean.take(used)
        decoded.warn_of_each([reason for _, reason in skipped], "pair")
        if not self.degraded:
            raise images.ImageError(
                f"none of {len(pairing)} pairs can be read; first: {skipped[-1][1]}"
            )
        found = len(pairing) + unpaired + unreadable
        used, unused = len(self.degraded), len(pairing.unused)
        self.report = PairReport(
            found, used, tuple(skipped), kinds, unused, checked, pairing.left_out
        )

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """A name of each pair: the stem of its degraded file, or as much of its path as needed."""
        return sources.unique_names(self.degraded)

    def __len__(self) -> int:
        """Number of pairs in use."""
        return len(self.degraded)

    def describe(self, index: int) -> str:
        """The two files of a pair."""
        return f"{self.degraded[index]} and {self.clean[index]}"

    def check(self, index: int) -> tuple[int, int]:
        """Height and width of a pair by its headers; ImageError if it cannot be used."""
        paths = self.degraded[index], self.clean[index]
        return check_pair(*paths, border=self._border, max_pixels=self._max_pixels)

    def _decode(self, index: int) -> Pair:
        paths = self.degraded[index], self.clean[index]
        _require_two_files(*paths)
        degraded, clean = (
            images.read_pixels(path, max_pixels=self._max_pixels, colour=self._colour)
            for path in paths
        )
        sizes = degraded.shape[:2], clean.shape[:2]
        if not _sizes_fit(*sizes, self._border):
            raise _size_error(*paths, *sizes)
        if sizes[0] != sizes[1]:
            inner = slice(self._border, -self._border)
            clean = np.ascontiguousarray(clean[inner, inner])
        return Pair(degraded, clean)


def _require_two_files(degraded: Path, clean: Path) -> None:
    with contextlib.suppress(OSError):  # which reading it tells of
        if os.path.samefile(degraded, clean):
            raise images.ImageError(f"{degraded} and its clean photo {clean} are the same file")


def _sizes_fit(degraded: tuple[int, int], clean: tuple[int, int], border: int) -> bool:
    return clean in (degraded, (degraded[0] + 2 * border, degraded[1] + 2 * border))


def _size_error(
    degraded: Path, clean: Path, size: tuple[int, int], clean_size: tuple[int, int]
) -> SizeError:
    return SizeError(
        f"{degraded} is {size[1]}x{size[0]}, but its clean photo {clean} is "
        f"{clean_size[1]}x{clean_size[0]} pixels"
    )
