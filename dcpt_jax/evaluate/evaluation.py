"""Results of an evaluation: as numbers, as Markdown and as JSON values."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dcpt_jax import metrics

# Total length of column headings above which they are replaced by numbers, so that the table fits a
# terminal or page.
_WIDEST_HEADINGS = 60


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
    # With a classifier of classes: int [classes, predicted classes], row = true class; of
    # components: int [classes, components], number of samples in which each was detected. None
    # without classifier.
    confusion: np.ndarray | None
    predicted: tuple[str, ...]  # names of the columns of `confusion`
    # With a classifier of components: 0/1 [classes, components], the components of each class. Else
    # None.
    truth: np.ndarray | None = None
    # With a classifier of components: int [classes], samples with all components correct
    exact: np.ndarray | None = None
    # With a classifier of components: int [classes], samples in which none was detected ("clean")
    none_detected: np.ndarray | None = None
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

    def class_accuracy(self, index: int) -> float:
        """Share of the samples of a class that were classified correctly, in all components."""
        if self.truth is not None:
            return float(self.exact[index] / self.classes[index].samples)
        row = self.confusion[index]
        return float(row[self.predicted.index(self.classes[index].name)] / row.sum())

    def accuracy(self) -> float:
        """Mean of `class_accuracy` over the classes, as their numbers of samples may differ."""
        return float(np.mean([self.class_accuracy(i) for i in range(len(self.classes))]))

    def component_accuracy(self, index: int) -> float:
        """Accuracy of one component: mean over the classes of the share of correct samples."""
        return float(self._shares_right(self.confusion, self.truth)[index])

    def _shares_right(self, detected: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Per column of [classes, columns]: share of correct samples, averaged over the classes."""
        samples = np.array([[c.samples] for c in self.classes])
        return np.mean(np.where(truth, detected, samples - detected) / samples, axis=0)

    def to_json(self) -> dict[str, Any]:
        """All results as plain values."""
        measured, multi_hot = self.confusion is not None, self.truth is not None
        components = {
            "names": list(self.predicted),
            "accuracy": [self.component_accuracy(i) for i in range(len(self.predicted))],
            "found": self.confusion.tolist(),
            "truth": self.truth.tolist(),
            "exact": self.exact.tolist(),
            "nothing": self.none_detected.tolist(),
        } if multi_hot else None  # fmt: skip
        content = {
            "convention": self.convention,
            "metric": dataclasses.asdict(self.metric),
            "crop_size": self.crop_size,
            "classes": {c.name: _values(c) for c in self.classes},
            "mean": _values(self.mean()),
            "data": dict(zip((c.name for c in self.classes), self.data, strict=False)),
            "test_sets": dict(zip((c.name for c in self.classes), self.test_sets, strict=False)),
            "accuracy": self.accuracy() if measured else None,
            "confusion": self.confusion.tolist() if measured and not multi_hot else None,
            "predicted_classes": [] if multi_hot else list(self.predicted),
            "components": components,
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
        lines = [
            f"PSNR in dB and SSIM: {self.convention}.",
            "",
            "| class | samples | PSNR degraded | PSNR restored | gain | SSIM degraded "
            "| SSIM restored |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        for c in (*self.classes, self.mean()):
            lines.append(
                f"| {c.name} | {c.samples} | {c.psnr_degraded:.2f} | {c.psnr_restored:.2f} "
                f"| {c.psnr_restored - c.psnr_degraded:+.2f} | {c.ssim_degraded:.3f} "
                f"| {c.ssim_restored:.3f} |"
            )
        if self.data:
            named = zip(self.classes, self.data, strict=True)
            lines += ["", *(f"- {c.name}: {text}" for c, text in named)]
        if self.baselines:
            lines += ["", *self._baseline_lines()]
        if self.truth is not None:
            lines += ["", *self._component_lines()]
        elif self.confusion is not None:
            lines += ["", *self._confusion_lines()]
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
            lines += ["", *_markdown(headings, rows)]
        return [*lines, "", *(f"- {b.name}: {b.library}; {b.citation}" for b in self.baselines)]

    def _confusion_lines(self) -> list[str]:
        """Confusion matrix of a classifier of classes."""
        heading = (
            f"Classification accuracy {self.accuracy():.1%} (mean of the classes; chance "
            f"{1 / len(self.predicted):.0%})."
        )
        legend = "Rows: true class, columns: predicted"
        names, columns = [c.name for c in self.classes], self.predicted
        if sum(map(len, columns)) > _WIDEST_HEADINGS:
            number = {name: str(i + 1) for i, name in enumerate(columns)}
            columns = tuple(number.values())
            names = [f"{number[name]} {name}" for name in names]
            outputs_only = [f"{number[n]} {n}" for n in number if f"{number[n]} {n}" not in names]
            legend += ", by number" + (f" ({', '.join(outputs_only)})" if outputs_only else "")
        rows = [
            [name, *map(str, self.confusion[i]), f"{self.class_accuracy(i):.0%}"]
            for i, name in enumerate(names)
        ]
        return [heading, f"{legend}.", "", *_markdown(["", *columns, "accuracy"], rows)]

    def _component_lines(self) -> list[str]:
        """Table for a classifier of components."""
        detected, truth, columns = self.confusion, self.truth, self.predicted
        is_clean = ~self.truth.any(axis=1)
        if is_clean.any():
            detected, truth = np.c_[detected, self.none_detected], np.c_[truth, is_clean]
            columns = (*columns, "none (clean)")
        rows = []
        for i, c in enumerate(self.classes):
            cells = [
                f"{count}/{c.samples}" if is_present else str(count)
                for count, is_present in zip(detected[i], truth[i], strict=True)
            ]
            rows.append([c.name, *cells, f"{self.class_accuracy(i):.0%}"])
        shares = self._shares_right(detected, truth)
        rows.append(["accuracy", *(f"{share:.0%}" for share in shares), f"{self.accuracy():.0%}"])
        return [
            f"Classification: all components correct in {self.accuracy():.1%} of the samples (mean "
            "of the classes). Rows: true class. Columns: number of samples in which the component "
            "was detected; detected/total if it is a component of the class.",
            "",
            *_markdown(["", *columns, "all correct"], rows),
        ]

    def to_text(self) -> str:
        """The Markdown tables with aligned columns, for a terminal."""
        return aligned(self.to_markdown())


def aligned(markdown: str) -> str:
    """Aligns the columns of the Markdown tables in a text, for a terminal."""
    out, table = [], []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
            continue
        if table:
            out += _align([row for row in table if not set("".join(row)) <= {"-", ":"}])
            table = []
        out.append(line)
    return "\n".join(out).rstrip()


def _values(result: ClassScores) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(result).items() if k != "name"}


def _best_in_bold(values: Sequence[float], digits: int) -> list[str]:
    """The values as text; the highest, as displayed, are bold."""
    texts = [f"{value:.{digits}f}" for value in values]
    best = f"{max(values):.{digits}f}"
    return [f"**{text}**" if text == best else text for text in texts]


def _markdown(headings: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table; all columns but the first are right-aligned."""
    first = "| " + " | ".join(headings).lstrip() + " |"
    rule = "|---|" + "--:|" * (len(headings) - 1)
    return [first, rule, *(f"| {' | '.join(row)} |" for row in rows)]


def _align(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]  # fmt: skip
