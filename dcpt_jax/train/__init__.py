"""Training: the loop, its state and checkpoints, and one step module per training mode."""

from dcpt_jax import extras

with extras.needed("train", "training"):
    import clu  # noqa: F401
    import ml_collections  # noqa: F401
