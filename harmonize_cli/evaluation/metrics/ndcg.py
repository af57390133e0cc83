"""nDCG@10: gain 1, discount 1 / log2(1 + rank), cut at rank 10, over the best that the right answers could
reach."""

import numpy as np

from harmonize_cli.evaluation.metrics import Metric, Ranking, register
from harmonize_cli.evaluation.statistics import Values

DEPTH = 10


def ndcg(ranking: Ranking) -> Values:
    """Of each query, [Q]."""
    gain = np.where(ranking.ranks <= DEPTH, 1 / np.log2(1 + ranking.ranks), 0.0)
    ideal = np.where(ranking.order <= DEPTH, 1 / np.log2(1 + ranking.order), 0.0)
    return ranking.per_query(gain) / ranking.per_query(ideal)


register(Metric(f"nDCG@{DEPTH}", "discounted cumulative gain", ("retrieval",), ndcg, column="ndcg", order=21))
