"""mAP: the mean over queries of average precision, which is the mean over the right answers of (their place
among the right answers) / (their rank)."""

from harmonize_cli.evaluation.metrics import Metric, Ranking, register
from harmonize_cli.evaluation.statistics import Values


def average_precision(ranking: Ranking) -> Values:
    """Of each query, [Q]."""
    return ranking.per_query(ranking.order / ranking.ranks) / ranking.relevance.counts


register(
    Metric(
        "mAP",
        "mean average precision over queries; over classes where a clip has several labels",
        ("retrieval", "class-retrieval", "multi-label"),
        average_precision,
        column="ap",
        order=20,
    )
)
