"""Linear support vector machine, one against the rest, with the constants of MMV and MIL-NCE."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from harmonize_cli.evaluation.classifiers.base import Floats, Labels
from harmonize_cli.evaluation.classifiers.choose import Fitted
from harmonize_cli.evaluation.classifiers.linear import LinearClassifier

MAX_ROUNDS = 10_000


class Svm(LinearClassifier):
    """scikit-learn's LinearSVC (squared hinge), decision values as scores."""

    _converged = True

    def facts(self) -> dict[str, Any]:
        return super().facts() | ({} if self._converged else {"stopped after rounds": MAX_ROUNDS})

    def path(self, x: Floats, y: Labels, grid: Sequence[float], classes: int) -> Iterator[Fitted]:
        for c in grid:
            self._converged = True  # of the last fit, which is the one that counts
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
