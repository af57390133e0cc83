"""Bootstrap intervals and paired tests, over queries and over seeds.

A resample is a vector of weights (how often each query was drawn), so that means, medians and clustered
resampling share one code path. Metrics of the same queries share their resamples, which are drawn from the
given seed: the same inputs give the same interval, whatever metrics stand beside.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Numbers = NDArray[np.int64]
Statistic = Literal["mean", "median"]
Column = tuple[Values, Statistic]
"""Values of one metric, [Q] or [seeds, Q], and what sums up the queries."""
DRAWS = 2000
CHUNK_VALUES = 4_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its two-sided percentile interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Comparison:
    """B minus A on the same queries: the difference's interval and a permutation test's p-value."""

    difference: Interval
    p_value: float
    queries: int
    seeds: tuple[int, int]


def bootstrap(
    columns: Mapping[str, Column],
    *,
    clusters: Sequence[object] | None = None,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap over the queries, the same resamples for all columns.

    With several seeds the value is the mean over seeds, and the interval resamples them too.

    Args:
        columns: metrics of the same Q queries, all with the same number of seeds.
        clusters: a key per query; queries of one key (clips of one source video) are drawn together.
        level: two-sided confidence level.
    """
    table = {name: (np.atleast_2d(values), statistic) for name, (values, statistic) in columns.items()}
    shapes = {values.shape for values, _ in table.values()}
    if len(shapes) > 1:
        raise ValueError(f"columns of different queries or seeds: {sorted(shapes)}")
    if not shapes:
        return {}
    seeds, queries = shapes.pop()
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[Values]] = {name: [] for name in table}
    for weights in _resamples(cluster_numbers(clusters, queries), draws, rng):
        picked = _pick(seeds, len(weights), rng)
        for name, values in _summaries(table, weights).items():
            drawn[name].append(_over_seeds(values, picked))
    return {name: _interval(x, np.concatenate(drawn[name]), level) for name, x in points(table).items()}


def points(columns: Mapping[str, Column]) -> dict[str, float]:
    """The statistics themselves, means over seeds."""
    found = {}
    for name, (values, statistic) in columns.items():
        table = np.atleast_2d(values)
        each = table.mean(axis=1) if statistic == "mean" else np.median(table, axis=1)
        found[name] = float(each.mean())
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: the chance of any false alarm among all of these stays below alpha."""
    order = np.argsort(p_values)
    scaled = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(p) for p in adjusted]


def compare(
    a: Values,
    b: Values,
    statistic: Statistic = "mean",
    *,
    clusters: Sequence[object] | None = None,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Paired comparison of two systems, each with one or several seeds.

    The interval resamples queries (the same draw for both systems) and, where a system has several seeds,
    also its seeds. The p-value is that of a two-sided permutation test of the seed-averaged values, which
    swaps A and B within queries (within clusters): it takes the seeds as given and asks whether the queries
    could have produced the difference by chance. Equal values in all queries give p = 1.

    Args:
        a, b: float64 [seeds, Q] on the same queries in the same order; numbers of seeds may differ.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{a.shape[1]} and {b.shape[1]} queries are no pairs")
    rng = np.random.default_rng(seed)
    numbers = cluster_numbers(clusters, a.shape[1])
    table: dict[str, Column] = {"b": (b, statistic), "a": (a, statistic)}
    value = points(table)
    drawn = []
    for weights in _resamples(numbers, draws, rng):
        values = _summaries(table, weights)
        sides = [_over_seeds(values[side], _pick(len(values[side]), len(weights), rng)) for side in table]
        drawn.append(sides[0] - sides[1])
    difference = _interval(value["b"] - value["a"], np.concatenate(drawn), level)
    p = _permutation_p(a.mean(axis=0), b.mean(axis=0), statistic, numbers=numbers, draws=draws, rng=rng)
    return Comparison(difference, p, a.shape[1], (len(a), len(b)))


def cluster_numbers(clusters: Sequence[object] | None, n: int) -> Numbers:
    """The cluster of each of `n` queries, numbered as they appear; without keys each is its own."""
    if n == 0:
        raise ValueError("no values to resample")
    if clusters is None:
        return np.arange(n, dtype=np.int64)
    known: dict[object, int] = {}
    return np.asarray([known.setdefault(c, len(known)) for c in clusters], dtype=np.int64)


def _permutation_p(
    a: Values, b: Values, statistic: Statistic, *, numbers: Numbers, draws: int, rng: np.random.Generator
) -> float:
    summary = np.mean if statistic == "mean" else np.median

    def difference(x: Values, y: Values) -> float:
        return float(summary(y) - summary(x))

    observed = abs(difference(a, b))
    slack = 1e-12 * max(1.0, observed)
    hits = 0
    for _ in range(draws):
        swap = rng.random(int(numbers.max()) + 1)[numbers] < 0.5
        hits += abs(difference(np.where(swap, b, a), np.where(swap, a, b))) >= observed - slack
    return (hits + 1) / (draws + 1)


def _resamples(numbers: Numbers, draws: int, rng: np.random.Generator) -> Iterator[Numbers]:
    """Weights [chunk, Q] of `draws` resamples of the clusters, in chunks of bounded memory."""
    clusters = int(numbers.max()) + 1
    step = max(1, CHUNK_VALUES // len(numbers))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        picked = rng.integers(clusters, size=(size, clusters)) + clusters * np.arange(size)[:, None]
        yield np.bincount(picked.ravel(), minlength=size * clusters).reshape(size, clusters)[:, numbers]


def _pick(seeds: int, draws: int, rng: np.random.Generator) -> Numbers | None:
    """Which seeds [seeds, draws] each draw takes; None for a single one."""
    return rng.integers(seeds, size=(seeds, draws)) if seeds > 1 else None


def _over_seeds(values: Values, picked: Numbers | None) -> Values:
    """Mean over seeds (rows)."""
    values = values if picked is None else np.take_along_axis(values, picked, axis=0)
    return np.asarray(values.mean(axis=0))


def _summaries(table: Mapping[str, Column], weights: Numbers) -> dict[str, Values]:
    """Each column's statistic [seeds, draws] under each row of `weights` [draws, Q]."""
    found: dict[str, Values] = {}
    total = weights.sum(axis=1, keepdims=True)
    means = [name for name, (_, statistic) in table.items() if statistic == "mean"]
    if means:  # all of them in one matrix product
        stacked = np.concatenate([table[name][0] for name in means])
        each = (weights.astype(np.float64) @ stacked.T / total).T
        ends = np.cumsum([len(table[name][0]) for name in means])[:-1]
        found = dict(zip(means, np.split(each, ends), strict=True))
    for name, (values, statistic) in table.items():
        if statistic == "median":
            found[name] = np.stack([_medians(row, weights, total) for row in values])
    return found


def _medians(values: Values, weights: Numbers, total: Numbers) -> Values:
    order = np.argsort(values, kind="stable")
    ordered, running = values[order], np.cumsum(weights[:, order], axis=1)
    lower = (running >= (total + 1) // 2).argmax(axis=1)
    upper = (running >= total // 2 + 1).argmax(axis=1)
    return np.asarray((ordered[lower] + ordered[upper]) / 2)


def _interval(point: float, drawn: Values, level: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(point, float(low), float(high))
