"""Detection of the degradations in a photo: for an image in Python, for files by a command.

`dcpt_jax.inspect(image, weights=None)` inspects one image: this package is callable, see
`dcpt_jax.inspect.inspector.inspect` for its arguments and result.
`python -m dcpt_jax.inspect PHOTO...` inspects files and folders, see `command`.
For many images in one program, use `dcpt_jax.inspect.inspector.Inspector`, which keeps the weights
on the device.
"""

import sys
import types
from typing import Any


class _CallableModule(types.ModuleType):
    """Module that can be called as the function `inspect`; JAX is imported by the first call."""

    def __call__(self, image: Any, weights: Any = None) -> dict[str, float]:
        """Inspects one [h, w, 3] image; see `dcpt_jax.inspect.inspector.inspect`."""
        from dcpt_jax.inspect import inspector

        return inspector.inspect(image, weights)


sys.modules[__name__].__class__ = _CallableModule
