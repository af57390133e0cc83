"""Metrics by name, one file each.

A metric gives every query a value and says what sums these up: intervals and paired tests need the queries,
not the averages. Results, tables, comparisons and documentation take them from the registry; installed
packages add theirs through the entry points `harmonize.metrics`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.evaluation.relevance import Relevance
from harmonize_cli.evaluation.statistics import Column, Statistic, Values
from harmonize_cli.registry import Registry

Kind = Literal["retrieval", "class-retrieval", "multi-label", "classification"]


@dataclass(frozen=True)
class Ranking:
    """What the first three kinds are computed from: where each query's right answers stand.

    In retrieval a query is a clip or a caption with one right answer or several, in class-level retrieval
    all items of its class are right. In multi-label classification a class is the query and its clips are
    the right answers.

    Attributes:
        ranks: float64 [P], from 1, ascending within each query (`ranks.positive_ranks`).
        relevance: the same P right answers of Q queries.
        gallery: number of items that were ranked.
    """

    ranks: Values
    relevance: Relevance
    gallery: int

    @cached_property
    def best(self) -> Values:
        """Rank of each query's first right answer, [Q]."""
        return self.ranks[self.relevance.offsets[:-1]]

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Place of each right answer among those of its query, from 1, [P]."""
        return np.arange(len(self.ranks)) - self.relevance.offsets[:-1][self.relevance.rows] + 1

    @property
    def single(self) -> bool:
        """Whether every query has one right answer."""
        return len(self.relevance.items) == len(self.relevance)

    def per_query(self, values: NDArray[Any]) -> Values:
        """Sums [Q] of one value per right answer [P]."""
        return np.asarray(np.add.reduceat(values, self.relevance.offsets[:-1]), dtype=np.float64)


@dataclass(frozen=True)
class Scores:
    """What classification metrics are computed from: `scores` float64 [N, C], `truth` int64 [N] (-1: a class
    that training never saw)."""

    scores: Values
    truth: NDArray[np.int64]

    def hits(self, k: int) -> NDArray[np.bool_]:
        """Whether the true class is among the k best, [N]; a tie at the edge counts as a miss."""
        own = np.take_along_axis(self.scores, np.maximum(self.truth, 0)[:, None], axis=1)
        return np.asarray(((self.scores >= own).sum(axis=1) <= k) & (self.truth >= 0))


def _none(_: Any) -> float | None:
    return None


def _same(column: Values) -> Values:
    return column


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: as tables show it, such as "R@10".
        about: what it is, in one line.
        kinds: evaluations that report it by default.
        compute: `Ranking` (or `Scores`) -> values [Q] (one per sample) that are kept beside the result, or
            None where it does not apply.
        column: name of these values; metrics that share one (ranks) are computed once.
        value: these values -> what every query contributes.
        statistic: what sums up the queries.
        chance: `Ranking` or number of classes -> what guessing gives, None where no closed form is known.
        headline: shown by default in comparisons.
        order: place in tables, ascending.
        version: of the code. Raised whenever a change moves a figure: results then get another identity.
    """

    name: str
    about: str
    kinds: tuple[Kind, ...]
    compute: Callable[[Any], Values | None]
    column: str = ""
    value: Callable[[Values], Values] = _same
    statistic: Statistic = "mean"
    lower_is_better: bool = False
    chance: Callable[[Any], float | None] = _none
    headline: bool = False
    order: int = 100
    version: int = 1


METRICS: Registry[Metric] = Registry(
    "metric", group="harmonize.metrics", package="harmonize_cli.evaluation.metrics"
)


def register(metric: Metric) -> Metric:
    """Make a metric known by its name.

    Raises:
        ValueError: there is one of that name.
    """
    METRICS.add(metric.name, metric)
    return metric


def metrics_of(kind: Kind) -> list[Metric]:
    """Those that a kind of evaluation reports."""
    return sorted((m for m in METRICS.values() if kind in m.kinds), key=lambda m: m.order)


def versions_of(kind: Kind) -> str:
    """ "R@1 1, R@5 1, ...": the versions of the code behind an evaluation's figures."""
    return ", ".join(f"{metric.name} {metric.version}" for metric in metrics_of(kind))


def metric_of(name: str) -> Metric:
    """The metric of a full name such as "text-to-video/R@10"; a plain mean where nobody knows it any more."""
    leaf = name.rpartition("/")[2]
    return METRICS[leaf] if leaf in METRICS else Metric(leaf, "unknown", (), _same)


def columns_of(kind: Kind, measured: Any) -> dict[str, Values]:
    """The values that all metrics of a kind need, by the name of their column."""
    found: dict[str, Values] = {}
    for metric in metrics_of(kind):
        column = metric.column or metric.name
        if column not in found and (values := metric.compute(measured)) is not None:
            found[column] = np.asarray(values, dtype=np.float64)
    return found


def query_columns(kind: Kind, columns: Mapping[str, Values]) -> dict[str, Column]:
    """What every query contributes to each metric of a kind, and the statistic, from the kept values."""
    return {
        metric.name: (np.asarray(metric.value(columns[column]), dtype=np.float64), metric.statistic)
        for metric in metrics_of(kind)
        if (column := metric.column or metric.name) in columns
    }
