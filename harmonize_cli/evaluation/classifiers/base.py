"""What a probe asks of a classifier, and the scaling with training statistics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


class Classifier(Protocol):
    """Fitted on training features only; sees test features one call later and never test labels."""

    def fit(self, x: Floats, y: Labels, groups: NDArray[np.int64]) -> None:
        """x [N, D], y [N] in 0..C-1, groups [N]: samples of one group never split over inner folds."""

    def scores(self, x: Floats) -> NDArray[np.float64]:
        """[M, C]: probabilities or decision values, to be averaged over a clip's windows."""

    def facts(self) -> dict[str, Any]:
        """What the fit chose (the regulariser, ...), for the result file."""


@dataclass(slots=True)
class Scaler:
    """Standardise with the statistics of the training part.

    `kind` "standard": zero mean, unit variance per dimension; "l2": rows to unit length; "none".
    """

    kind: str = "standard"
    mean: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    scale: Floats = field(default_factory=lambda: np.ones(0, np.float32))

    def fit(self, x: Floats) -> Scaler:
        if self.kind == "standard":
            self.mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
            deviation = x.std(axis=0, dtype=np.float64)
            # a dimension that never moves says nothing; dividing by its rounding noise would make it shout
            flat = deviation <= 1e-6 * np.maximum(1.0, np.abs(self.mean))
            self.scale = np.where(flat, 1.0, deviation).astype(np.float32)
        return self

    def __call__(self, x: Floats) -> Floats:
        if self.kind == "standard":
            return np.asarray((x - self.mean) / self.scale, dtype=np.float32)
        if self.kind == "l2":
            length = np.linalg.norm(x, axis=1, keepdims=True)
            return np.asarray(x / np.where(length > 0, length, 1), dtype=np.float32)
        return x
