"""The data pipeline, from files to batches.

- `tasks`: task sets and classes. `spec`: syntax of data sources. `datasets`: public datasets;
  `dataset_files` and `pair_files` find their files.
- `photos`, `pairs`, `packed`, `tfds`, `registered`: sources, that is, items by index; `sources`:
  their base.
- `source_factory` opens sources, `classes` the classes of a run.
- `mixing`: order of the samples. `pipeline`: batches. `held_out`: samples for evaluation.
- Commands: `check`, `pack`, `tfds_build`.

Nothing here imports jax or flax. Grain is imported when batches are made, not before.
"""
