"""Results for people: tables for the terminal, Markdown, CSV or LaTeX."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from harmonize_cli.evaluation.metrics import metric_of
from harmonize_cli.evaluation.results import Result

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


def summary(result: Result, path: Path) -> str:
    """One table of a result, what it was measured on, and where the file is."""
    groups = list(dict.fromkeys(name.rpartition("/")[0] for name in result.metrics))
    names = list(dict.fromkeys(name.rpartition("/")[2] for name in result.metrics))
    rows = []
    for group in groups:
        rows.append([group, *[_cell(result, f"{group}/{name}") for name in names]])
        if any(f"{group}/{name}" in result.chance for name in names):
            rows.append(["  chance", *[_chance(result, f"{group}/{name}") for name in names]])
    covered = result.coverage
    lines = [
        render([result.task, *names], rows),
        f"{result.protocol.get('name')} protocol, split {result.split}: {covered['present']} of "
        f"{covered['expected']} samples complete{_lacking(result)}",
        f"95% intervals in {path}",
    ]
    lines += [f"note: {note}" for note in result.notes if result.task != "probe"]
    return "\n".join(lines)


def number(name: str, value: float) -> str:
    """A metric's value as tables show it: ranks with one digit, shares with three."""
    return f"{value:.1f}" if metric_of(name).lower_is_better else f"{value:.3f}"


def with_interval(name: str, values: Mapping[str, float] | None) -> str:
    """value [low, high], or a dash."""
    if values is None:
        return "-"
    low, high = number(name, values["low"]), number(name, values["high"])
    return f"{number(name, values['value'])} [{low}, {high}]"


def _cell(result: Result, name: str) -> str:
    return number(name, result.metrics[name]["value"]) if name in result.metrics else "-"


def _chance(result: Result, name: str) -> str:
    return number(name, result.chance[name]) if name in result.chance else ""


def _lacking(result: Result) -> str:
    modalities = result.coverage.get("modalities", {})
    lacks = [
        f"{m}: {count} {status}"
        for m, counts in modalities.items()
        for status, count in counts.items()
        if status != "ok" and count
    ]
    return f" ({', '.join(lacks)})" if lacks else ""
