"""Multinomial logistic regression, L2-regularised as scikit-learn writes it: C sum(loss) + |w|^2 / 2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from harmonize_cli.evaluation.classifiers.base import Floats, Labels, Scaler
from harmonize_cli.evaluation.classifiers.choose import Fitted, choose

GRID = tuple(10.0**e for e in range(-5, 3))


class Logistic:
    """Standardised with training statistics; C chosen by inner folds of the training part.

    Attributes:
        grid: values of C to choose from; one value is taken as it is.
        folds: inner folds, over groups.
    """

    def __init__(self, grid: Sequence[float] = GRID, *, folds: int = 5, scaling: str = "standard") -> None:
        self.grid, self.folds = tuple(grid), folds
        self._scaler = Scaler(scaling)
        self._chosen: dict[str, Any] = {}

    def fit(self, x: Floats, y: Labels, groups: NDArray[np.int64]) -> None:
        classes = int(y.max()) + 1
        c, tried = choose(
            x,
            y,
            groups,
            grid=self.grid,
            scaling=self._scaler.kind,
            path=lambda a, b, values: fit_path(a, b, values, classes),
            folds=self.folds,
        )
        self._score = next(fit_path(self._scaler.fit(x)(x), y, [c], classes))
        self._chosen = {"C": c, "inner_accuracy": tried}

    def scores(self, x: Floats) -> NDArray[np.float64]:
        return self._score(self._scaler(x))

    def facts(self) -> dict[str, Any]:
        return self._chosen


def fit_path(x: Floats, y: Labels, grid: Sequence[float], classes: int) -> Iterator[Fitted]:
    """One fit per value of C, each starting from the one before; yields probabilities [M, `classes`]."""
    model = LogisticRegression(max_iter=2000, tol=1e-4, warm_start=True)
    for c in grid:
        model.set_params(C=c).fit(x, y)
        weights, bias, known = model.coef_.copy(), model.intercept_.copy(), model.classes_
        if len(known) == 2:  # scikit-learn keeps one row for two classes
            weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
        yield probabilities(weights, bias, known, classes)


def probabilities(
    weights: NDArray[np.floating[Any]], bias: NDArray[np.floating[Any]], known: Labels, classes: int
) -> Fitted:
    """Softmax of a linear map, zero for the classes that the fit has not seen."""

    def score(x: Floats) -> NDArray[np.float64]:
        logits = np.asarray(x @ weights.T + bias, dtype=np.float64)
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        out = np.zeros((len(x), classes))
        out[:, known] = e / e.sum(axis=1, keepdims=True)
        return out

    return score
