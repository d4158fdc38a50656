"""Writes metrics: TensorBoard event files and `metrics.jsonl`.

`clu.metric_writers` imports TensorFlow only to write event files, which costs over a gigabyte of
disk, seconds at every start and GPU memory. `EventWriter` replaces that writer, so clu's writers
must be imported from this module.
"""

import contextlib
import io
import json
import os
import socket
import sys
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dcpt_jax import files

_module = types.ModuleType("clu.metric_writers.summary_writer")
_module.SummaryWriter = lambda logdir: EventWriter(logdir)
sys.modules.setdefault(_module.__name__, _module)
# Keeps TensorBoard from importing TensorFlow if that happens to be installed.
sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))

from clu import metric_writers  # noqa: E402
from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: E402
from tensorboard.plugins.image.metadata import create_summary_metadata  # noqa: E402
from tensorboard.plugins.scalar.summary_v2 import scalar_pb  # noqa: E402
from tensorboard.plugins.text.summary_v2 import text_pb  # noqa: E402
from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: E402
from tensorboard.util import tensor_util  # noqa: E402

METRICS = "metrics.jsonl"
_QUALITY = ("psnr", "ssim", "accuracy")
_SCHEDULE = ("learning_rate", "gradient_norm")


class EventWriter(metric_writers.MetricWriter):
    """Writes TensorBoard event files through clu's writer interface.

    All methods raise OSError if the file cannot be written. TensorBoard's own writer fails in a
    thread instead, with a traceback, and may block the run forever.
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

    def write_scalars(self, step: int, scalars: Mapping):
        """Writes one number per tag."""
        for tag, value in scalars.items():
            self._add(step, scalar_pb(tag, float(value)))
        self.flush()

    def write_images(self, step: int, images: Mapping):
        """Writes images [h, w, 3] or [n, h, w, 3] per tag, see `_png`."""
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
        """Writes Markdown text per tag."""
        for tag, text in texts.items():
            self._add(step, text_pb(tag, text))

    def _unsupported(self, *args: Any, **kwargs: Any) -> None:
        """Raises NotImplementedError; training does not write these."""
        raise NotImplementedError("only scalars, images and texts are supported")

    write_summaries = write_videos = write_audios = write_histograms = write_hparams = _unsupported

    def flush(self):
        """Flushes the file."""
        with explained(self._path):
            self._file.flush()

    def close(self):
        """Closes the file; earlier calls have reported failed writes."""
        with contextlib.suppress(OSError):
            self._file.close()


class MetricsFile(metric_writers.MetricWriter):
    """Appends scalars to a file of JSON lines, {"step": ..., "loss/loss": ..., ...}.

    A resumed run repeats the steps after its checkpoint, so their lines are removed at the start.
    """

    def __init__(self, path: Path, *, first_step: int = 0):
        self._path = path
        kept = [line for line in read_metrics(path) if line["step"] <= first_step]
        with explained(path):
            files.write_text(path, "".join(f"{json.dumps(line)}\n" for line in kept))

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one line with all scalars."""
        line = {"step": step, **{key: float(value) for key, value in scalars.items()}}
        with explained(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        """Ignores everything but scalars."""

    write_summaries = write_images = write_videos = write_audios = write_texts = _ignore
    write_histograms = write_hparams = flush = close = _ignore


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`, without damaged ones; [] if there is no file."""
    lines = []
    for text in path.read_bytes().split(b"\n") if path.exists() else ():
        with contextlib.suppress(ValueError, RecursionError):
            line = json.loads(text)
            if _are_metrics(line):
                lines.append(line)
    return lines


def _are_metrics(line: Any) -> bool:
    return (
        isinstance(line, dict)
        and type(line.get("step")) is int
        and all(type(v) is float or (type(v) is int and v < 2**63) for v in line.values())
    )


def create_writer(workdir: Path | str, *, first_step: int = 0) -> metric_writers.MetricWriter:
    """Creates the writer of event files and `metrics.jsonl`.

    Args:
        workdir: folder of the files; created if necessary.
        first_step: number of steps done; lines of later steps are removed.

    Raises:
        OSError: if the files cannot be written; also raised by the writer's methods.
    """
    return metric_writers.MultiWriter(
        [EventWriter(workdir), MetricsFile(Path(workdir) / METRICS, first_step=first_step)]
    )


def grouped(values: Mapping[str, float], *, validation: bool = False) -> dict[str, float]:
    """Renames metrics so that TensorBoard shows them in four groups.

    Args:
        values: metrics by name.
        validation: whether they come from a validation.

    Returns:
        `loss/...`, `quality/...` (of a validation `quality/validation/...`), `schedule/...` for
        learning rates and gradient norms, `speed/...` for the rest.
    """
    return {_with_group(name, validation): value for name, value in values.items()}


def _with_group(name: str, validation: bool) -> str:
    if validation:
        return f"quality/validation/{name}"
    if name.startswith("loss"):
        return f"loss/{name.removeprefix('loss_')}"
    if name.startswith(_QUALITY):
        return f"quality/{name}"
    return f"{'schedule' if name.startswith(_SCHEDULE) else 'speed'}/{name}"


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Adds the file's path and advice to the OSError of a failed write."""
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
