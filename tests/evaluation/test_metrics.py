"""Metrics with answers known in advance."""

import numpy as np
import pytest

from harmonize_cli.evaluation.metrics import (
    METRICS,
    Ranking,
    columns_of,
    metric_of,
    query_columns,
)
from harmonize_cli.evaluation.ranks import positive_ranks
from harmonize_cli.evaluation.relevance import Relevance


def scores_of(queries, gallery, relevance):
    ranks = positive_ranks(np.float32(queries), np.float32(gallery), relevance)
    return columns_of("retrieval", Ranking(ranks, relevance, len(gallery)))


def value(name, scores):
    values, statistic = query_columns("retrieval", scores)[name]
    return getattr(np, statistic)(values)


def test_analytic_recall():
    """Query i on the unit circle, its answer i steps away among G even steps: the rank is 2i (or 1)."""
    g = 120
    angle = 2 * np.pi * np.arange(g) / g
    gallery = np.stack([np.cos(angle), np.sin(angle)], 1)
    n = 60
    tilt = 1e-3 / g  # breaks the symmetric tie: the nearer side first
    queries = np.stack([np.cos(angle[:n] + tilt), np.sin(angle[:n] + tilt)], 1)
    shift = np.arange(n)
    relevance = Relevance(np.arange(n + 1), (np.arange(n) + shift) % g)
    scores = scores_of(queries, gallery, relevance)
    assert scores["rank"].tolist() == [1, *(2 * shift[1:])]
    assert [value(f"R@{k}", scores) for k in (1, 5, 10, 50)] == [1 / 60, 3 / 60, 6 / 60, 26 / 60]
    assert value("MedR", scores) == 59
    assert value("MeanR", scores) == pytest.approx((1 + 59 * 60) / 60)


def test_permuted_pairs_give_chance():
    n = 2000
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 16))
    relevance = Relevance(np.arange(n + 1), rng.permutation(n))
    scores = scores_of(x, x, relevance)
    for name in ("R@10", "R@50", "MedR", "MeanR"):
        values, _ = query_columns("retrieval", scores)[name]
        error = 4 * np.std(values) / np.sqrt(n) * (1.3 if name == "MedR" else 1)
        assert value(name, scores) == pytest.approx(
            METRICS[name].chance(Ranking(np.zeros(n), relevance, n)), abs=error
        )


def test_perfect_ranking_of_several_positives_is_one_everywhere():
    gallery = np.eye(6)
    queries = np.array([[3, 2, 1, 0, 0, 0], [0, 0, 0, 1, 2, 3]])
    scores = scores_of(queries, gallery, Relevance(np.array([0, 3, 6]), np.arange(6)))
    assert [value(name, scores) for name in ("R@1", "MedR", "mAP", "nDCG@10")] == [1, 1, 1, pytest.approx(1)]


def test_average_precision_and_ndcg_by_hand():
    gallery = np.array([[4.0], [3.0], [2.0], [1.0]])
    scores = scores_of(
        np.ones((1, 1)), gallery, Relevance(np.array([0, 2]), np.array([1, 3]))
    )  # ranks 2 and 4
    assert scores["ap"] == pytest.approx([(1 / 2 + 2 / 4) / 2])
    assert scores["ndcg"] == pytest.approx([(1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3))])


def test_average_precision_equals_scikit_learns_on_distinct_scores():
    from sklearn.metrics import average_precision_score, ndcg_score

    rng = np.random.default_rng(2)
    queries, gallery = rng.normal(size=(20, 8)), rng.normal(size=(50, 8))
    truth = rng.random((20, 50)) < 0.1
    truth[:, 0] = True
    relevance = Relevance(np.r_[0, np.cumsum(truth.sum(1))], np.nonzero(truth)[1])
    scores = scores_of(queries, gallery, relevance)
    s = np.float32(queries) @ np.float32(gallery).T
    assert scores["ap"] == pytest.approx(
        [average_precision_score(t, r) for t, r in zip(truth, s, strict=True)]
    )
    for q in range(20):
        assert scores["ndcg"][q] == pytest.approx(ndcg_score(truth[q : q + 1], s[q : q + 1], k=10))


def test_direction_of_better():
    assert metric_of("text-to-video/MedR").lower_is_better
    assert not metric_of("text-to-video/R@10").lower_is_better
