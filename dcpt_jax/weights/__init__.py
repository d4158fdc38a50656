"""Weights folders: parameters that any JAX program can read, with their description.

`W/weights` is an Orbax folder of host arrays, `{"network": ..., "classifier": ...}`, with a
`model.json`. Orbax alone can restore it, on any number of devices:
`orbax.checkpoint.StandardCheckpointer().restore(path)`. The folder `dcpt_jax/bundled` is an
example: the network that is used by default.
"""

from dcpt_jax.weights.checkpoint_files import (
    CHECKPOINTS,
    PARTS,
    WEIGHTS,
    array_metadata,
    checkpoint_folders,
    checkpoint_steps,
    is_checkpoint,
    newest_description,
    newest_readable,
    read_item,
    refuse_damaged,
    refuse_pattern,
    write_checksums,
)
from dcpt_jax.weights.description import (
    DESCRIPTION,
    ClassifierDescription,
    Params,
    WeightsDescription,
    WeightsError,
    describe,
    local_converter_size,
)
from dcpt_jax.weights.failures import reason_of
from dcpt_jax.weights.folders import (
    BUNDLED,
    FILE_SUFFIXES,
    bundled_weights,
    is_replaceable,
    load,
    load_classifier,
    load_weights,
    load_weights_of_key,
    save_weights,
    saved_steps,
    weights_files_in,
)

__all__ = [
    "BUNDLED",
    "CHECKPOINTS",
    "DESCRIPTION",
    "FILE_SUFFIXES",
    "PARTS",
    "WEIGHTS",
    "ClassifierDescription",
    "Params",
    "WeightsDescription",
    "WeightsError",
    "array_metadata",
    "bundled_weights",
    "checkpoint_folders",
    "checkpoint_steps",
    "describe",
    "is_checkpoint",
    "is_replaceable",
    "load",
    "load_classifier",
    "load_weights",
    "load_weights_of_key",
    "local_converter_size",
    "newest_description",
    "newest_readable",
    "read_item",
    "reason_of",
    "refuse_damaged",
    "refuse_pattern",
    "save_weights",
    "saved_steps",
    "weights_files_in",
    "write_checksums",
]
