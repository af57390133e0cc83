"""Retrieval metrics, per query first: intervals and paired tests need the queries, not the averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.evaluation.relevance import Relevance

Values = NDArray[np.float64]
RECALLS = (1, 5, 10, 50)
NDCG_DEPTH = 10
NAMES = (*(f"R@{k}" for k in RECALLS), "MedR", "MeanR", "mAP", f"nDCG@{NDCG_DEPTH}")


def per_query(ranks: Values, relevance: Relevance) -> dict[str, Values]:
    """What each query contributes: the rank of its best positive, average precision, nDCG.

    Args:
        ranks: float64 [P] from `positive_ranks`, ascending within each query.
        relevance: the same positives.

    Returns:
        "rank", "ap" and "ndcg", each float64 [Q]. Average precision is the mean over the positives of
        (their order) / (their rank); nDCG has gain 1, discount 1 / log2(1 + rank), cut at rank 10, over
        the best that this query's positives could reach.
    """
    starts, rows = relevance.offsets[:-1], relevance.rows
    order = np.arange(len(ranks)) - starts[rows] + 1
    gain = np.where(ranks <= NDCG_DEPTH, 1 / np.log2(1 + ranks), 0.0)
    ideal = np.where(order <= NDCG_DEPTH, 1 / np.log2(1 + order), 0.0)
    return {
        "rank": ranks[starts],
        "ap": np.add.reduceat(order / ranks, starts) / relevance.counts,
        "ndcg": np.add.reduceat(gain, starts) / np.add.reduceat(ideal, starts),
    }


def samples_of(metric: str, scores: Mapping[str, Values]) -> tuple[Values, Literal["mean", "median"]]:
    """A metric as one value per query [Q] and the statistic that sums them up.

    R@K is the share of queries whose best positive has a rank of at most K: an expected rank of 1.5 (two
    tied items) is no hit at 1.
    """
    if metric.startswith("R@"):
        return (scores["rank"] <= int(metric[2:])).astype(np.float64), "mean"
    if metric == "MedR":
        return scores["rank"], "median"
    if metric == "MeanR":
        return scores["rank"], "mean"
    if metric == "mAP":
        return scores["ap"], "mean"
    if metric == f"nDCG@{NDCG_DEPTH}":
        return scores["ndcg"], "mean"
    raise KeyError(metric)


def lower_is_better(metric: str) -> bool:
    """True for ranks and losses, False for shares and precisions. Takes full names, direction and all."""
    return metric.rsplit("/", 1)[-1] in ("MedR", "MeanR")


def chance(metric: str, gallery: int) -> float | None:
    """What a random order gives a query with one positive; None where no closed form is kept."""
    if metric.startswith("R@"):
        return min(1.0, int(metric[2:]) / gallery)
    if metric in ("MedR", "MeanR"):
        return (gallery + 1) / 2
    return None
