"""Results of a classifier: as numbers, as lines of Markdown and as JSON values."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dcpt_jax.evaluate import markdown

# Total length of column headings above which they are replaced by numbers, so that the table fits a
# terminal or page.
_WIDEST_HEADINGS = 60


@dataclasses.dataclass(frozen=True)
class Classification:
    """Predictions for all samples."""

    classes: tuple[str, ...]  # the evaluated classes
    outputs: tuple[str, ...]  # names of the classifier's outputs
    truth: np.ndarray  # 0/1 [classes, outputs], the label of each class
    predictions: Sequence[np.ndarray]  # for each class 0/1 [samples, outputs]

    @property
    def counts(self) -> np.ndarray:
        """Number of samples by class and predicted output: int [classes, outputs]."""
        return np.array([rows.sum(axis=0, dtype=int) for rows in self.predictions])

    @property
    def exact(self) -> list[np.ndarray]:
        """For each class, whether all outputs are correct: bool [samples]."""
        pairs = zip(self.predictions, self.truth, strict=True)
        return [(rows == row).all(axis=1) for rows, row in pairs]

    def class_accuracies(self) -> list[float]:
        """Share of the samples of each class with all outputs correct."""
        return [float(exact.mean()) for exact in self.exact]

    def accuracy(self) -> float:
        """Mean of `class_accuracies`, as the numbers of samples of the classes may differ."""
        return float(np.mean(self.class_accuracies()))


class Confusion(Classification):
    """Results of a classifier of classes, which predicts one of its outputs."""

    def to_json(self) -> dict[str, Any]:
        """All results as plain values."""
        return {
            "accuracy": self.accuracy(),
            "confusion": self.counts.tolist(),
            "predicted_classes": list(self.outputs),
        }

    def lines(self) -> list[str]:
        """Accuracy and confusion matrix."""
        heading = (
            f"Classification accuracy {self.accuracy():.1%} (mean of the classes; chance "
            f"{1 / len(self.outputs):.0%})."
        )
        legend = "Rows: true class, columns: predicted"
        names, columns = self.classes, self.outputs
        if sum(map(len, columns)) > _WIDEST_HEADINGS:
            number = {name: str(i + 1) for i, name in enumerate(columns)}
            columns = tuple(number.values())
            names = [f"{number[name]} {name}" for name in names]
            outputs_only = [f"{number[n]} {n}" for n in number if f"{number[n]} {n}" not in names]
            legend += ", by number" + (f" ({', '.join(outputs_only)})" if outputs_only else "")
        rows = [
            [name, *map(str, self.counts[i]), f"{self.class_accuracies()[i]:.0%}"]
            for i, name in enumerate(names)
        ]
        return [heading, f"{legend}.", "", *markdown.table(["", *columns, "accuracy"], rows)]


class Detections(Classification):
    """Results of a classifier of components, which predicts whether each is present."""

    @property
    def none_detected(self) -> np.ndarray:
        """Number of samples of each class in which no component was detected ("clean")."""
        return np.array([(~rows.any(axis=1)).sum() for rows in self.predictions])

    def component_accuracies(self) -> np.ndarray:
        """Accuracy of each component: mean over the classes of the share of correct samples."""
        return self._shares_right(self.counts, self.truth)

    def _shares_right(self, detected: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Per column of [classes, columns]: share of correct samples, averaged over the classes."""
        samples = np.array([[len(rows)] for rows in self.predictions])
        return np.mean(np.where(truth, detected, samples - detected) / samples, axis=0)

    def to_json(self) -> dict[str, Any]:
        """All results as plain values."""
        components = {
            "names": list(self.outputs),
            "accuracy": self.component_accuracies().tolist(),
            "found": self.counts.tolist(),
            "truth": self.truth.tolist(),
            "exact": [int(exact.sum()) for exact in self.exact],
            "nothing": self.none_detected.tolist(),
        }
        return {"accuracy": self.accuracy(), "components": components}

    def lines(self) -> list[str]:
        """Accuracy and a table of the detected components."""
        detected, truth, columns = self.counts, self.truth, self.outputs
        is_clean = ~self.truth.any(axis=1)
        if is_clean.any():
            detected, truth = np.c_[detected, self.none_detected], np.c_[truth, is_clean]
            columns = (*columns, "none (clean)")
        rows = []
        for i, name in enumerate(self.classes):
            cells = [
                f"{count}/{len(self.predictions[i])}" if is_present else str(count)
                for count, is_present in zip(detected[i], truth[i], strict=True)
            ]
            rows.append([name, *cells, f"{self.class_accuracies()[i]:.0%}"])
        shares = self._shares_right(detected, truth)
        rows.append(["accuracy", *(f"{share:.0%}" for share in shares), f"{self.accuracy():.0%}"])
        return [
            f"Classification: all components correct in {self.accuracy():.1%} of the samples (mean "
            "of the classes). Rows: true class. Columns: number of samples in which the component "
            "was detected; detected/total if it is a component of the class.",
            "",
            *markdown.table(["", *columns, "all correct"], rows),
        ]
