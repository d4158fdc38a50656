"""Evaluation of weights on held-out photos: tables of scores and a sheet of example images."""

from dcpt_jax import extras

with extras.needed("train", "evaluation"):
    import ml_collections  # noqa: F401
