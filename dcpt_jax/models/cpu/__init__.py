"""Formulations of the networks' operations that XLA runs fast on CPUs.

`layers.py` and `stage.py` select them; no other module imports this package. Each gives the result
of the plain operation up to rounding. Most have custom backward passes, so only reverse-mode
derivatives work (`jax.grad`, not `jax.jvp`). docs/models.md gives the measured gains.
"""

from dcpt_jax.models.cpu import convolutions, folding, gelu, norms, windows
from dcpt_jax.models.cpu.rematerialise import rematerialised

__all__ = ["convolutions", "folding", "gelu", "norms", "rematerialised", "windows"]
