"""Linear support vector machine, one against the rest, with the constants of MMV and MIL-NCE."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from harmonize_cli.evaluation.classifiers.base import Floats, Labels, Scaler
from harmonize_cli.evaluation.classifiers.choose import Fitted, choose

MAX_ROUNDS = 10_000


class Svm:
    """scikit-learn's LinearSVC (squared hinge), decision values as scores.

    One value in `grid` is taken as it is; of several, one is chosen by folds inside the training part.
    """

    def __init__(self, grid: Sequence[float], *, folds: int = 5, scaling: str = "standard") -> None:
        self.grid, self.folds = tuple(grid), folds
        self._scaler = Scaler(scaling)
        self._chosen: dict[str, Any] = {}
        self._converged = True

    def fit(self, x: Floats, y: Labels, groups: NDArray[np.int64]) -> None:
        classes = int(y.max()) + 1
        c, tried = choose(
            x,
            y,
            groups,
            grid=self.grid,
            scaling=self._scaler.kind,
            path=lambda a, b, values: self._path(a, b, values, classes),
            folds=self.folds,
        )
        self._converged = True
        self._score = next(self._path(self._scaler.fit(x)(x), y, [c], classes))
        self._chosen = {"C": c, "inner_accuracy": tried}
        if not self._converged:
            self._chosen["stopped after rounds"] = MAX_ROUNDS

    def scores(self, x: Floats) -> NDArray[np.float64]:
        return self._score(self._scaler(x))

    def facts(self) -> dict[str, Any]:
        return self._chosen

    def _path(self, x: Floats, y: Labels, grid: Sequence[float], classes: int) -> Iterator[Fitted]:
        for c in grid:
            model = LinearSVC(C=c, dual="auto", max_iter=MAX_ROUNDS, random_state=0)
            with warnings.catch_warnings():
                warnings.simplefilter("error", ConvergenceWarning)
                try:
                    model.fit(x, y)
                except ConvergenceWarning:
                    self._converged = False
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    model.fit(x, y)
            yield _decisions(model, classes)


def _decisions(model: LinearSVC, classes: int) -> Fitted:
    def score(x: Floats) -> NDArray[np.float64]:
        values = np.asarray(model.decision_function(x), dtype=np.float64)
        if values.ndim == 1:
            values = np.stack([-values, values], axis=1)
        # a class that the fit has not seen is never the best
        out = np.full((len(x), classes), values.min() - 1 if values.size else 0.0)
        out[:, model.classes_] = values
        return out

    return score
