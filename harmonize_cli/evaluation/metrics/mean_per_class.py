"""Accuracy as the mean over the classes of the test part, so that rare classes weigh the same."""

import numpy as np

from harmonize_cli.evaluation.metrics import Metric, Scores, register
from harmonize_cli.evaluation.statistics import Values


def mean_per_class(classified: Scores) -> Values:
    """Values [N] whose mean is the metric."""
    hits = classified.hits(1).astype(np.float64)
    known, number, count = np.unique(classified.truth, return_inverse=True, return_counts=True)
    return np.asarray(hits * (len(hits) / (len(known) * count[number])))


register(
    Metric(
        "mean per class",
        "accuracy of each class, averaged",
        ("classification",),
        mean_per_class,
        chance=lambda classes: 1 / classes,
        order=40,
    )
)
