"""`harmonize eval compare`: is B better than A, or would other queries say otherwise?"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.metrics import metric_of
from harmonize_cli.evaluation.questions import Entry, Question, by_question, query_values
from harmonize_cli.evaluation.statistics import DRAWS, Comparison, compare, holm
from harmonize_cli.evaluation.tables import Format, number, render

FORMAT = "harmonize-comparison/1"


@dataclass(frozen=True, slots=True)
class Line:
    """One metric: values of A and B (mean over seeds), B - A with its interval and p-values."""

    metric: str
    a: float
    b: float
    test: Comparison
    p_holm: float

    @property
    def verdict(self) -> str:
        """For B: "better" or "worse" where both say so, the interval without 0 in it and p below 0.05 after
        Holm's adjustment; else "open"."""
        difference = self.test.difference
        if self.p_holm >= 0.05 or difference.low <= 0 <= difference.high:
            return "open"
        return "better" if (difference.value < 0) == metric_of(self.metric).lower_is_better else "worse"


@dataclass(frozen=True, slots=True)
class Compared:
    """All metrics of one question."""

    question: Question
    a: Sequence[Entry]
    b: Sequence[Entry]
    lines: Sequence[Line]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "question": self.question.title,
            "a": [str(path) for path, _ in self.a],
            "b": [str(path) for path, _ in self.b],
            "metrics": {
                line.metric: {
                    "a": line.a,
                    "b": line.b,
                    "difference": line.test.difference.as_dict(),
                    "p_value": line.test.p_value,
                    "p_holm": line.p_holm,
                    "verdict": line.verdict,
                    "queries": line.test.queries,
                }
                for line in self.lines
            },
        }


def compare_results(
    a: Sequence[Path],
    b: Sequence[Path],
    *,
    patterns: Sequence[str] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Compared]:
    """Every question that both sides answer. Several results of one side are its seeds.

    Args:
        a, b: result files, run folders, or folders of run folders.
        patterns: shell patterns of metric names; by default the headline metrics, all where there are none.

    Raises:
        BadInput: where the sides have no question in common, or no metric matches.
    """
    left, right = by_question(a), by_question(b)
    common = [question for question in left if question in right]
    if not common:
        raise BadInput(
            "A and B answer different questions (task, protocol, split, store), so there are no pairs:\n"
            + "\n".join(f"  A: {q.title} ({q.key[:8]})" for q in left)
            + "\n"
            + "\n".join(f"  B: {q.title} ({q.key[:8]})" for q in right)
        )
    found = [_compare(q, left[q], right[q], patterns, draws=draws, seed=seed) for q in common]
    if not any(one.lines for one in found):
        names = sorted({name for q in common for _, r in left[q] for name in r.metrics})
        raise BadInput(f"no metric matches {', '.join(patterns)}; there are {', '.join(names)}")
    return [one for one in found if one.lines]


def _compare(
    question: Question,
    a: Sequence[Entry],
    b: Sequence[Entry],
    patterns: Sequence[str],
    *,
    draws: int,
    seed: int,
) -> Compared:
    both = [name for name in a[0][1].metrics if name in b[0][1].metrics]
    if patterns:
        names = [name for name in both if any(fnmatchcase(name, pattern) for pattern in patterns)]
    else:
        names = [name for name in both if metric_of(name).headline] or both
    values = query_values([*a, *b], names)
    tests = []
    for name in names:
        of, statistic, groups = values[name]
        tests.append(compare(of[: len(a)], of[len(a) :], statistic, clusters=groups, draws=draws, seed=seed))
    lines = [
        Line(name, _mean(a, name), _mean(b, name), test, adjusted)
        for name, test, adjusted in zip(names, tests, holm([t.p_value for t in tests]), strict=True)
    ]
    return Compared(question, a, b, lines)


def show(compared: Compared, form: Format = "terminal") -> str:
    """A table with one line per metric."""
    rows = []
    for line in compared.lines:
        difference = line.test.difference
        low, high = number(line.metric, difference.low), number(line.metric, difference.high)
        rows.append(
            [
                line.metric,
                number(line.metric, line.a),
                number(line.metric, line.b),
                f"{number(line.metric, difference.value)} [{low}, {high}]",
                f"{line.test.p_value:.4f}",
                f"{line.p_holm:.4f}",
                line.verdict,
            ]
        )
    head = ["metric", "A", "B", "B - A [95%]", "p", "p (Holm)", "B is"]
    table = render(head, rows, form)
    if form != "terminal":
        return table
    sides = f"A: {_names(compared.a)}; B: {_names(compared.b)}"
    rule = "better, worse: the interval excludes 0 and p (Holm) < 0.05; else open"
    return f"{compared.question.title}\n{sides}\n{table}\n{rule}"


def _mean(entries: Sequence[Entry], name: str) -> float:
    return float(np.mean([result.metrics[name]["value"] for _, result in entries]))


def _names(entries: Sequence[Entry]) -> str:
    names = [result.model_name(path.stem) for path, result in entries]
    return ", ".join(names) if len(names) <= 6 else f"{len(names)} runs"
