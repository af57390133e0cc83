"""Linear evaluation: a classifier on frozen features, judged on samples it never met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.evaluation.classifiers.base import Classifier, Floats, Labels
from harmonize_cli.evaluation.statistics import DRAWS, Interval, bootstrap


@dataclass(frozen=True, slots=True)
class Part:
    """One way to split: rows to train on, rows to judge. `name` as in "fold 3" or "split 1"."""

    name: str
    train: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Judged:
    """Test rows of one part with the scores their windows gave on average."""

    part: str
    rows: NDArray[np.int64]
    truth: Labels
    scores: NDArray[np.float64]
    facts: dict[str, Any] = field(default_factory=dict)


def run_part(
    classifier: Classifier,
    part: Part,
    labels: Labels,
    *,
    train: tuple[Floats, NDArray[np.int64]],
    test: tuple[Floats, NDArray[np.int64]],
    groups: NDArray[np.int64],
) -> Judged:
    """Fit on the training rows, score the test rows.

    The classifier gets the windows, labels and groups of training rows alone; test windows come one call
    later, and test labels never.

    Args:
        labels, groups: of every row, [N]. Labels are class numbers, -1 for a class without training rows.
        train: windows [W, D] and the row of each [W]; every window of a training row is one example.
        test: the same for judging; scores are averaged over a row's windows.

    Raises:
        BadInput: a side without features, or a training side of one class.
        HarmonizeError: features that are no numbers.
    """
    x, rows = _side(train, part.train, f"{part.name}: no training sample has the features of this probe")
    if len(np.unique(labels[rows])) < 2:
        raise BadInput(f"{part.name}: all training samples with these features are of one class")
    check_finite(f"{part.name}: features", x, rows)
    classifier.fit(x, labels[rows], groups[rows])
    x, rows = _side(test, part.test, f"{part.name}: no test sample has the features of this probe")
    check_finite(f"{part.name}: features", x, rows)
    scores = classifier.scores(x)
    judged, where = np.unique(rows, return_inverse=True)
    total = np.zeros((len(judged), scores.shape[1]))
    np.add.at(total, where, scores)
    mean = total / np.bincount(where)[:, None]
    return Judged(part.name, judged.astype(np.int64), labels[judged], mean, classifier.facts())


def _side(
    windows: tuple[Floats, NDArray[np.int64]], wanted: NDArray[np.int64], empty: str
) -> tuple[Floats, NDArray[np.int64]]:
    """The windows of `wanted` rows, and the row of each."""
    x, of = windows
    inside = np.isin(of, wanted)
    if not inside.any():
        raise BadInput(empty)
    return x[inside], of[inside]


def check_finite(what: str, values: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> None:
    """Refuse values [N, ...] that can't be compared: NaN is neither above nor below the right class.

    Raises:
        HarmonizeError: naming the first of `rows` [N] that holds one.
    """
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise HarmonizeError(
            f"{what}: {int(bad.sum())} of {len(bad)} hold NaN or infinity (first: row {rows[bad.argmax()]} "
            "of the store); accuracy among them means nothing, look at the model that made them"
        )


def number_labels(names: Sequence[str | None], train: NDArray[np.int64]) -> tuple[Labels, list[str]]:
    """Class numbers by sorted names of the training rows; -1 where a name does not occur there."""
    known = sorted({name for name in (names[i] for i in train) if name is not None})
    number = {name: i for i, name in enumerate(known)}
    return np.asarray([-1 if n is None else number.get(n, -1) for n in names], dtype=np.int64), known


def top_k(scores: NDArray[np.float64], truth: Labels, k: int) -> NDArray[np.bool_]:
    """Whether the true class is among the k best; a tie at the edge counts as a miss."""
    own = np.take_along_axis(scores, np.maximum(truth, 0)[:, None], axis=1)
    return np.asarray(((scores >= own).sum(axis=1) <= k) & (truth >= 0))


def metrics_of(
    parts: Sequence[Judged],
    classes: int,
    *,
    clusters: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[dict[str, Interval], dict[str, NDArray[np.generic]]]:
    """top-1, top-5 and the mean over classes, each the mean over parts, with intervals over test samples.

    A sample judged in several parts (official splits overlap) is one sample of the bootstrap.

    Args:
        clusters: a key per row of the store [N]; rows of one key are resampled together.

    Returns:
        Metrics, and the values of every query: "row" [M], "group" [M] of `clusters`, one array [M] per
        metric.

    Raises:
        HarmonizeError: scores that are no numbers.
    """
    for part in parts:
        check_finite(f"{part.part}: scores", part.scores, part.rows)
    rows = np.unique(np.concatenate([p.rows for p in parts]))
    values: dict[str, NDArray[np.float64]] = {}
    for name in ("top-1", "top-5", "mean per class"):
        if name == "top-5" and classes <= 5:
            continue
        table = np.full((len(parts), len(rows)), np.nan)
        for i, part in enumerate(parts):
            table[i, np.searchsorted(rows, part.rows)] = _weighted_hits(part, name)
        # every part weighs the same, however many rows it judges
        share = np.array([1 / len(p.rows) for p in parts]) / len(parts) * len(rows)
        values[name] = np.nansum(table * share[:, None], axis=0)
    keys = None if clusters is None else [clusters[i] for i in rows]
    found = {n: bootstrap(v, clusters=keys, draws=draws, seed=seed) for n, v in values.items()}
    return found, {"row": rows, **({} if keys is None else {"group": np.asarray(keys)}), **values}


def _weighted_hits(part: Judged, name: str) -> NDArray[np.float64]:
    """Values whose mean over the part is the metric."""
    if name != "mean per class":
        return top_k(part.scores, part.truth, int(name.removeprefix("top-"))).astype(np.float64)
    hits = top_k(part.scores, part.truth, 1).astype(np.float64)
    known, number, count = np.unique(part.truth, return_inverse=True, return_counts=True)
    return np.asarray(hits * (len(hits) / (len(known) * count[number])))
