"""The regulariser, chosen by folds inside the training part."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from harmonize_cli.evaluation.classifiers.base import Floats, Labels, Scaler

Fitted = Callable[[Floats], NDArray[np.float64]]


def inner_folds(y: Labels, groups: NDArray[np.int64], folds: int) -> list[tuple[Labels, Labels]]:
    """(train, validation) rows; groups stay whole, classes stay balanced as far as groups allow.

    Returns an empty list where there are fewer than two groups: then nothing can be chosen.
    """
    folds = min(folds, len(np.unique(groups)))
    if folds < 2:
        return []
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        # a class with fewer members than folds misses from some: it still counts in the others
        warnings.filterwarnings("ignore", message=".*least populated class.*", category=UserWarning)
        return [(np.asarray(a), np.asarray(b)) for a, b in splitter.split(np.zeros(len(y)), y, groups)]


def choose(
    x: Floats,
    y: Labels,
    groups: NDArray[np.int64],
    *,
    grid: Sequence[float],
    scaling: str,
    path: Callable[[Floats, Labels, Sequence[float]], Iterator[Fitted]],
    folds: int,
) -> tuple[float, dict[str, float]]:
    """The value of `grid` with the best mean accuracy over inner folds, the smaller one on a tie.

    Args:
        x: raw training features: each inner fold is scaled with the statistics of its own training rows.
        path: fits every value of the grid in ascending order (so that a solver can start warm) and yields
            a scoring function for each.

    Returns:
        The value and the accuracy of every value, as strings for JSON.
    """
    values = sorted(grid)
    right = np.zeros(len(values))
    seen = 0
    for train, validation in inner_folds(y, groups, folds) if len(values) > 1 else []:
        if len(np.unique(y[train])) < 2:
            continue
        scaler = Scaler(scaling).fit(x[train])
        inside, outside = scaler(x[train]), scaler(x[validation])
        for i, score in enumerate(path(inside, y[train], values)):
            right[i] += float((score(outside).argmax(axis=1) == y[validation]).sum())
        seen += len(validation)
    if not seen:
        return values[len(values) // 2], {}
    return values[int(right.argmax())], {
        f"{v:g}": float(r / seen) for v, r in zip(values, right, strict=True)
    }
