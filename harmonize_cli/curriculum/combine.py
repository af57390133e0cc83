"""One score from many: a logistic regression on ranks, learned from injected noise, so without any label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.files import shaped

GRID = 200
"""Quantiles kept of each indicator: a rank among what was seen, whatever the indicator's unit."""
Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Combination:
    """names [F], grids [F, GRID + 1] of suspicions, weights [F], bias: suspicion = logit of being wrong."""

    names: tuple[str, ...]
    grids: Floats
    weights: Floats
    bias: float

    def __call__(self, suspicions: Mapping[str, Floats]) -> NDArray[np.float32]:
        """[N] combined suspicion; an undefined indicator counts as unremarkable."""
        ranks = _ranks([suspicions[name] for name in self.names], self.grids)
        logit = ranks @ self.weights + self.bias
        nowhere = np.all([np.isnan(suspicions[name]) for name in self.names], axis=0)
        most = float(np.finfo(np.float32).max)
        return np.where(nowhere, np.nan, np.clip(logit, -most, most)).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "names": list(self.names),
            "grids": self.grids.tolist(),
            "weights": self.weights.tolist(),
            "bias": self.bias,
        }

    @staticmethod
    def from_json(values: Any, where: str) -> "Combination":
        """Inverse of `to_json`.

        Raises:
            BadInput: another content; `where` names the file.
        """
        kept = shaped(_Kept, values, where)
        names, grids, weights = kept.names, kept.grids, kept.weights
        if not len(names) == len(grids) == len(weights) or len({len(grid) for grid in grids}) != 1:
            raise BadInput(f"{where}: names, grids and weights differ in length")
        if not grids[0]:
            raise BadInput(f"{where}: grids: expected at least one value each")
        return Combination(tuple(names), np.array(grids), np.array(weights), kept.bias)


@dataclass(frozen=True, slots=True)
class _Kept:
    names: list[str]
    grids: list[list[float]]
    weights: list[float]
    bias: float


def learn(suspicions: Mapping[str, Floats], wrong: NDArray[np.bool_]) -> Combination:
    """Fit on samples of which `wrong` [N] were misaligned on purpose.

    The others may hold real noise: that makes the estimate of how many are wrong too low, the order of
    samples stays useful.
    """
    from sklearn.linear_model import LogisticRegression

    names = tuple(name for name, x in suspicions.items() if np.isfinite(x).any())
    columns = [np.asarray(suspicions[name], np.float64) for name in names]
    grids = np.stack([np.nanquantile(x, np.linspace(0, 1, GRID + 1)) for x in columns])
    model = LogisticRegression(C=0.3, max_iter=2000).fit(_ranks(columns, grids), wrong)
    return Combination(names, grids, model.coef_[0], float(model.intercept_[0]))


def cross_fitted(
    suspicions: Mapping[str, Floats], wrong: NDArray[np.bool_], groups: Sequence[str], *, folds: int = 5
) -> NDArray[np.float32]:
    """[N] combined suspicion of each sample by a combination that never saw a sample of its group."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(folds, len(set(groups)))
    found = np.full(len(wrong), np.nan, np.float32)
    if folds < 2:
        return found
    for seen, unseen in StratifiedGroupKFold(folds).split(wrong, wrong, groups):
        if wrong[seen].any() and not wrong[seen].all():
            model = learn({name: x[seen] for name, x in suspicions.items()}, wrong[seen])
            found[unseen] = model({name: x[unseen] for name, x in suspicions.items()})
    return found


def _ranks(columns: Sequence[Floats], grids: Floats) -> Floats:
    """[N, F] within -0.5 .. 0.5."""
    spots = np.linspace(-0.5, 0.5, grids.shape[1])
    ranks = [np.interp(x, grid, spots) for x, grid in zip(columns, grids, strict=True)]
    return np.nan_to_num(np.stack(ranks, axis=1), nan=0.0)
