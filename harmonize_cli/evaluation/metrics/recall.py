"""R@K: the share of queries whose best right answer has a rank of at most K.

An expected rank of 1.5 (two tied items) is no hit at 1.
"""

from functools import partial

import numpy as np

from harmonize_cli.evaluation.metrics import Metric, Ranking, register
from harmonize_cli.evaluation.statistics import Values


def _within(ranks: Values, *, k: int) -> Values:
    return (ranks <= k).astype(np.float64)


def _chance(ranking: Ranking, *, k: int) -> float | None:
    return min(1.0, k / ranking.gallery) if ranking.single else None


for _order, _k in enumerate((1, 5, 10, 50)):
    register(
        Metric(
            f"R@{_k}",
            f"share of queries with a right answer among the first {_k}",
            ("retrieval",),
            compute=lambda ranking: ranking.best,
            column="rank",
            value=partial(_within, k=_k),
            chance=partial(_chance, k=_k),
            headline=_k == 10,
            order=_order,
        )
    )
