"""Results of probing: the table and the JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dcpt_jax.probe.neighbours import NEIGHBOURS, SPLIT_SEEDS, TEST_SHARE, Accuracy


@dataclasses.dataclass(frozen=True)
class LevelResult:
    """One level of one network."""

    shape: tuple[int, int, int]  # (h, w, c) of the features of one image
    flattened: Accuracy  # kNN accuracy of the flattened features
    pooled: Accuracy  # kNN accuracy of mean and standard deviation of each channel
    coordinates: np.ndarray  # [n, 2], t-SNE of the flattened features


@dataclasses.dataclass(frozen=True)
class NetworkResult:
    """One network."""

    name: str  # in the table and the picture
    about: Mapping[str, Any]  # JSON-serialisable: architecture, arguments, source of weights
    levels: tuple[LevelResult, ...]  # finest first


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of all networks on the same images."""

    classes: tuple[str, ...]  # names in the order of the labels
    labels: np.ndarray  # [n] int, of the images
    images: str  # description of the images, for people
    settings: Mapping[str, Any]  # JSON-serialisable options that determine the images
    networks: tuple[NetworkResult, ...]  # in the order of the command line

    def to_markdown(self) -> str:
        """The table, with its conventions."""
        rows = [
            [network.name, str(number), shape_text(level.shape)]
            + [accuracy_text(accuracy) for accuracy in (level.flattened, level.pooled)]
            for network in self.networks
            for number, level in enumerate(network.levels, 1)
        ]
        headings = ["network", "level", "h x w x c", "flattened, %", "pooled, %"]
        lines = [
            "# kNN accuracy of the features",
            "",
            f"{self.images}. Chance: {1 / len(self.classes):.0%}.",
            "",
            *_table(headings, rows),
            "",
            f"{NEIGHBOURS} nearest neighbours (Euclidean, uniform votes), {TEST_SHARE:.0%} of the "
            f"images held out; mean ± standard deviation over the splits of the seeds "
            f"{', '.join(map(str, SPLIT_SEEDS))}. Level 1 is the finest level. Flattened: all "
            "values of a level. Pooled: mean and standard deviation of each channel.",
        ]
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """All numbers, JSON-serialisable; accuracies in [0, 1]."""
        return {
            **self.settings,
            "classes": list(self.classes),
            "neighbours": NEIGHBOURS,
            "test_share": TEST_SHARE,
            "split_seeds": list(SPLIT_SEEDS),
            "networks": [
                {
                    "name": network.name,
                    **network.about,
                    "levels": [_level_json(level) for level in network.levels],
                }
                for network in self.networks
            ],
        }


def accuracy_text(accuracy: Accuracy) -> str:
    """Mean and standard deviation in percent, such as "52.3 ± 1.9"."""
    return f"{100 * accuracy.mean:.1f} ± {100 * accuracy.deviation:.1f}"


def shape_text(shape: Sequence[int]) -> str:
    """Height, width and channels, such as "64x64x128"."""
    return "x".join(map(str, shape))


def _level_json(level: LevelResult) -> dict[str, Any]:
    accuracies = {"flattened": level.flattened, "pooled": level.pooled}
    return {
        "shape": list(level.shape),
        **{
            name: {
                "mean": accuracy.mean,
                "standard_deviation": accuracy.deviation,
                "splits": list(accuracy.splits),
            }
            for name, accuracy in accuracies.items()
        },
        "tsne": np.round(level.coordinates, 3).tolist(),
    }


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with aligned columns; all but the first are right-aligned."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(w) for cell, w in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = [f":{'-' * (widths[0] + 1)}", *(f"{'-' * (width + 1)}:" for width in widths[1:])]
    return [line(headings), f"|{'|'.join(rule)}|", *map(line, rows)]
