"""Results of an evaluation: as numbers, as Markdown and as JSON values."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dcpt_jax import metrics
from dcpt_jax.evaluate import markdown
from dcpt_jax.evaluate.classification import Confusion, Detections


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """Means over the samples of one class; PSNR in dB."""

    name: str
    samples: int
    psnr_degraded: float
    psnr_restored: float
    ssim_degraded: float
    ssim_restored: float


@dataclasses.dataclass(frozen=True)
class BaselineScores:
    """Scores of a classical method: means over the samples of each class."""

    name: str
    library: str  # the library function that was used
    citation: str  # publication of the method
    psnr: tuple[float, ...]  # dB, one mean per class
    ssim: tuple[float, ...]  # one mean per class


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results of all classes."""

    classes: tuple[ClassScores, ...]  # one result per class
    convention: str  # how PSNR and SSIM were computed
    classification: Confusion | Detections | None = None  # None: not measured
    # The convention as values
    metric: metrics.Convention = dataclasses.field(default_factory=metrics.Convention)
    data: tuple[str, ...] = ()  # description of each class's samples, for people; () = none
    # The test set of each class, if measured completely and on whole images, see
    # `data.classes.TrainingClass.test_set`; "" or () for other samples
    test_sets: tuple[str, ...] = ()
    crop_size: int | None = None  # side of the samples in pixels; 0 = whole images, None = unknown
    # Scores of classical methods on the same samples; () if not requested
    baselines: tuple[BaselineScores, ...] = ()

    def mean(self) -> ClassScores:
        """Plain mean over the classes."""
        fields = [f.name for f in dataclasses.fields(ClassScores)][2:]
        means = {f: float(np.mean([getattr(c, f) for c in self.classes])) for f in fields}
        return ClassScores("mean", sum(c.samples for c in self.classes), **means)

    def to_json(self) -> dict[str, Any]:
        """All results as plain values."""
        content = {
            "convention": self.convention,
            "metric": dataclasses.asdict(self.metric),
            "crop_size": self.crop_size,
            "classes": {c.name: _values(c) for c in self.classes},
            "mean": _values(self.mean()),
            "data": dict(zip((c.name for c in self.classes), self.data, strict=False)),
            "test_sets": dict(zip((c.name for c in self.classes), self.test_sets, strict=False)),
            **{"accuracy": None, "confusion": None, "predicted_classes": [], "components": None},
            **(self.classification.to_json() if self.classification is not None else {}),
        }
        if self.baselines:
            content["baselines"] = {b.name: self._baseline_values(b) for b in self.baselines}
        return content

    def _baseline_values(self, baseline: BaselineScores) -> dict[str, Any]:
        """Scores of a classical method as plain values."""
        pairs = zip(baseline.psnr, baseline.ssim, strict=True)
        named = zip(self.classes, pairs, strict=True)
        return {
            "library": baseline.library,
            "citation": baseline.citation,
            "classes": {c.name: {"psnr": psnr, "ssim": ssim} for c, (psnr, ssim) in named},
            "mean": {
                "psnr": float(np.mean(baseline.psnr)),
                "ssim": float(np.mean(baseline.ssim)),
            },
        }

    def to_markdown(self) -> str:
        """The tables of the report."""
        measures = ("PSNR degraded", "PSNR restored", "gain", "SSIM degraded", "SSIM restored")
        rows = [
            [
                *(c.name, str(c.samples), f"{c.psnr_degraded:.2f}", f"{c.psnr_restored:.2f}"),
                f"{c.psnr_restored - c.psnr_degraded:+.2f}",
                *(f"{c.ssim_degraded:.3f}", f"{c.ssim_restored:.3f}"),
            ]
            for c in (*self.classes, self.mean())
        ]
        lines = [f"PSNR in dB and SSIM: {self.convention}.", ""]
        lines += markdown.table(["class", "samples", *measures], rows)
        if self.data:
            named = zip(self.classes, self.data, strict=True)
            lines += ["", *(f"- {c.name}: {text}" for c, text in named)]
        if self.baselines:
            lines += ["", *self._baseline_lines()]
        if self.classification is not None:
            lines += ["", *self.classification.lines()]
        return "\n".join(lines) + "\n"

    def _baseline_lines(self) -> list[str]:
        """Tables of PSNR and SSIM of the classical methods."""
        lines = [
            "Classical methods on the same samples, without knowledge of class, noise level or "
            "blur kernel. Bold: the best of each row."
        ]
        names = [*(c.name for c in self.classes), "mean"]
        for metric, digits in (("psnr", 2), ("ssim", 3)):
            columns = [
                [getattr(c, f"{metric}_{which}") for c in self.classes]
                for which in ("degraded", "restored")
            ] + [list(getattr(b, metric)) for b in self.baselines]
            values = [*zip(*columns, strict=True), tuple(map(np.mean, columns))]
            rows = [
                [name, *_best_in_bold(row, digits)] for name, row in zip(names, values, strict=True)
            ]
            methods = [b.name for b in self.baselines]
            headings = [metric.upper(), "degraded", "network", *methods]
            lines += ["", *markdown.table(headings, rows)]
        return [*lines, "", *(f"- {b.name}: {b.library}; {b.citation}" for b in self.baselines)]

    def to_text(self) -> str:
        """The Markdown tables with aligned columns, for a terminal."""
        return markdown.aligned(self.to_markdown())


def _values(result: ClassScores) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(result).items() if k != "name"}


def _best_in_bold(values: Sequence[float], digits: int) -> list[str]:
    """The values as text; the highest, as displayed, are bold."""
    texts = [f"{value:.{digits}f}" for value in values]
    best = f"{max(values):.{digits}f}"
    return [f"**{text}**" if text == best else text for text in texts]
