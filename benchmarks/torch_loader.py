"""The input pipeline as a PyTorch user would write it: a Dataset with OpenCV, and a DataLoader.

Each sample: read a file, decode it, take a random crop, convert it from BGR to RGB and to float32,
flip and rotate it, degrade it (by the same NumPy functions as ours), and make tensors [3, h, w];
the DataLoader's default collation makes batches. The crop is taken before the conversion, which is
fast; BasicSR's loaders convert the whole photo first and are slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dcpt_jax import degradations


class Photos(Dataset):
    """Degraded and clean crops of files, each class in turn."""

    def __init__(self, paths: Sequence[Path], specs: Sequence[str], crop: int):
        """Takes files, the degradations of the classes, and the size of the crops."""
        self.paths = [str(path) for path in paths]
        self.parts = [degradations.parse(spec) for spec in specs]
        self.crop = crop
        self.rng: np.random.Generator | None = None

    def __len__(self) -> int:
        """Large enough that the benchmark never reaches the end of an epoch."""
        return 1_000_000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        """A sample: degraded, clean float32 [3, crop, crop]; task."""
        if self.rng is None:
            self.rng = np.random.default_rng(torch.initial_seed() % 2**63)
        rng, size = self.rng, self.crop
        with open(self.paths[index % len(self.paths)], "rb") as file:
            image = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
        top = rng.integers(image.shape[0] - size + 1)
        left = rng.integers(image.shape[1] - size + 1)
        image = cv2.cvtColor(image[top : top + size, left : left + size], cv2.COLOR_BGR2RGB)
        image = image.astype(np.float32) / 255.0
        if rng.random() < 0.5:
            image = cv2.flip(image, 1)
        if rng.random() < 0.5:
            image = cv2.flip(image, 0)
        if rng.random() < 0.5:
            image = image.transpose(1, 0, 2)
        clean = np.ascontiguousarray(image)
        task = index % len(self.parts)
        degraded = degradations.apply_parts(clean, self.parts[task], rng)
        tensors = (
            torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1))) for x in (degraded, clean)
        )
        return dict(zip(("degraded", "clean"), tensors, strict=True)) | {"task": task}


def _start_worker(index: int) -> None:
    del index
    cv2.setNumThreads(0)


def batches(
    paths: Sequence[Path], specs: Sequence[str], *, crop: int, batch_size: int, num_workers: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Endless batches of crops of these files."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    loader = DataLoader(
        Photos(paths, specs, crop),
        batch_size=batch_size,
        shuffle=True,
        num_workers=num_workers,
        worker_init_fn=_start_worker,
        drop_last=True,
    )
    return iter(loader)
