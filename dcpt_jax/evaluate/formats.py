"""Comparisons of measured and published figures as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence

from dcpt_jax.evaluate import markdown
from dcpt_jax.evaluate.comparison import Comparison, Measured, Row
from dcpt_jax.evaluate.published import Score

_NONE = "-"


def heading(comparison: Comparison) -> str:
    """Convention of the figures, and the classes without published ones."""
    setting = comparison.runs[0].setting
    kinds = "measured and published" if comparison.methods else "measured"
    return f"PSNR in dB / SSIM, {kinds}: {setting}. {comparison.header}".rstrip()


def to_markdown(comparison: Comparison) -> str:
    """A heading, the table, and its notes."""
    headings, rows = _cells(comparison)
    align = "l" + "r" * (len(headings) - 2) + "l"
    lines = [heading(comparison), "", *markdown.table(headings, rows, align)]
    lines += ["", *(f"- {text}" for text in _remarks(comparison))]
    return "\n".join(lines).rstrip() + "\n"


def to_latex(comparison: Comparison) -> str:
    """A `table` environment with heading and notes as its caption; needs no LaTeX package."""
    headings, rows = _cells(comparison)
    caption = " ".join([heading(comparison), *_remarks(comparison)])
    lines = [
        r"\begin{table}",
        r"\centering",
        r"\begin{tabular}{l" + "r" * (len(headings) - 2) + "l}",
        r"\hline",
        _latex_row(headings),
        r"\hline",
        *(_latex_row(row) for row in rows[:-1]),
        r"\hline",
        _latex_row(rows[-1]),
        r"\hline",
        r"\end{tabular}",
        r"\caption{" + _latex(caption) + "}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


_CSV_COLUMNS = (
    *("class", "run", "samples", "data", "test_set", "convention", "psnr_degraded", "psnr", "ssim"),
    *("published", "psnr_published", "ssim_published", "psnr_difference", "ssim_difference"),
    *("second_hand", "source"),
)


def to_csv(comparison: Comparison) -> str:
    """One line per class, run and published method; cells without a comparable figure are empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in comparison.rows:
        for run, measured in zip(comparison.runs, row.measured, strict=True):
            values = {
                "class": row.name,
                "run": run.name,
                "samples": measured.samples,
                "data": measured.data,
                "test_set": measured.test_set,
                "convention": run.setting,
                "psnr_degraded": f"{measured.degraded:.4f}",
                "psnr": f"{measured.psnr:.4f}",
                "ssim": f"{measured.ssim:.4f}",
            }
            compared = [i for i, score in enumerate(row.published) if score is not None]
            for i in compared:
                method, table = comparison.methods[i]
                score = row.published[i]
                psnr, ssim = _differences(measured, score)
                writer.writerow(
                    values
                    | {
                        "published": method,
                        "psnr_published": _optional(score.psnr, ""),
                        "ssim_published": _optional(score.ssim, ""),
                        "psnr_difference": _optional(psnr, ".4f"),
                        "ssim_difference": _optional(ssim, ".4f"),
                        "second_hand": "yes" if score.second_hand else "no",
                        "source": table.source,
                    }
                )
            if not compared:
                writer.writerow(values)
    return out.getvalue()


FORMATS = {"markdown": to_markdown, "csv": to_csv, "latex": to_latex}


def _remarks(comparison: Comparison) -> list[str]:
    """The notes, and the data of each class."""
    measured = ((row.name, row.measured[0].data) for row in comparison.rows[:-1])
    return [*comparison.notes, *(f"{name}: measured on {data}." for name, data in measured if data)]


def _cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table: class, figures, convention."""
    runs, methods = comparison.runs, comparison.methods
    headings = ["class", "samples", "degraded", *(run.name for run in runs)]
    for i, (method, _) in enumerate(methods):
        second_hand = any(_is_second_hand(row, i) for row in comparison.rows)
        headings.append(f"{method} ({'second-hand' if second_hand else 'published'})")
        headings += [
            "difference" if len(runs) == 1 else f"difference of {run.name}" for run in runs
        ]
    rows = []
    for row in comparison.rows:
        first = row.measured[0]
        cells = [row.name, str(first.samples), f"{first.degraded:.2f}"]
        cells += [_pair(m.psnr, m.ssim) for m in row.measured]
        for score in row.published:
            cells.append(_pair(score.psnr, score.ssim) if score else _NONE)
            for measured in row.measured:
                psnr, ssim = _differences(measured, score) if score else (None, None)
                cells.append(_pair(psnr, ssim, sign="+"))
        rows.append([*cells, runs[0].setting])
    return [*headings, "convention"], rows


def _is_second_hand(row: Row, index: int) -> bool:
    score = row.published[index]
    return score is not None and score.second_hand


def _differences(measured: Measured, score: Score) -> tuple[float | None, float | None]:
    """Measured minus published PSNR and SSIM; None if not published."""
    return (
        None if score.psnr is None else measured.psnr - score.psnr,
        None if score.ssim is None else measured.ssim - score.ssim,
    )


def _pair(psnr: float | None, ssim: float | None, *, sign: str = "") -> str:
    if psnr is None and ssim is None:
        return _NONE
    cells = [_optional(psnr, f"{sign}.2f"), _optional(ssim, f"{sign}.3f")]
    return " / ".join(cell or _NONE for cell in cells)


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _latex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(_LATEX.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(_latex(cell) for cell in cells) + r" \\"
