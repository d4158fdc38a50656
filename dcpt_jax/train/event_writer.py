"""A clu metric writer that writes TensorBoard's event files itself, without TensorFlow."""

import contextlib
import io
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from clu.metric_writers import interface
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util


class EventWriter(interface.MetricWriter):
    """clu's writer interface on TensorBoard's event files.

    All methods raise OSError if the file cannot be written. TensorBoard's own writer would find out
    in a thread, which ends with a traceback and may let the run wait for ever.
    """

    def __init__(self, logdir: Path | str):
        super().__init__()
        now, folder = time.time(), Path(logdir)
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / f"{name}.{time.monotonic_ns()}"
        with explained(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
        self._records = RecordWriter(self._file)
        self._write(event_pb2.Event(wall_time=now, file_version="brain.Event:2"))
        self.flush()

    def _add(self, step: int, summary: Any) -> None:
        self._write(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: event_pb2.Event) -> None:
        with explained(self._path):
            self._records.write(event.SerializeToString())

    def write_summaries(self, step: int, values: Mapping, metadata: Mapping | None = None):
        """Raw tensors, one for each tag."""
        for tag, value in values.items():
            summary = summary_pb2.Summary()
            summary.value.add(
                tag=tag,
                metadata=(metadata or {}).get(tag),
                tensor=tensor_util.make_tensor_proto(np.asarray(value)),
            )
            self._add(step, summary)

    def write_scalars(self, step: int, scalars: Mapping):
        """One number for each tag."""
        for tag, value in scalars.items():
            self._add(step, scalar_pb(tag, float(value)))
        self.flush()

    def write_images(self, step: int, images: Mapping):
        """Images [h, w, 3] or [n, h, w, 3] for each tag, see `_png`."""
        for tag, stack in images.items():
            stack = np.asarray(stack)
            stack = stack[None] if stack.ndim == 3 else stack
            size = [str(stack.shape[2]).encode(), str(stack.shape[1]).encode()]
            tensor = np.array([*size, *(_png(image) for image in stack)], dtype=object)
            summary = summary_pb2.Summary()
            summary.value.add(
                tag=tag,
                metadata=create_summary_metadata(
                    display_name=None, description=None, converted_to_tensor=True
                ),
                tensor=tensor_util.make_tensor_proto(tensor),
            )
            self._add(step, summary)

    def write_texts(self, step: int, texts: Mapping):
        """Markdown for each tag."""
        for tag, text in texts.items():
            self._add(step, text_pb(tag, text))

    def write_histograms(self, step: int, arrays: Mapping, num_buckets: Mapping | None = None):
        """The values' distribution for each tag."""
        for tag, array in arrays.items():
            self._add(step, histogram_pb(tag, np.asarray(array), (num_buckets or {}).get(tag)))

    def write_hparams(self, hparams: Mapping):
        """Hyper-parameters of the run, a flat mapping."""
        self._add(0, hparams_pb(dict(hparams)))

    def write_videos(self, step: int, videos: Mapping):
        """Not supported."""
        raise NotImplementedError("this writer has no videos")

    def write_audios(self, step: int, audios: Mapping, *, sample_rate: int):
        """Not supported."""
        raise NotImplementedError("this writer has no audio")

    def flush(self):
        """Puts everything written so far into the file."""
        with explained(self._path):
            self._file.flush()

    def close(self):
        """Closes the file; what could not be written has been told."""
        with contextlib.suppress(OSError):
            self._file.close()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Says which file cannot be written, and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"the file {path} cannot be written: {error.strerror or error}. Once that is "
            "corrected, the same command continues from the last checkpoint"
        ) from error


def _png(image: np.ndarray) -> bytes:
    """One image [h, w, 3], float in [0, 1] (clipped and rounded) or uint8, as a PNG file."""
    if image.dtype != np.uint8:
        image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()
