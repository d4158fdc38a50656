"""Degradation-classification pre-training for image restoration, in JAX.

The public names below are loaded on first use, so that data workers, which also import this
package, start without JAX. See the README for documentation.
"""

from dcpt_jax import command_start

if command_start.starts_here():
    command_start.end_in_one_line()

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "create_model": "dcpt_jax.models",
    "create_classifier": "dcpt_jax.models",
    "load": "dcpt_jax.convert.reading",
    "load_classifier": "dcpt_jax.weights",
    "from_torch": "dcpt_jax.convert.naming",
    "to_torch": "dcpt_jax.convert.naming",
    "degrade": "dcpt_jax.degradations",
}
# `restore` and `inspect` are packages that can also be called as functions for one image.
_MODULES = (
    *("degradations", "images", "inspect", "losses", "metrics", "models", "probe"),
    *("restore", "weights"),
)

__all__ = [*_PUBLIC, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"dcpt_jax.{name}")
    raise AttributeError(f"module 'dcpt_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
