"""Markdown tables, and their text for a terminal."""

from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> list[str]:
    """The lines of a table.

    Args:
        headings: of the columns.
        rows: cells of each row.
        align: "l" or "r" for each column; by default all columns but the first are right-aligned.
    """
    align = align or "l" + "r" * (len(headings) - 1)
    rule = "".join({"l": "---|", "r": "--:|"}[side] for side in align)
    first, *others = (f"| {' | '.join(cells)} |" for cells in (headings, *rows))
    return [first.replace("|  |", "| |"), f"|{rule}", *others]


def aligned(markdown: str) -> str:
    """Aligns the columns of the tables in a text, for a terminal."""
    out, rows = [], []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
            continue
        if rows:
            out += _align([row for row in rows if not set("".join(row)) <= {"-", ":"}])
            rows = []
        out.append(line)
    return "\n".join(out).rstrip()


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]  # fmt: skip
