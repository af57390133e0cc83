"""Weighted nearest neighbours by cosine similarity (Wu et al. 2018, arXiv 1805.01978, tau = 0.07)."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

BLOCK_VALUES = 8_000_000


class Neighbours(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Each of the k nearest training windows votes for its class with exp(similarity / tau).

    Takes rows of unit length. In torch, since a large training set wants the GPU.
    """

    def __init__(self, k: int = 20, *, tau: float = 0.07, device: str = "cpu") -> None:
        self.k, self.tau, self.device = k, tau, device

    def fit(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> "Neighbours":
        self.classes_, number = np.unique(y, return_inverse=True)
        self._x = torch.from_numpy(x).to(self.device)
        self._y = torch.from_numpy(number).to(self.device)
        self.facts_ = {"k": min(self.k, len(x))}
        return self

    def predict_proba(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Shares of the votes, [M, K]."""
        step = max(1, BLOCK_VALUES // len(self._x))
        parts = [self._votes(part.to(self.device)) for part in torch.split(torch.from_numpy(x), step)]
        return np.concatenate([part.cpu().numpy() for part in parts]).astype(np.float64)

    def _votes(self, queries: torch.Tensor) -> torch.Tensor:
        similarity, nearest = (queries @ self._x.T).topk(self.facts_["k"], dim=1)
        votes = torch.zeros(len(queries), len(self.classes_), device=queries.device)
        # minus the largest: weights at most 1, the same order
        weights = ((similarity - similarity[:, :1]) / self.tau).exp()
        votes.scatter_add_(1, self._y[nearest], weights)
        return votes / votes.sum(dim=1, keepdim=True)
