"""Conversion between the official PyTorch weights and the parameters of this package."""

from dcpt_jax.convert.naming import from_torch, to_torch

__all__ = ["from_torch", "to_torch"]
