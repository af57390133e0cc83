"""Ranks of the right answers, exact under ties, in constant memory.

Sorting and looking for the diagonal's value, as public code does, counts ties twice and loses NaN rows. Here
the rank of a positive follows from two counts over the gallery: how many scores are greater, how many equal.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonize_cli.errors import HarmonizeError
from harmonize_cli.evaluation.relevance import Relevance
from harmonize_cli.progress import progress

TieRule = Literal["expected", "optimistic", "pessimistic"]
BLOCK_BYTES = 32 * 2**20
Floats = NDArray[np.float32]
Counts = NDArray[np.int64]


def positive_ranks(
    queries: Floats,
    gallery: Floats,
    relevance: Relevance,
    *,
    tie: TieRule = "expected",
    device: str = "cpu",
    block_bytes: int = BLOCK_BYTES,
) -> NDArray[np.float64]:
    """Rank of every positive by dot product, best first within each query.

    With g scores greater and e scores equal to the positive's own (itself included), p of these e being
    positives of the same query, the j-th of the p gets: optimistic g + j, pessimistic g + (e - p) + j,
    expected g + j (e + 1) / (p + 1), its mean over all orders of the tied items. For a single positive
    this is 1 + g + (e - 1) / 2.

    Args:
        queries: float32 [Q, D].
        gallery: float32 [G, D].
        relevance: positives of each query; the result is aligned with `relevance.rows`.
        tie: what a tie counts as.
        device: where the scores are computed, block of queries by block.
        block_bytes: size of one block of scores.

    Returns:
        float64 [P], ascending within each query.

    Raises:
        HarmonizeError: for NaN or infinite values, or scores that could overflow float32.
    """
    greater, equal = count_above(queries, gallery, relevance, device=device, block_bytes=block_bytes)
    return _ranks(greater, equal, relevance.rows, tie)


def score_ranks(
    scores: NDArray[np.float64], relevance: Relevance, *, tie: TieRule = "expected"
) -> NDArray[np.float64]:
    """As `positive_ranks`, from the scores [Q, G] themselves, which are finite."""
    ordered = np.sort(scores, axis=1)
    greater, equal = np.empty(len(relevance.items), np.int64), np.empty(len(relevance.items), np.int64)
    for q, row in enumerate(ordered):
        some = slice(int(relevance.offsets[q]), int(relevance.offsets[q + 1]))
        own = scores[q, relevance.items[some]]
        right = np.searchsorted(row, own, side="right")
        greater[some], equal[some] = len(row) - right, right - np.searchsorted(row, own)
    return _ranks(greater, equal, relevance.rows, tie)


def _ranks(greater: Counts, equal: Counts, rows: Counts, tie: TieRule) -> NDArray[np.float64]:
    order = np.lexsort((greater, rows))
    greater, equal, rows = greater[order], equal[order], rows[order]
    # a tied group is a run of one query's positives with the same number of better scores
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]) | (greater[1:] != greater[:-1])
    group = np.cumsum(first) - 1
    starts = np.flatnonzero(first)
    j = np.arange(len(rows)) - starts[group] + 1
    p = np.bincount(group)[group] if len(rows) else group
    if tie == "optimistic":
        return np.asarray(greater + j, dtype=np.float64)
    if tie == "pessimistic":
        return np.asarray(greater + (equal - p) + j, dtype=np.float64)
    return np.asarray(greater + j * (equal + 1) / (p + 1), dtype=np.float64)


def count_above(
    queries: Floats,
    gallery: Floats,
    relevance: Relevance,
    *,
    device: str = "cpu",
    block_bytes: int = BLOCK_BYTES,
) -> tuple[Counts, Counts]:
    """For every positive: how many gallery scores are greater, and how many are equal (itself included).

    Identical gallery rows are scored once and counted with their multiplicity, for a matrix product may give
    the same row another last bit in another column, and a tie would be missed.

    Returns:
        Two int64 [P], aligned with `relevance.items`.
    """
    check_scores(queries, gallery)
    if len(relevance) != len(queries):
        raise ValueError(f"{len(queries)} queries, but positives for {len(relevance)}")
    distinct, column, times = _distinct_rows(gallery)
    items = torch.from_numpy(column[relevance.items]).to(device)
    weights = None if len(distinct) == len(gallery) else torch.from_numpy(times).to(device)
    table = torch.from_numpy(distinct).to(device)
    greater = np.empty(len(relevance.items), dtype=np.int64)
    equal = np.empty_like(greater)
    single = bool((relevance.counts == 1).all())
    for start, stop in _blocks(len(queries), len(distinct), block_bytes):
        low, high = int(relevance.offsets[start]), int(relevance.offsets[stop])
        rows = torch.from_numpy(relevance.rows_between(start, stop)).to(device)
        scores = torch.from_numpy(np.ascontiguousarray(queries[start:stop])).to(device) @ table.T
        own = scores[rows, items[low:high]]
        count = _count_by_comparing if single else _count_by_sorting
        g, e = count(scores, rows, own, weights)
        greater[low:high] = g.cpu().numpy()
        equal[low:high] = e.cpu().numpy()
    return greater, equal


def check_scores(queries: Floats, gallery: Floats) -> None:
    """Refuse embeddings whose scores could not be ordered.

    Raises:
        HarmonizeError: naming the side and its first faulty row.
    """
    peaks = []
    for name, x in (("query", queries), ("gallery", gallery)):
        if not len(x):
            raise HarmonizeError(f"retrieval needs at least one {name} embedding")
        peak = float(np.maximum(x.max(), -x.min()))  # NaN and infinity survive, and no copy is made
        if not np.isfinite(peak):
            bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
            raise HarmonizeError(
                f"{len(bad)} of {len(x)} {name} embeddings hold NaN or infinity (first: row {bad[0]}); "
                "a rank among them means nothing, look at the model that made them"
            )
        peaks.append(peak)
    if peaks[0] * peaks[1] * queries.shape[1] > float(np.finfo(np.float32).max):
        raise HarmonizeError("embeddings this large overflow float32 scores; normalise them first")


def _blocks(rows: int, columns: int, block_bytes: int) -> Iterator[tuple[int, int]]:
    step = max(1, block_bytes // (4 * columns))
    for start in progress(range(0, rows, step), desc="rank", unit="block"):
        yield start, min(start + step, rows)


def _distinct_rows(gallery: Floats) -> tuple[Floats, Counts, Counts]:
    """Distinct rows [U, D], the distinct row of each gallery row [G], and how often each occurs [U]."""
    plain = np.ascontiguousarray(gallery + np.float32(0))  # -0 becomes 0: equal values, equal bytes
    keys = plain.view(np.dtype((np.void, plain.dtype.itemsize * plain.shape[1]))).ravel()
    _, first, column, times = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    if len(first) == len(gallery):  # the usual case: keep the order, save a copy
        same = np.arange(len(gallery), dtype=np.int64)
        return plain, same, np.ones_like(same)
    return plain[first], column.astype(np.int64), times.astype(np.int64)


def _count_by_comparing(
    scores: Tensor, rows: Tensor, own: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One positive per query: two passes over the block. `rows` is 0, 1, 2, ... here."""
    # 0 and 1 as floats, in one buffer: many times faster than summing booleans; exact below 2^24 columns
    ones = torch.empty_like(scores)
    limit = own[:, None]
    if weights is None and scores.shape[1] < 1 << 24:
        greater = torch.gt(scores, limit, out=ones).sum(dim=1).long()
        return greater, torch.eq(scores, limit, out=ones).sum(dim=1).long()
    if weights is None:
        return (scores > limit).sum(dim=1), (scores == limit).sum(dim=1)
    return ((scores > limit) * weights).sum(dim=1), ((scores == limit) * weights).sum(dim=1)


def _count_by_sorting(
    scores: Tensor, rows: Tensor, own: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Many positives per query: one sort of each row serves all of them."""
    ordered, order = scores.sort(dim=1)
    below = torch.zeros(scores.shape[0], scores.shape[1] + 1, dtype=torch.int64, device=scores.device)
    counts = torch.ones_like(order) if weights is None else weights[order]
    torch.cumsum(counts, dim=1, out=below[:, 1:])
    # positives as a padded table [block, most positives], for searchsorted works row by row
    slot = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    wanted = torch.zeros(scores.shape[0], int(slot.max()) + 1, device=scores.device, dtype=scores.dtype)
    wanted[rows, slot] = own
    left = torch.searchsorted(ordered, wanted)[rows, slot]
    right = torch.searchsorted(ordered, wanted, right=True)[rows, slot]
    return below[rows, -1] - below[rows, right], below[rows, right] - below[rows, left]
