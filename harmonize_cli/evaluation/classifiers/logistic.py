"""Multinomial logistic regression, L2-regularised as scikit-learn writes it: C sum(loss) + |w|^2 / 2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from harmonize_cli.evaluation.classifiers.base import Floats, Labels
from harmonize_cli.evaluation.classifiers.choose import Fitted
from harmonize_cli.evaluation.classifiers.lbfgs import fit_softmax
from harmonize_cli.evaluation.classifiers.linear import LinearClassifier

GRID = tuple(10.0**e for e in range(-5, 3))
Solver = Literal["auto", "sklearn", "torch"]
LARGE = 4_000_000
"""Values of a training matrix from which `auto` takes the torch solver."""


class Logistic(LinearClassifier):
    """Probabilities as scores.

    Attributes:
        solver: scikit-learn's, the torch one (same optimum, `device`), or by size.
    """

    def __init__(
        self,
        grid: Sequence[float] = GRID,
        *,
        folds: int = 5,
        scaling: str = "standard",
        solver: Solver = "auto",
        device: str = "cpu",
    ) -> None:
        super().__init__(grid, folds=folds, scaling=scaling)
        self.solver, self.device = solver, device

    def path(self, x: Floats, y: Labels, grid: Sequence[float], classes: int) -> Iterator[Fitted]:
        large = self.device != "cpu" or x.size >= LARGE
        if self.solver == "torch" or (self.solver == "auto" and large):
            return torch_path(x, y, grid, classes, device=self.device)
        return sklearn_path(x, y, grid, classes)


def sklearn_path(x: NDArray[Any], y: Labels, grid: Sequence[float], classes: int) -> Iterator[Fitted]:
    """One fit per value of C, each starting from the one before; yields probabilities [M, `classes`]."""
    model = LogisticRegression(max_iter=5000, tol=1e-5, warm_start=True)
    x = x.astype(np.float64)  # in float32 its line search stops at rounding noise, with a warning
    for c in grid:
        model.set_params(C=c).fit(x, y)
        weights, bias, known = model.coef_.copy(), model.intercept_.copy(), model.classes_
        if len(known) == 2:  # scikit-learn keeps one row for two classes
            weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
        yield probabilities(weights, bias, known, classes)


def torch_path(
    x: Floats, y: Labels, grid: Sequence[float], classes: int, *, device: str = "cpu"
) -> Iterator[Fitted]:
    """The same fits by `lbfgs.fit_softmax`."""
    known, number = np.unique(y, return_inverse=True)
    # scikit-learn's two-class form penalises one vector w where softmax penalises w/2 and -w/2: half as much
    c_factor = 0.5 if len(known) == 2 else 1.0
    data, target = torch.from_numpy(x).to(device), torch.from_numpy(number).to(device)
    for fit in fit_softmax(data, target, [c * c_factor for c in grid], len(known)):
        yield probabilities(fit.weights.cpu().numpy(), fit.bias.cpu().numpy(), known, classes)


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
