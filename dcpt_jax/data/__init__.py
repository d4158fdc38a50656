"""The data pipeline: which classes (`tasks`), which photos (`sources`), and batches (`pipeline`).

Nothing here imports jax or flax. Grain is imported when batches are made, not before.
"""
