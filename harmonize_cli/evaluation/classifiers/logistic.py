"""Multinomial logistic regression, L2-regularised as scikit-learn writes it: C sum(loss) + |w|^2 / 2."""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

from harmonize_cli.evaluation.classifiers.lbfgs import fit_softmax

LARGE = 4_000_000
"""Values of a training matrix from which `auto` takes the torch solver."""


class Logistic(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """scikit-learn's, or the same optimum by `lbfgs.fit_softmax` on `device`.

    Attributes:
        solver: "sklearn", "torch", or "auto": torch on a GPU and for large training sets.
    """

    def __init__(
        self, C: float = 1.0, *, solver: Literal["auto", "sklearn", "torch"] = "auto", device: str = "cpu"
    ) -> None:
        self.C, self.solver, self.device = C, solver, device

    def fit(self, x: NDArray[Any], y: NDArray[Any]) -> "Logistic":
        """x [N, D], y [N] of any class names; sets coef_ [K, D] and intercept_ [K] of a softmax."""
        large = self.device != "cpu" or x.size >= LARGE
        if self.solver == "torch" or (self.solver == "auto" and large):
            self._fit_torch(x, y)
        else:
            self._fit_sklearn(x, y)
        return self

    def predict_proba(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """[M, K], in the order of classes_."""
        logits = np.asarray(x @ self.coef_.T + self.intercept_, dtype=np.float64)
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    def predict(self, x: NDArray[Any]) -> NDArray[Any]:
        """The likeliest class, [M]."""
        return np.asarray(self.classes_[self.predict_proba(x).argmax(axis=1)])

    def _fit_sklearn(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        # in float32 its line search stops at rounding noise, with a warning
        model = LogisticRegression(C=self.C, max_iter=5000, tol=1e-5).fit(x.astype(np.float64), y)
        self.classes_, self.coef_, self.intercept_ = model.classes_, model.coef_, model.intercept_
        if len(self.classes_) == 2:  # scikit-learn keeps one row for two classes
            self.coef_ = np.concatenate([-model.coef_, model.coef_]) / 2
            self.intercept_ = np.concatenate([-model.intercept_, model.intercept_]) / 2

    def _fit_torch(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        self.classes_, number = np.unique(y, return_inverse=True)
        # scikit-learn's two-class form penalises one w where softmax penalises w/2 and -w/2: half as much
        c = self.C * (0.5 if len(self.classes_) == 2 else 1.0)
        data, target = torch.from_numpy(x).to(self.device), torch.from_numpy(number).to(self.device)
        found = next(fit_softmax(data, target, [c], len(self.classes_)))
        self.coef_, self.intercept_ = found.weights.cpu().numpy(), found.bias.cpu().numpy()
