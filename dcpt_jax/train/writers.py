"""What a run writes of its metrics: TensorBoard's event files and `metrics.jsonl`.

`clu.metric_writers` imports TensorFlow for its summary writer: over a gigabyte, seconds at every
start and on a GPU a share of its memory, only to write event files. This module puts the writer of
`event_writer` in that place. Import clu's writers from here.
"""

import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcpt_jax import files


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

from dcpt_jax.train.event_writer import EventWriter, explained  # noqa: E402

METRICS = "metrics.jsonl"
_QUALITY = ("psnr", "ssim", "accuracy")
_SCHEDULE = ("learning_rate", "gradient_norm")


class MetricsFile(metric_writers.MetricWriter):
    """Appends scalars to a file of JSON lines, {"step": ..., "loss/loss": ..., ...}.

    A run that goes on from a checkpoint does some steps again, so lines after it are removed.
    """

    def __init__(self, path: Path, *, first_step: int = 0):
        self._path = path
        kept = [line for line in read_metrics(path) if line["step"] <= first_step]
        with explained(path):
            files.write_text(path, "".join(f"{json.dumps(line)}\n" for line in kept))

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """One line with all of them."""
        line = {"step": step, **{key: float(value) for key, value in scalars.items()}}
        with explained(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        """Only scalars are kept."""

    write_summaries = write_images = write_videos = write_audios = write_texts = _ignore
    write_histograms = write_hparams = flush = close = _ignore


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`; none if there is no file, and without one that is cut off."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def create_writer(workdir: Path | str, *, first_step: int = 0) -> metric_writers.MetricWriter:
    """Writer of event files and `metrics.jsonl`.

    Args:
        workdir: folder of the files; made if need be.
        first_step: steps done before; what was written of later ones is removed.

    Raises:
        OSError: if they cannot be written; also by the writer's methods.
    """
    return metric_writers.MultiWriter(
        [EventWriter(workdir), MetricsFile(Path(workdir) / METRICS, first_step=first_step)]
    )


def grouped(values: Mapping[str, float], *, validation: bool = False) -> dict[str, float]:
    """Metrics by the names that TensorBoard shows in four groups.

    Args:
        values: of steps, or of a validation.
        validation: whether they are of a validation.

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
