"""Separability of degradations in a network's features: kNN accuracy and t-SNE for each level.

`python -m dcpt_jax.probe --weights W --output DIR` probes trained and untrained networks, see
`command`. In Python:

    levels = dcpt_jax.probe.features(model, params, images)     # finest first
    accuracy = dcpt_jax.probe.knn_accuracy(levels[0].flattened, labels)
    coordinates = dcpt_jax.probe.tsne(levels[0].flattened)      # [n, 2]

These names are loaded on first use, so that `--help` starts without JAX.
"""

import importlib
from typing import Any

_PUBLIC = {
    "features": "dcpt_jax.probe.levels",
    "knn_accuracy": "dcpt_jax.probe.neighbours",
    "tsne": "dcpt_jax.probe.embedding",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dcpt_jax.probe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
