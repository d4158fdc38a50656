"""Pairs of a degraded and a clean photo: checking and reading them; `pair_files` finds them."""

import contextlib
import functools
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from dcpt_jax import images
from dcpt_jax.data import sources
from dcpt_jax.data.pair_files import Pairing
from dcpt_jax.data.sources import Pair, Source, SourceReport

_logger = logging.getLogger(__name__)


class SizeError(images.ImageError):
    """The two photos of a pair have different sizes."""


def check_pair(
    degraded: Path, clean: Path, *, border: int = 0, max_pixels: int = images.MAX_PIXELS
) -> tuple[int, int]:
    """Checks both files of a pair by their headers; ImageError or SizeError if they are unusable.

    Returns:
        Height and width of the degraded photo.
    """
    _require_two_files(degraded, clean)
    headers = [images.check_image(path, max_pixels=max_pixels) for path in (degraded, clean)]
    sizes = [header.size for header in headers]
    # Headers of other formats do not tell the orientation.
    known = all(header.kind in ("PNG", "JPEG") for header in headers)
    turned = sizes[1] if known else sizes[1][::-1]
    if not (_sizes_fit(*sizes, border) or _sizes_fit(sizes[0], turned, border)):
        raise _size_error(degraded, clean, *sizes)
    return sizes[0]


class PairSource(Source):
    """Pairs by index: `Pair(degraded, clean)` of equal size, read-only; see `Source`.

    Attributes:
        degraded: the degraded files in use.
        clean: the clean file of each.
    """

    is_pairs = True

    def __init__(self, pairing: Pairing, **options: Any):
        """Checks the headers of all files, if there are at most `sources.CHECK_LIMIT` pairs.

        Args:
            pairing: from `pair_folders` or `pair_list`.
            **options: of `Source`; unpaired files and pairs of different sizes are bad.

        Raises:
            ImageError: for the first bad file if `on_bad_file` is "refuse", or if all are bad.
        """
        super().__init__(**options)
        self._border = pairing.border
        for warning in pairing.warnings:
            _logger.warning("%s", warning)
        skipped = [*pairing.inaccessible, *pairing.unpaired]
        if skipped and self.on_bad_file == "refuse":
            raise sources.refused(images.ImageError(skipped[0][1]))
        unreadable, unpaired = len(pairing.inaccessible), len(pairing.unpaired)
        kinds = {"unpaired": unpaired, "unreadable": unreadable, "different size": 0}
        self.degraded, self.clean = pairing.degraded, pairing.clean
        checked = len(pairing) <= sources.CHECK_LIMIT
        if checked:
            good, bad = sources.check_each(self.check, len(pairing), self.on_bad_file)
            for i, error in bad:
                kinds["different size" if isinstance(error, SizeError) else "unreadable"] += 1
                skipped.append((pairing.degraded[i], str(error)))
            if bad:
                self.degraded, self.clean = self.degraded.take(good), self.clean.take(good)
        sources.warn_of_each([reason for _, reason in skipped], "pair")
        if not self.degraded:
            raise images.ImageError(
                f"none of {len(pairing)} pairs can be read; first: {skipped[-1][1]}"
                + "".join(f"; {warning}" for warning in pairing.warnings)
            )
        total = len(pairing) + unpaired + unreadable
        problems = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        self.report = SourceReport(
            f"{len(self)} pairs",
            total,
            tuple(skipped),
            f"{len(skipped)} of {total} degraded files left out: {problems}",
            kinds=kinds,
            unused=len(pairing.unused),
            checked=checked,
            left_out=pairing.left_out,
            warnings=pairing.warnings,
        )

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the pairs: the stem of the degraded file, or a unique part of its path."""
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
    with contextlib.suppress(OSError):  # reported when the file is read
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
