"""P@K: the share of the first K items that are right answers, where a query has many (its class)."""

from functools import partial

from harmonize_cli.evaluation.metrics import Metric, Ranking, register
from harmonize_cli.evaluation.statistics import Values


def precision(ranking: Ranking, *, k: int) -> Values:
    """Of each query, [Q]; out of the gallery where that is smaller than K."""
    return ranking.per_query(ranking.ranks <= k) / min(k, ranking.gallery)


def _chance(ranking: Ranking) -> float:
    return len(ranking.ranks) / (len(ranking.relevance) * ranking.gallery)


for _order, _k in enumerate((1, 5, 10)):
    register(
        Metric(
            f"P@{_k}",
            f"share of right answers among the first {_k}",
            ("class-retrieval",),
            partial(precision, k=_k),
            chance=_chance,
            headline=_k == 1,
            order=_order,
        )
    )
