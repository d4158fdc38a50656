"""Reading packed sub-images: a source of them by index; `data.packed` has their format."""

import collections
import dataclasses
import functools
import threading
from pathlib import Path
from typing import Any

import numpy as np

from dcpt_jax import images
from dcpt_jax.data import decoded
from dcpt_jax.data.decoded import DecodedSource
from dcpt_jax.data.packed import (
    MANIFEST,
    Record,
    decode,
    open_array_record,
    read_manifest,
    size_error,
)
from dcpt_jax.data.sources import Pair

_FILES_OPEN = 64  # per source


@dataclasses.dataclass(frozen=True)
class PackedReport:
    """What a source of packed sub-images found at the start.

    Attributes:
        found: number of sub-images there should be.
        used: number of those in files that are there.
        inputs: number of photos or pairs that they are parts of.
        kind: "photos" or "pairs".
        skipped: (file, reason) of files that cannot be used.
        checked: True; the files' sizes are always compared.
    """

    found: int
    used: int
    inputs: int
    kind: str
    skipped: tuple[tuple[Path, str], ...]
    checked: bool = True

    def summary(self) -> str:
        """One line: how many sub-images are used and how many were left out."""
        text = f"{self.used} sub-images of {self.inputs} {self.kind}"
        if self.skipped:
            text += f" ({self.found - self.used} in {len(self.skipped)} damaged files left out)"
        return text


class PackedSource(DecodedSource):
    """Packed sub-images by index: photos uint8 or uint16 [h, w, 3], or `Pair`s of them; read-only.

    Attributes:
        report: what was found at the start.
        is_pairs: True where the items are pairs.
        dataset: name of the public data set that was packed, "" for others.
        size: largest height and width of a sub-image.
        files: what tells by its size and time whether the content is the same: the manifest.
        on_bad_file: "skip" or "refuse".
        unreadable: index -> reason, of records that failed in reading, in this process so far.
    """

    noun = "sub-image"

    def __init__(
        self,
        folder: Path | str,
        *,
        on_bad_file: str = "skip",
    ):
        """Opens what `dcpt_jax.data.pack` wrote and compares the files' sizes.

        Args:
            folder: the folder with the manifest, or the manifest itself.
            on_bad_file: what to do with files that are missing or have another size, and with
                damaged records: "skip" leaves them out, "refuse" stops at the first.

        Raises:
            FileNotFoundError: if there is no manifest.
            ImageError: if it is not complete, or for a bad file where `on_bad_file` is "refuse", or
                if all are bad.
        """
        super().__init__(on_bad_file=on_bad_file, cache=0)
        folder = Path(folder)
        self.folder = folder.parent if folder.name == MANIFEST else folder
        manifest = read_manifest(self.folder)
        if not manifest.complete:
            raise images.ImageError(
                f"{self.folder} is not finished: {manifest.done} of {manifest.inputs} "
                f"{manifest.kind} are packed; the same call of dcpt_jax.data.pack continues"
            )
        self.is_pairs = manifest.kind == "pairs"
        self.dataset = manifest.dataset
        self.size = manifest.options["size"]
        self.files = (self.folder / MANIFEST,)
        used, skipped = [], []
        for shard in manifest.shards:
            reason = size_error(self.folder, shard)
            if reason and on_bad_file == "refuse":
                raise decoded.refused(images.ImageError(reason))
            if reason:
                skipped.append((self.folder / shard.file, reason))
            else:
                used.append(shard)
        decoded.warn_of_each([reason for _, reason in skipped], "file")
        self._files = [shard.file for shard in used]
        self._ends = np.cumsum([shard.records for shard in used]) if used else np.zeros(0, int)
        count = manifest.inputs - len(manifest.skipped)
        self.report = PackedReport(
            manifest.records, len(self), count, manifest.kind, tuple(skipped)
        )
        if not len(self):
            reason = skipped[0][1] if skipped else "nothing was packed"
            raise images.ImageError(f"no sub-image in {self.folder} can be read: {reason}")
        self._start_readers()

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """A name of each sub-image: its file and its number there."""
        return tuple("{}-{:06d}".format(*self._place(i)) for i in range(len(self)))

    def __len__(self) -> int:
        """Number of sub-images in use."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def describe(self, index: int) -> str:
        """File and number of a record, and the photo that it is a part of."""
        file, number = self._place(index)
        text = f"record {number} of {self.folder / file}"
        try:
            record = self.record(index)
        except images.ImageError:
            return text
        return f"{record.name} at row {record.top}, column {record.left} ({text})"

    def record(self, index: int) -> Record:
        """The sub-image with this index and where it came from.

        Raises:
            ImageError: if it cannot be read.
        """
        file, number = self._place(index)
        try:
            (data,) = self._reader(file).read([number])
            record = decode(data)
            if len(record.images) != 1 + self.is_pairs:
                raise images.ImageError("it is of another kind than the manifest says")
            return record
        except Exception as error:  # the library raises RuntimeError, IndexError and others
            first = (str(error) or type(error).__name__).partition("; ")[0]
            raise images.ImageError(
                f"record {number} of {self.folder / file} cannot be read: {first}"
            ) from error

    def _decode(self, index: int) -> np.ndarray | Pair:
        found = self.record(index).images
        return Pair(*found) if self.is_pairs else found[0]

    def _place(self, index: int) -> tuple[str, int]:
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self._files[which], int(index - (self._ends[which - 1] if which else 0))

    def _reader(self, file: str) -> Any:
        """The open file; those used longest ago are closed when there are too many."""
        with self._readers_lock:
            if file in self._readers:
                self._readers.move_to_end(file)
                return self._readers[file]
            reader = open_array_record(self.folder / file)
            self._readers[file] = reader
            if len(self._readers) > _FILES_OPEN:
                self._readers.popitem(last=False)  # closed once no thread reads it any more
            return reader

    def _start_readers(self) -> None:
        self._readers: collections.OrderedDict[str, Any] = collections.OrderedDict()
        self._readers_lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the open files."""
        left_out = ("_readers", "_readers_lock")
        return {key: value for key, value in vars(self).items() if key not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the settings, with no file open."""
        vars(self).update(state)
        self._start_readers()
