"""What an evaluation found, as numbers, as Markdown and as JSON values."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """Means over the samples of one class; PSNR in dB."""

    name: str
    samples: int
    psnr_degraded: float
    psnr_restored: float
    ssim_degraded: float
    ssim_restored: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results of all classes.

    Attributes:
        classes: one result per class.
        convention: how PSNR and SSIM were computed.
        confusion: int [classes, predicted classes], row = true class; None without a classifier.
        predicted: names of its columns.
    """

    classes: tuple[ClassResult, ...]
    convention: str
    confusion: np.ndarray | None
    predicted: tuple[str, ...]

    def mean(self) -> ClassResult:
        """Plain mean over the classes."""
        fields = [f.name for f in dataclasses.fields(ClassResult)][2:]
        means = {f: float(np.mean([getattr(c, f) for c in self.classes])) for f in fields}
        return ClassResult("mean", sum(c.samples for c in self.classes), **means)

    def class_accuracy(self, index: int) -> float:
        """Share of the samples of a class that the classifier named rightly."""
        row = self.confusion[index]
        return float(row[self.predicted.index(self.classes[index].name)] / row.sum())

    def accuracy(self) -> float:
        """Share of all samples that the classifier named rightly."""
        right = sum(
            self.confusion[i, self.predicted.index(c.name)] for i, c in enumerate(self.classes)
        )
        return float(right / self.confusion.sum())

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "convention": self.convention,
            "classes": {c.name: _values(c) for c in self.classes},
            "mean": _values(self.mean()),
            "accuracy": self.accuracy() if self.confusion is not None else None,
            "confusion": self.confusion.tolist() if self.confusion is not None else None,
            "predicted_classes": list(self.predicted),
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
        if self.confusion is not None:
            lines += [
                "",
                f"Classification accuracy {self.accuracy():.1%} (chance "
                f"{1 / len(self.predicted):.0%}). Rows: true class, columns: predicted.",
                "",
                "| | " + " | ".join(self.predicted) + " | accuracy |",
                "|---|" + "--:|" * (len(self.predicted) + 1),
            ]
            for i, c in enumerate(self.classes):
                counts = " | ".join(str(n) for n in self.confusion[i])
                lines.append(f"| {c.name} | {counts} | {self.class_accuracy(i):.0%} |")
        return "\n".join(lines) + "\n"

    def to_text(self) -> str:
        """The Markdown tables with aligned columns, for a terminal."""
        out, table = [], []
        for line in [*self.to_markdown().splitlines(), ""]:
            if line.startswith("|"):
                table.append([cell.strip() for cell in line.strip("|").split("|")])
                continue
            if table:
                out += _align([row for row in table if not set("".join(row)) <= {"-", ":"}])
                table = []
            out.append(line)
        return "\n".join(out).rstrip()


def _values(result: ClassResult) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(result).items() if k != "name"}


def _align(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]  # fmt: skip
