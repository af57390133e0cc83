"""Rows of text as a terminal table, Markdown, CSV or LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Literal

Format = Literal["terminal", "markdown", "csv", "latex"]
FORMATS: tuple[Format, ...] = ("terminal", "markdown", "csv", "latex")


def render(head: Sequence[str], rows: Sequence[Sequence[str]], form: Format = "terminal") -> str:
    """A table without trailing newline. The first column is left-aligned, the others right."""
    table = [list(head), *[list(row) for row in rows]]
    if form == "csv":
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(table)
        return out.getvalue().rstrip("\n")
    if form == "latex":
        return _latex(table)
    if form == "markdown":
        table = [[cell.replace("|", "\\|") for cell in row] for row in table]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    padded = [
        [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        for row in table
    ]
    if form == "terminal":
        return "\n".join("  ".join(row).rstrip() for row in padded)
    rule = ["-" * widths[0], *["-" * (w - 1) + ":" if w > 1 else ":" for w in widths[1:]]]
    return "\n".join(f"| {' | '.join(row)} |" for row in (padded[0], rule, *padded[1:]))


def _latex(table: Sequence[Sequence[str]]) -> str:
    lines = [" & ".join(_escape(cell) for cell in row) + r" \\" for row in table]
    columns = "l" + "r" * (len(table[0]) - 1)
    body = "\n".join(lines[1:])
    return (
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{lines[0]}\n\\midrule\n{body}\n"
        "\\bottomrule\n\\end{tabular}"
    )


def _escape(cell: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in cell)
