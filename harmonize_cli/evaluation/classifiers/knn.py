"""Weighted nearest neighbours by cosine similarity (Wu et al. 2018, arXiv 1805.01978, tau = 0.07)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harmonize_cli.evaluation.classifiers.base import Floats, Labels, Scaler

BLOCK_VALUES = 8_000_000


class Neighbours:
    """Each of the k nearest training windows votes for its class with exp(similarity / tau)."""

    def __init__(self, k: int = 20, *, tau: float = 0.07, device: str = "cpu") -> None:
        self.k, self.tau, self.device = k, tau, device
        self._scaler = Scaler("l2")

    def fit(self, x: Floats, y: Labels, groups: NDArray[np.int64]) -> None:
        self._x = torch.from_numpy(self._scaler(x)).to(self.device)
        self._y = torch.from_numpy(y).to(self.device)
        self._classes = int(y.max()) + 1

    def scores(self, x: Floats) -> NDArray[np.float64]:
        step = max(1, BLOCK_VALUES // len(self._x))
        queries = torch.from_numpy(self._scaler(x))
        parts = [self._votes(part.to(self.device)) for part in torch.split(queries, step)]
        return np.concatenate([part.cpu().numpy() for part in parts]).astype(np.float64)

    def facts(self) -> dict[str, Any]:
        return {"k": min(self.k, len(self._x))}

    def _votes(self, queries: torch.Tensor) -> torch.Tensor:
        similarity, nearest = (queries @ self._x.T).topk(min(self.k, len(self._x)), dim=1)
        votes = torch.zeros(len(queries), self._classes, device=queries.device)
        # minus the largest: weights at most 1, the same order
        weights = ((similarity - similarity[:, :1]) / self.tau).exp()
        votes.scatter_add_(1, self._y[nearest], weights)
        return votes / votes.sum(dim=1, keepdim=True)
