"""User-defined sources, registered by plugins: see `spec.register` and docs/extending.md."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from dcpt_jax import images
from dcpt_jax.data.sources import Pair, Source, SourceReport
from dcpt_jax.data.spec import REGISTERED, SourceError


class RegisteredSource(Source):
    """The photos or pairs that a registered function returned; those with an ImageError are bad."""

    def __init__(self, kind: str, text: str, **options: Any):
        """Opens a source of a registered kind and reads its first item."""
        super().__init__(**options)
        self._text = f"{kind}:{text}"
        self._items: Sequence[Any] = REGISTERED[kind](text)
        if not len(self._items):
            raise SourceError(f"{self._text} has no items")
        self.is_pairs = isinstance(self._items[0], tuple | list)
        self.report = SourceReport(f"{len(self)} {self.noun}s", len(self))

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The numbers of the items."""
        return tuple(f"{i:06}" for i in range(len(self)))

    def __len__(self) -> int:
        """Number of items."""
        return len(self._items)

    def describe(self, index: int) -> str:
        """Number and source of an item."""
        return f"item {index} of {self._text}"

    def _decode(self, index: int) -> np.ndarray | Pair:
        item = self._items[index]
        arrays = item if self.is_pairs else (item,)
        for array in arrays:
            if array.dtype not in (np.uint8, np.uint16) or array.shape[2:] != (3,):
                raise images.ImageError(
                    f"{self.describe(index)} is {array.dtype} {array.shape}; it must be uint8 or "
                    "uint16 [height, width, 3], RGB"
                )
        if len({array.shape for array in arrays}) > 1:
            raise images.ImageError(
                f"{self.describe(index)}: its degraded image is {arrays[0].shape}, its clean one "
                f"{arrays[1].shape}; both must have the same size"
            )
        views = [array.view() for array in arrays]  # reading makes them read-only
        return Pair(*views) if self.is_pairs else views[0]

    def __repr__(self) -> str:
        """Short, since Grain prints it in messages."""
        return f"RegisteredSource({self._text}, {len(self)} {self.noun}s)"
