"""The data pipeline, from files to batches.

- `tasks`: which classes. `spec`: texts that name a class's data. `datasets`: the public datasets.
- `photos`, `pairs`, `packed`, `tfds`: sources, that is, items by index; `sources`: what they share.
- `source_factory` makes sources, `classes` the classes of a run.
- `mixing`: in which order. `pipeline`: batches. `held_out`: samples for evaluation.
- Commands: `check`, `pack`, `tfds_build`.

Nothing here imports jax or flax. Grain is imported when batches are made, not before.
"""
