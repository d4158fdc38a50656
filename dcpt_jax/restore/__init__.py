"""Restoration of photos of any size: one image in Python, files and folders from a command.

`dcpt_jax.restore(model, params, image, tile=None, ensemble=False)` restores one image: this package
is callable, see `dcpt_jax.restore.predictor.restore` for its arguments and result.
`python -m dcpt_jax.restore INPUT... --output DIR --weights W` restores files, see `command`.
For many images in one program, use `dcpt_jax.restore.predictor.Predictor`, which keeps the weights
on the device.
"""

import sys
import types
from typing import Any


class _CallableModule(types.ModuleType):
    """Module that can be called as the function `restore`; JAX is imported by the first call."""

    def __call__(
        self, model: Any, params: Any, image: Any, tile: int | None = None, ensemble: bool = False
    ) -> Any:
        """Restores one [h, w, 3] image; see `dcpt_jax.restore.predictor.restore`."""
        from dcpt_jax.restore import predictor

        return predictor.restore(model, params, image, tile=tile, ensemble=ensemble)


sys.modules[__name__].__class__ = _CallableModule
