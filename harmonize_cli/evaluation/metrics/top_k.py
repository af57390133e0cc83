"""top-1 and top-5 accuracy."""

from functools import partial

import numpy as np

from harmonize_cli.evaluation.metrics import Metric, Scores, register
from harmonize_cli.evaluation.statistics import Values


def accuracy(classified: Scores, *, k: int) -> Values | None:
    """1 for a hit, [N]; None where k classes or fewer are all there are."""
    return classified.hits(k).astype(np.float64) if k == 1 or classified.scores.shape[1] > k else None


for _k in (1, 5):
    register(
        Metric(
            f"top-{_k}",
            f"share of samples whose class is among the {_k} best" if _k > 1 else "accuracy",
            ("classification",),
            partial(accuracy, k=_k),
            chance=(lambda classes: 1 / classes) if _k == 1 else (lambda _: None),
            headline=_k == 1,
            order=30 + _k,
        )
    )
