"""Results for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harmonize_cli.evaluation.metrics import lower_is_better
from harmonize_cli.evaluation.results import Result
from harmonize_cli.evaluation.tables import render


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
    return "\n".join(lines)


def number(name: str, value: float) -> str:
    """A metric's value as tables show it: ranks with one digit, shares with three."""
    return f"{value:.1f}" if lower_is_better(name) else f"{value:.3f}"


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
