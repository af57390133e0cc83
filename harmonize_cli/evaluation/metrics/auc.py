"""AUC: area under the ROC curve, the chance that a right answer is ranked above a wrong one (ties half)."""

import numpy as np

from harmonize_cli.evaluation.metrics import Metric, Ranking, register
from harmonize_cli.evaluation.statistics import Values


def auc(ranking: Ranking) -> Values:
    """Of each query, [Q]; 1 where there are no wrong answers. Ranks are expected ones."""
    right = ranking.relevance.counts
    wrong = ranking.gallery - right
    above = ranking.per_query(ranking.ranks) - right * (right + 1) / 2  # wrong answers above, summed
    return np.asarray(1 - above / np.maximum(right * wrong, 1))


register(
    Metric(
        "AUC",
        "area under the ROC curve, mean over classes",
        ("multi-label",),
        auc,
        chance=lambda _: 0.5,
        order=22,
    )
)
