"""Measuring weights on held-out photos: samples in, tables and a picture sheet out."""

from dcpt_jax import extras

with extras.needed("train", "evaluation"):
    import ml_collections  # noqa: F401
