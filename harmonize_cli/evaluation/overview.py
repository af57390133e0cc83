"""`harmonize eval table`: results of many runs side by side, question by question."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.questions import Entry, Question, by_question, query_values
from harmonize_cli.evaluation.statistics import bootstrap
from harmonize_cli.evaluation.tables import Format, number, render, with_interval


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: a run, or the runs of one setting over its seeds."""

    label: str
    metrics: dict[str, dict[str, float]]


def overview(
    places: Sequence[Path],
    *,
    patterns: Sequence[str] = (),
    over_seeds: bool = False,
    intervals: bool = True,
    form: Format = "terminal",
) -> str:
    """One table per question.

    Args:
        patterns: shell patterns of metric names; all where empty.
        over_seeds: runs that differ in their seed alone become one line, with an interval that resamples
            queries and seeds.

    Raises:
        BadInput: no results, or no metric that matches.
    """
    blocks = []
    for question, entries in by_question(places).items():
        names = list(dict.fromkeys(n for _, r in entries for n in r.metrics if _wanted(n, patterns)))
        if names:
            rows = _seed_rows(entries, names) if over_seeds else [_row(entry) for entry in entries]
            chance = {n: v for _, r in entries for n, v in r.chance.items()}
            blocks.append(_block(question, rows, names, chance, intervals=intervals, form=form))
    if not blocks:
        raise BadInput(f"no metric matches {', '.join(patterns)}")
    return ("\n" if form == "csv" else "\n\n").join(blocks)


def _block(
    question: Question,
    rows: Sequence[Row],
    names: Sequence[str],
    chance: dict[str, float],
    *,
    intervals: bool,
    form: Format,
) -> str:
    groups = list(dict.fromkeys(name.rpartition("/")[0] for name in names))
    leaves = list(dict.fromkeys(name.rpartition("/")[2] for name in names))
    table: list[list[str]] = []

    def cell(row: Row, name: str) -> str:
        values = row.metrics.get(name)
        return with_interval(name, values) if intervals or values is None else number(name, values["value"])

    guess = [number(name, chance[name]) if name in chance else "" for name in names]
    if len(leaves) == 1:  # one metric: its groups become the columns
        head = ["run", *(f"{group} {leaves[0]}" for group in groups)]
        table = [[row.label, *(cell(row, name) for name in names)] for row in rows]
        if any(guess):
            table.append(["chance", *guess])
    else:
        head = ["run", "", *leaves]
        for group in groups:
            wanted = [f"{group}/{leaf}" for leaf in leaves]
            table += [[row.label, group, *(cell(row, name) for name in wanted)] for row in rows]
            if any(name in chance for name in wanted):
                levels = [number(name, chance[name]) if name in chance else "" for name in wanted]
                table.append(["chance", group, *levels])
    text = render(head, table, form)
    title = {
        "terminal": question.title,
        "markdown": f"**{question.title}**\n",
        "latex": f"% {question.title}",
    }
    return f"{title[form]}\n{text}" if form in title else text


def _row(entry: Entry) -> Row:
    path, result = entry
    name = result.model_name(path.stem)
    step = result.model.get("step")
    return Row(
        f"{name} @ {step}" if step is not None else name, {k: dict(v) for k, v in result.metrics.items()}
    )


def _seed_rows(entries: Sequence[Entry], names: Sequence[str]) -> list[Row]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        model = {k: v for k, v in entry[1].model.items() if k not in ("seed", "run")}
        groups.setdefault(json.dumps(model, sort_keys=True), []).append(entry)
    rows = []
    for members in groups.values():
        if len(members) == 1:
            rows.append(_row(members[0]))
            continue
        values = query_values(members, names)
        metrics = {
            name: bootstrap({name: (m.values, m.statistic)}, clusters=m.groups)[name].as_dict()
            for name, m in values.items()
        }
        rows.append(Row(f"{_shared_name(members)} ({len(members)} seeds)", metrics))
    return rows


def _shared_name(members: Sequence[Entry]) -> str:
    """What the runs' names begin with, or the way they were harmonized."""
    names = [str(result.model.get("run", "")) for _, result in members]
    shared = names[0]
    for name in names:
        while not name.startswith(shared):
            shared = shared[:-1]
    harmonize = members[0][1].model.get("harmonize", {})
    mode = harmonize.get("mode", "") if isinstance(harmonize, dict) else ""
    return shared.rstrip("-_. 0123456789") or str(mode) or "runs"


def _wanted(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
