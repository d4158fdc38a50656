"""The t-SNE picture: a row for each network, a column for each level."""

import textwrap
from pathlib import Path

from dcpt_jax import extras, files
from dcpt_jax.probe.report import Report, accuracy_text, shape_text

# Okabe and Ito's colours, distinguishable with colour blindness; the palest come last.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442"),
)
MARKERS = "os^Dvp*XP<>"  # enough for 88 distinct pairs of colour and marker
_CELL, _LEAST_WIDTH = 3.0, 5.0  # inches
_CHARACTER = 0.09  # inches, at the font size of the titles
_DPI = 200


def check_matplotlib() -> None:
    """Raises ImportError if matplotlib is missing."""
    with extras.needed("probe", "the picture"):
        import matplotlib.figure  # noqa: F401


def draw(report: Report, path: Path) -> None:
    """Draws the t-SNE of each level of each network to a PNG or PDF file."""
    check_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows, columns = len(report.networks), max(len(network.levels) for network in report.networks)
    handles = [
        Line2D([], [], linestyle="", label=name, markersize=7, **_style(label))
        for label, name in enumerate(report.classes)
    ]
    width = max(columns * _CELL + 0.6, _LEAST_WIDTH)
    figure = Figure(figsize=(width, rows * (_CELL + 0.5) + 1.5), dpi=_DPI)
    figure.set_layout_engine("constrained")
    title = textwrap.fill(report.images, int(width / _CHARACTER))
    figure.suptitle(f"t-SNE of the features, and kNN accuracy\n{title}", fontsize=10)
    grid = figure.subplots(rows, columns, squeeze=False)
    for network, row in zip(report.networks, grid, strict=True):
        row[0].set_ylabel(network.name, fontsize=11)
        for number, axes in enumerate(row, 1):
            if number > len(network.levels):
                axes.set_axis_off()
                continue
            level = network.levels[number - 1]
            axes.set_title(
                f"level {number}, {shape_text(level.shape)}\n"
                f"{accuracy_text(level.flattened)} %, pooled {accuracy_text(level.pooled)} %",
                fontsize=9,
            )
            axes.set(xticks=[], yticks=[])
            axes.set_box_aspect(1)
            axes.margins(0.08)
            for label in range(len(report.classes)):
                points = level.coordinates[report.labels == label]
                axes.scatter(*points.T, s=16, alpha=0.85, linewidths=0, **_style(label))
    entry = _CHARACTER * (max(map(len, report.classes)) + 6)  # width of a legend entry in inches
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(max(int(width / entry), 1), len(handles)),
        fontsize=10,
        frameon=False,
    )
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:])


def _style(label: int) -> dict[str, str]:
    return {"marker": MARKERS[label % len(MARKERS)], "color": COLOURS[label % len(COLOURS)]}
