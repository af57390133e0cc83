"""Metrics with answers known in advance."""

import numpy as np
import pytest

from harmonize_cli.evaluation.metrics import (
    METRICS,
    Metric,
    Ranking,
    columns_of,
    metric_of,
    metrics_of,
    query_columns,
    register,
)
from harmonize_cli.evaluation.ranks import positive_ranks, score_ranks
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


def test_auc_is_scikit_learns_with_and_without_ties():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    for scores in (rng.normal(size=(6, 40)), rng.integers(0, 4, (6, 40)).astype(float)):
        truth = rng.random((6, 40)) < 0.3
        relevance = Relevance.of_mask(truth)
        ranking = Ranking(score_ranks(scores, relevance), relevance, 40)
        expected = [roc_auc_score(t, s) for t, s in zip(truth, scores, strict=True)]
        assert METRICS["AUC"].compute(ranking) == pytest.approx(expected)


def test_precision_at_k_by_hand():
    right = np.array([[1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]], bool)
    relevance = Relevance.of_mask(right)
    ranking = Ranking(score_ranks(np.tile(np.arange(6.0)[::-1], (2, 1)), relevance), relevance, 6)
    assert METRICS["P@1"].compute(ranking).tolist() == [1, 0]
    assert METRICS["P@5"].compute(ranking).tolist() == [2 / 5, 2 / 5]
    assert METRICS["P@10"].compute(ranking).tolist() == [2 / 6, 3 / 6]
    assert METRICS["P@5"].chance(ranking) == pytest.approx(5 / 12)


def test_ranks_from_scores_are_those_from_vectors():
    rng = np.random.default_rng(4)
    queries, gallery = rng.integers(-1, 2, (2, 12, 3)).astype(np.float32)
    truth = rng.random((12, 12)) < 0.3
    truth[:, 0] = True
    relevance = Relevance.of_mask(truth)
    for tie in ("expected", "optimistic", "pessimistic"):
        expected = positive_ranks(queries, gallery, relevance, tie=tie)
        assert (
            score_ranks((queries @ gallery.T).astype(float), relevance, tie=tie).tolist() == expected.tolist()
        )


def test_a_metric_of_ones_own_is_one_declaration(monkeypatch):
    """As in docs/evaluation.md: registered, it is computed, shown and compared like ours."""
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS))
    register(Metric("MRR", "mean reciprocal rank", ("retrieval",), lambda ranking: 1 / ranking.best))
    relevance = Relevance.paired(3)
    ranking = Ranking(np.array([1.0, 2, 4]), relevance, 4)
    assert value("MRR", columns_of("retrieval", ranking)) == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)
    assert [metric.name for metric in metrics_of("retrieval")][-1] == "MRR"
    with pytest.raises(ValueError, match="registered twice"):
        register(METRICS["MRR"])
