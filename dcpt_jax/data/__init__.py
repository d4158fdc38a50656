"""The data pipeline, from files to batches.

Which classes (`tasks`); what each is made of (`opening`, from `sources`, `pairs`, `datasets`,
`packed` and `tfds_source`); in which order (`mixing`); batches (`pipeline`), and samples for
evaluation (`held_out`). Commands: `check`, `pack`, `tfds_build`.

Nothing here imports jax or flax. Grain is imported when batches are made, not before.
"""
