"""Weights folders: parameters that any JAX program can read, and what they belong to.

`W/weights` is an Orbax folder of host arrays, `{"network": ..., "classifier": ...}`, with
`model.json` beside them. Orbax alone restores it, on any number of devices:
`orbax.checkpoint.StandardCheckpointer().restore(path)`. The folder `dcpt_jax/bundled` is one: the
network that is used where no weights are named.
"""

from dcpt_jax.weights.checkpoint_files import (
    CHECKPOINTS,
    OTHER_CONTENT,
    PARTS,
    WEIGHTS,
    checkpoint_folders,
    checkpoint_steps,
    is_checkpoint,
    newest_description,
    newest_readable,
    position,
    read_item,
    read_metadata,
    read_position,
)
from dcpt_jax.weights.checksums import checksum_of_arrays
from dcpt_jax.weights.description import (
    DESCRIPTION,
    ClassifierDescription,
    Params,
    WeightsDescription,
    WeightsError,
    checksum_of_json,
    describe,
    local_converter_size,
)
from dcpt_jax.weights.failures import reason_of
from dcpt_jax.weights.folders import (
    BUNDLED,
    bundled_weights,
    is_weights_folder,
    load,
    load_classifier,
    load_weights,
    save_weights,
    saved_steps,
)

__all__ = [
    "BUNDLED",
    "CHECKPOINTS",
    "DESCRIPTION",
    "OTHER_CONTENT",
    "PARTS",
    "WEIGHTS",
    "ClassifierDescription",
    "Params",
    "WeightsDescription",
    "WeightsError",
    "bundled_weights",
    "checkpoint_folders",
    "checkpoint_steps",
    "checksum_of_arrays",
    "checksum_of_json",
    "describe",
    "is_checkpoint",
    "is_weights_folder",
    "load",
    "load_classifier",
    "load_weights",
    "local_converter_size",
    "newest_description",
    "newest_readable",
    "position",
    "read_item",
    "read_metadata",
    "read_position",
    "reason_of",
    "save_weights",
    "saved_steps",
]
