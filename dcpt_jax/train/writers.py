"""clu's metric writers, made to work without TensorFlow.

`clu.metric_writers` imports TensorFlow for its summary writer: over a gigabyte, seconds at every
start and on a GPU a share of its memory, only to write event files. This module puts the writer of
`event_writer` in that place. Import clu's writers from here.
"""

import sys
import types
from pathlib import Path
from typing import Any


def _summary_writer(logdir: Path | str) -> Any:
    """Takes the place of clu's class; the import waits until clu's own modules are complete."""
    from dcpt_jax.train.event_writer import EventWriter

    return EventWriter(logdir)


_module = types.ModuleType("clu.metric_writers.summary_writer")
_module.SummaryWriter = _summary_writer
sys.modules.setdefault(_module.__name__, _module)
# TensorBoard's own switch against importing TensorFlow where it happens to be installed.
sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))

from clu import metric_writers  # noqa: E402

__all__ = ["create_writer", "metric_writers"]


def create_writer(logdir: Path | str) -> metric_writers.MetricWriter:
    """Writer of TensorBoard event files.

    Args:
        logdir: folder of the event files; made if need be.

    Raises:
        OSError: if it cannot be written; also by the writer's methods.
    """
    return _summary_writer(logdir)
