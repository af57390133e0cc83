"""Classifiers that a probe trains on frozen features: scikit-learn estimators behind one `fit`."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, average_precision_score
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.classifiers.logistic import Logistic
from harmonize_cli.evaluation.classifiers.lowrank import LowRank
from harmonize_cli.evaluation.classifiers.neighbours import Neighbours
from harmonize_cli.evaluation.protocols import ProbeProtocol

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
MAX_ROUNDS = 10_000


@dataclass(frozen=True, slots=True)
class Fitted:
    """scores: features [M, D] -> probabilities or decision values [M, C], to be averaged over a clip's
    windows. facts: what the fit chose (the regulariser, ...), for the result."""

    scores: Callable[[Floats], NDArray[np.float64]]
    facts: dict[str, Any]


class Scaler(StandardScaler):  # type: ignore[misc]
    """As scikit-learn's, but a dimension that hardly moves is not divided by its rounding noise."""

    def fit(self, x: Floats, y: Any = None) -> "Scaler":
        super().fit(x)
        flat = np.sqrt(self.var_) <= 1e-6 * np.maximum(1.0, np.abs(self.mean_))
        self.scale_: NDArray[np.float64] = np.where(flat, 1.0, np.sqrt(self.var_))
        return self


SCALING = {"standard": Scaler, "l2": Normalizer, "none": lambda: "passthrough"}


def build_classifier(protocol: ProbeProtocol, device: str = "cpu", *, several: bool = False) -> Pipeline:
    """What `protocol` names, unfitted: scaling, then a classifier (with `several` labels one per class).

    Raises:
        BadInput: a classifier that gives every sample one class, where samples have several.
    """
    classifier: BaseEstimator
    if protocol.classifier == "svm":
        classifier = LinearSVC(dual="auto", max_iter=MAX_ROUNDS, random_state=0)
    elif protocol.classifier == "logistic":
        classifier = Logistic(solver=protocol.solver, device=device)
    elif several:
        raise BadInput(f"classifier {protocol.classifier}: takes one class per sample; use logistic or svm")
    elif protocol.classifier == "low-rank":
        classifier = LowRank(steps=protocol.steps, seed=protocol.seed, device=device)
    else:
        classifier = Neighbours(protocol.neighbours, tau=protocol.tau, device=device)
    if several:
        classifier = OneVsRestClassifier(classifier)
    # neighbours are compared by cosine, whatever the protocol scales
    scaling = "l2" if protocol.classifier == "neighbours" else protocol.scaling
    return Pipeline([("scale", SCALING[scaling]()), ("classify", classifier)])


def fit_classifier(
    protocol: ProbeProtocol, x: Floats, y: NDArray[Any], groups: Rows, device: str = "cpu"
) -> Fitted:
    """Fit on training features alone.

    The regulariser C is chosen by folds inside the training part, over groups, each fold scaled with its own
    training rows: the best accuracy over all validation rows (with several labels the best mean average
    precision), the smaller C on a tie.

    Args:
        x: [N, D].
        y: class numbers [N] from 0, or bool [N, C] with several labels.
        groups: [N]: samples of one group never split over inner folds.
    """
    several = y.ndim == 2
    if several:  # a class that no training sample has, or all of them, can't be learned: its scores are 0
        learned = np.flatnonzero(y.any(axis=0) & ~y.all(axis=0))
        y, classes = y[:, learned].astype(np.int64), y.shape[1]
    else:
        learned, classes = np.arange(0), int(y.max()) + 1
    model = build_classifier(protocol, device, several=several)
    with warnings.catch_warnings():
        if protocol.classifier == "svm":  # said in the facts
            warnings.simplefilter("ignore", ConvergenceWarning)
        facts: dict[str, Any] = {}
        if protocol.classifier in ("svm", "logistic"):
            facts = _choose(model, protocol, x, y, groups)
        model.fit(x, y)
    final = model[-1]
    facts |= getattr(final, "facts_", {})
    if protocol.classifier == "svm":
        fitted = final.estimators_ if several else [final]
        if max(int(np.max(one.n_iter_)) for one in fitted) >= MAX_ROUNDS:
            facts["stopped after rounds"] = MAX_ROUNDS

    def scores(some: Floats) -> NDArray[np.float64]:
        probable = hasattr(model, "predict_proba")
        values = np.asarray((model.predict_proba if probable else model.decision_function)(some), np.float64)
        if values.ndim == 1:
            values = np.stack([-values, values], axis=1) if not several else values[:, None]
        # a class that the fit has not seen is never the best
        unseen = 0.0 if probable or not values.size else values.min() - 1
        out = np.full((len(some), classes), unseen)
        out[:, learned if several else final.classes_] = values
        return out

    return Fitted(scores, facts)


def _choose(
    model: Pipeline, protocol: ProbeProtocol, x: Floats, y: NDArray[Any], groups: Rows
) -> dict[str, Any]:
    """Set the model's C to the best of the grid; what was chosen, and the score of every value."""
    several = y.ndim == 2
    name = "classify__estimator__C" if several else "classify__C"
    grid = sorted(protocol.c)
    splits = inner_folds(y, groups, protocol.inner_folds) if len(grid) > 1 else []
    if not splits:  # a single value, or nothing to choose by
        model.set_params(**{name: grid[len(grid) // 2]})
        return {"C": grid[len(grid) // 2], "inner_accuracy": {}}
    search = GridSearchCV(
        model, {name: grid}, scoring=_precision if several else _accuracy, cv=splits, refit=False
    )
    search.fit(x, y)
    sizes = np.array([len(validation) for _, validation in splits])
    folds = [search.cv_results_[f"split{k}_test_score"] for k in range(len(splits))]
    means = sizes @ np.stack(folds) / sizes.sum()
    best = grid[int(means.argmax())]
    model.set_params(**{name: best})
    tried = {f"{c:g}": float(mean) for c, mean in zip(grid, means, strict=True)}
    return {"C": best, "inner_mAP" if several else "inner_accuracy": tried}


def inner_folds(y: NDArray[Any], groups: Rows, folds: int) -> list[tuple[Rows, Rows]]:
    """(train, validation) rows; groups stay whole, classes stay balanced as far as groups allow.

    Folds whose training rows are of one class are left out; with fewer than two groups there are none.
    """
    folds = min(folds, len(np.unique(groups)))
    if y.ndim == 1:  # the largest class is in every fold
        folds = min(folds, int(np.unique(y, return_counts=True)[1].max()))
    if folds < 2:
        return []
    if y.ndim == 2:
        return [(a, b) for a, b in GroupKFold(n_splits=folds).split(y, y, groups) if y[b].any()]
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        # a class with fewer members than folds misses from some: it still counts in the others
        warnings.filterwarnings("ignore", message=".*least populated class.*", category=UserWarning)
        found = list(splitter.split(np.zeros(len(y)), y, groups))
    return [(train, validation) for train, validation in found if len(np.unique(y[train])) > 1]


def _accuracy(model: Pipeline, x: Floats, y: Rows) -> float:
    return float(accuracy_score(y, model.predict(x)))


def _precision(model: Pipeline, x: Floats, y: NDArray[Any]) -> float:
    asked = y.any(axis=0)
    probable = hasattr(model, "predict_proba")
    scores = (model.predict_proba if probable else model.decision_function)(x)
    return float(average_precision_score(y[:, asked], scores[:, asked], average="macro"))
