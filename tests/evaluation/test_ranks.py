"""Ranks agree with the obvious slow form, ties and NaN included."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize_cli.errors import HarmonizeError
from harmonize_cli.evaluation.ranks import positive_ranks
from harmonize_cli.evaluation.relevance import Relevance


def obvious_ranks(scores, positives, tie):
    """Expected, best or worst rank of each positive, over every order that the scores allow."""
    result = []
    for row, wanted in zip(scores, positives, strict=True):
        found = []
        for level in sorted(set(row), reverse=True):
            tied = [c for c in range(len(row)) if row[c] == level]
            before = sum(row > level)
            orders = list(permutations(c in wanted for c in tied))
            places = np.array(
                [[i + 1 for i, hit in enumerate(order) if hit] for order in orders], dtype=float
            )
            pick = {"expected": places.mean(0), "optimistic": places.min(0), "pessimistic": places.max(0)}
            found.extend(before + pick[tie])
        result.append(found)
    return np.concatenate(result)


@st.composite
def tied_problems(draw):
    """Small integer embeddings: exact in float32, full of ties and of duplicate rows."""
    q, g, d = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    values = st.integers(-2, 2)
    queries = np.array(
        draw(st.lists(st.lists(values, min_size=d, max_size=d), min_size=q, max_size=q)), np.float32
    )
    gallery = np.array(
        draw(st.lists(st.lists(values, min_size=d, max_size=d), min_size=g, max_size=g)), np.float32
    )
    positives = [sorted(draw(st.sets(st.integers(0, g - 1), min_size=1))) for _ in range(q)]
    return queries, gallery, positives


def as_relevance(positives):
    offsets = np.cumsum([0, *(len(p) for p in positives)])
    return Relevance(offsets, np.concatenate(positives).astype(np.int64))


@given(
    tied_problems(),
    st.sampled_from(["expected", "optimistic", "pessimistic"]),
    st.sampled_from([1, 40, 10**6]),
)
@settings(deadline=None)
def test_equals_enumeration_of_all_orders(problem, tie, block_bytes):
    queries, gallery, positives = problem
    got = positive_ranks(queries, gallery, as_relevance(positives), tie=tie, block_bytes=block_bytes)
    assert got == pytest.approx(obvious_ranks(queries @ gallery.T, positives, tie))


@pytest.mark.parametrize(("tie", "rank"), [("expected", 2.5), ("optimistic", 1), ("pessimistic", 4)])
def test_constant_embeddings_give_chance_not_a_perfect_score(tie, rank):
    same = np.ones((4, 3), np.float32)
    assert positive_ranks(same, same, Relevance.paired(4), tie=tie).tolist() == [rank] * 4


def test_identical_rows_tie_whatever_their_column():
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(37, 61)).astype(np.float32)
    gallery[36] = gallery[0]  # the last column falls into the product's remainder loop
    got = positive_ranks(gallery[[0, 36]], gallery, Relevance(np.array([0, 1, 2]), np.array([0, 36])))
    assert got.tolist() == [1.5, 1.5]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["query", "gallery"])
def test_nan_is_an_error_that_names_the_side_and_row(bad, side):
    x, y = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)
    (x if side == "query" else y)[2, 1] = bad
    with pytest.raises(HarmonizeError, match=rf"1 of 3 {side} .* row 2"):
        positive_ranks(x, y, Relevance.paired(3))


def test_scores_that_overflow_are_refused():
    huge = np.full((2, 4), 1e30, np.float32)
    with pytest.raises(HarmonizeError, match="overflow"):
        positive_ranks(huge, huge, Relevance.paired(2))


def test_a_query_without_positive_is_refused():
    with pytest.raises(HarmonizeError, match="'c' has no positive"):
        Relevance.by_key(["a", "c"], ["a", "b"])


def test_by_key_finds_all_positives():
    r = Relevance.by_key(["a", "b"], ["b", "a", "a"])
    assert (r.counts.tolist(), r.items.tolist(), r.rows.tolist()) == ([2, 1], [1, 2, 0], [0, 0, 1])
