"""Formulations of the networks' operations that XLA runs fast on CPUs.

`layers.py` and `stage.py` choose them; no other module imports this package. Each computes what the
plain operation computes, up to rounding. Most have their own backward pass, so derivatives are
reverse mode only (`jax.grad`, not `jax.jvp`). What each brings is measured in docs/models.md.
"""

from dcpt_jax.models.cpu import convolutions, folding, gelu, norms, windows
from dcpt_jax.models.cpu.rematerialise import rematerialised

__all__ = ["convolutions", "folding", "gelu", "norms", "rematerialised", "windows"]
