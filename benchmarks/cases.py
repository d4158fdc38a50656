"""The networks and batches of the benchmarks."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """One network at one image size."""

    name: str
    architecture: str
    arguments: dict[str, Any]
    batch: int
    size: int = 128


_NARROW = dict(encoder_blocks=(1, 1, 1, 4), middle_blocks=1, decoder_blocks=(1, 1, 1, 1))
_LEVELS = dict(dim=24, num_blocks=(1, 2, 2, 2), num_refinement_blocks=1, heads=(1, 2, 4, 8))
_PROMPTS = dict(prompt_dims=(32, 64, 160), prompt_sizes=(64, 32, 16))

SMALL = (
    Case("nafnet-32", "nafnet", {**_NARROW, "width": 32}, batch=4),
    Case("nafnet-16", "nafnet", {**_NARROW, "width": 16, "encoder_blocks": (1,) * 4}, 16, size=64),
    Case("restormer-24", "restormer", _LEVELS, batch=2),
    Case("promptir-24", "promptir", {**_LEVELS, **_PROMPTS}, batch=2),
    Case("swinir-60", "swinir", dict(embed_dim=60, depths=(2,) * 6, num_heads=(6,) * 6), batch=2),
)
# The paper's networks. They take minutes on a few cores, so they run only on request.
_NAMES = ("nafnet", "restormer", "promptir", "swinir")
FULL = tuple(Case(name, name, {}, batch=1) for name in _NAMES)


def images(batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A degraded and a clean batch of noise, float32 [batch, size, size, 3]."""
    rng = np.random.default_rng(0)
    return tuple(rng.random((2, batch, size, size, 3), dtype=np.float32))
