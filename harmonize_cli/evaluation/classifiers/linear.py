"""What the linear classifiers share: scaled features, C chosen inside the training part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.evaluation.classifiers.base import Floats, Labels, Scaler
from harmonize_cli.evaluation.classifiers.choose import Fitted, choose


class LinearClassifier(ABC):
    """Scaled with training statistics; C chosen by inner folds of the training part.

    Attributes:
        grid: values of C to choose from; one value is taken as it is.
        folds: inner folds, over groups.
    """

    def __init__(self, grid: Sequence[float], *, folds: int = 5, scaling: str = "standard") -> None:
        self.grid, self.folds = tuple(grid), folds
        self._scaler = Scaler(scaling)
        self._chosen: dict[str, Any] = {}

    @abstractmethod
    def path(self, x: Floats, y: Labels, grid: Sequence[float], classes: int) -> Iterator[Fitted]:
        """One fit per value of C, in order."""

    def fit(self, x: Floats, y: Labels, groups: NDArray[np.int64]) -> None:
        classes = int(y.max()) + 1
        c, tried = choose(
            x,
            y,
            groups,
            grid=self.grid,
            scaling=self._scaler.kind,
            path=lambda a, b, values: self.path(a, b, values, classes),
            folds=self.folds,
        )
        self._score = next(self.path(self._scaler.fit(x)(x), y, [c], classes))
        self._chosen = {"C": c, "inner_accuracy": tried}

    def scores(self, x: Floats) -> NDArray[np.float64]:
        return self._score(self._scaler(x))

    def facts(self) -> dict[str, Any]:
        return self._chosen
