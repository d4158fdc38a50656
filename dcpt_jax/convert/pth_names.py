"""Names that occur in PyTorch's files: storages, tensors, and objects that are ignored."""

import re

import ml_dtypes
import numpy as np

STORAGE_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

# Functions that build tensors without plain numbers in a storage.
OTHER_TENSORS = re.compile(
    r"torch\._utils\._rebuild_(?!tensor$|tensor_v2$|parameter$|parameter_with_state$)\w+|"
    r"torch\.distributed\..*(?:DTensor|ShardedTensor)"
)
# Names that may occur but not be called.
WORDS = re.compile(
    r"torch\.(?:\w+Storage|Tensor|b?float\d+|u?int\d+|bool|complex\d+)|"
    r"torch\.nn\.parameter\.(?:Parameter|Buffer)|builtins\.(?:dict|list|int|long|float)"
)
# Python and PyTorch objects that checkpoints contain besides weights: settings, dates, paths,
# random states.
INERT = re.compile(
    r"(?:argparse|array|collections|copyreg|dataclasses|datetime|decimal|enum|fractions|functools|"
    r"logging|operator|pathlib|random|re|types|typing|uuid|zoneinfo|"
    r"torch\.(?:optim|torch_version))\..+|"
    r"builtins\.(?:bool|bytearray|frozenset|getattr|object|range|slice|str|tuple|xrange|"
    r"Ellipsis|NotImplemented)"
)
