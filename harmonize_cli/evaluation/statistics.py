"""Bootstrap intervals and paired tests, over queries and over seeds.

A resample is a vector of weights (how often each query was drawn), so that means, medians and clustered
resampling share one code path. All draws come from the given seed: the same inputs give the same interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Statistic = Literal["mean", "median"]
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
    values: Values,
    statistic: Statistic = "mean",
    *,
    clusters: Sequence[object] | None = None,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over queries.

    Args:
        values: float64 [Q], one per query.
        clusters: a key per query; queries of one key (clips of one source video) are drawn together.
        level: two-sided confidence level.
    """
    return bootstrap_over_seeds(
        values[None], statistic, clusters=clusters, draws=draws, level=level, seed=seed
    )


def bootstrap_over_seeds(
    values: Values,
    statistic: Statistic = "mean",
    *,
    clusters: Sequence[object] | None = None,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean over seeds, with an interval that resamples queries and seeds.

    Args:
        values: float64 [seeds, Q] on the same queries in the same order.
    """
    rng = np.random.default_rng(seed)
    numbers = _cluster_numbers(clusters, values.shape[1])
    point = _over_seeds(values, np.ones((1, values.shape[1]), dtype=np.int64), statistic)[0]
    drawn = [_over_seeds(values, w, statistic, rng) for w in _resamples(numbers, draws, rng)]
    return _interval(float(point), np.concatenate(drawn), level)


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
    numbers = _cluster_numbers(clusters, a.shape[1])
    whole = np.ones((1, a.shape[1]), dtype=np.int64)
    point = _over_seeds(b, whole, statistic)[0] - _over_seeds(a, whole, statistic)[0]
    drawn = []
    for weights in _resamples(numbers, draws, rng):
        drawn.append(_over_seeds(b, weights, statistic, rng) - _over_seeds(a, weights, statistic, rng))
    difference = _interval(float(point), np.concatenate(drawn), level)
    p = _permutation_p(a.mean(axis=0), b.mean(axis=0), statistic, numbers=numbers, draws=draws, rng=rng)
    return Comparison(difference, p, a.shape[1], (len(a), len(b)))


def _over_seeds(
    values: Values, weights: NDArray[np.int64], statistic: Statistic, rng: np.random.Generator | None = None
) -> Values:
    """Mean over seeds of the statistic [draws]; with `rng`, each draw takes its own resample of the seeds."""
    each = np.stack([_summaries(v, weights, statistic) for v in values])  # [seeds, draws]
    if rng is None or len(values) == 1:
        return np.asarray(each.mean(axis=0))
    picked = rng.integers(len(values), size=each.shape)
    return np.asarray(np.take_along_axis(each, picked, axis=0).mean(axis=0))


def _permutation_p(
    a: Values,
    b: Values,
    statistic: Statistic,
    *,
    numbers: NDArray[np.int64],
    draws: int,
    rng: np.random.Generator,
) -> float:
    whole = np.ones((1, len(a)), dtype=np.int64)

    def difference(x: Values, y: Values) -> float:
        return float((_summaries(y, whole, statistic) - _summaries(x, whole, statistic))[0])

    observed = abs(difference(a, b))
    slack = 1e-12 * max(1.0, observed)
    hits = 0
    for _ in range(draws):
        swap = rng.random(int(numbers.max()) + 1)[numbers] < 0.5
        hits += abs(difference(np.where(swap, b, a), np.where(swap, a, b))) >= observed - slack
    return (hits + 1) / (draws + 1)


def _resamples(
    numbers: NDArray[np.int64], draws: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Weights [chunk, Q] of `draws` resamples of the clusters, in chunks of bounded memory."""
    clusters = int(numbers.max()) + 1
    step = max(1, CHUNK_VALUES // len(numbers))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        picked = rng.integers(clusters, size=(size, clusters)) + clusters * np.arange(size)[:, None]
        yield np.bincount(picked.ravel(), minlength=size * clusters).reshape(size, clusters)[:, numbers]


def _summaries(values: Values, weights: NDArray[np.int64], statistic: Statistic) -> Values:
    """The statistic of `values` [Q] under each row of `weights` [draws, Q]."""
    if statistic == "mean":
        return np.asarray(weights @ values / weights.sum(axis=1))
    order = np.argsort(values, kind="stable")
    ordered, running = values[order], np.cumsum(weights[:, order], axis=1)
    total = running[:, -1:]
    lower = (running >= (total + 1) // 2).argmax(axis=1)
    upper = (running >= total // 2 + 1).argmax(axis=1)
    return np.asarray((ordered[lower] + ordered[upper]) / 2)


def _cluster_numbers(clusters: Sequence[object] | None, n: int) -> NDArray[np.int64]:
    if n == 0:
        raise ValueError("no values to resample")
    if clusters is None:
        return np.arange(n, dtype=np.int64)
    known: dict[object, int] = {}
    return np.asarray([known.setdefault(c, len(known)) for c in clusters], dtype=np.int64)


def _interval(point: float, drawn: Values, level: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(point, float(low), float(high))
