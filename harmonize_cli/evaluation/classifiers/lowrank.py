"""VATT's low-rank classifier: features -> 128 linear -> dropout 0.9 -> softmax with L2 on its kernel.

Constants are those of the authors' code (`vatt`: Adam 5e-4, batch 64, L2 0.1, rank 128, dropout 0.9) and of
the paper (50k steps). Keras' `l2(0.1)` adds 0.1 |w|^2 to the mean loss.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import nn
from torch.nn.functional import cross_entropy

from harmonize_cli.progress import progress


class LowRank(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """No constant is chosen, so nothing is held out. Same seed, same weights (on one kind of device)."""

    def __init__(
        self,
        *,
        rank: int = 128,
        dropout: float = 0.9,
        l2: float = 0.1,
        lr: float = 5e-4,
        batch: int = 64,
        steps: int = 50_000,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.rank, self.dropout, self.l2, self.lr = rank, dropout, l2, lr
        self.batch, self.steps, self.seed, self.device = batch, steps, seed, device

    def fit(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> "LowRank":
        self.classes_ = np.arange(int(y.max()) + 1)
        draw = torch.Generator().manual_seed(self.seed)
        data = torch.from_numpy(x).to(self.device)
        target = torch.from_numpy(y).to(self.device)
        self._down = _glorot(x.shape[1], self.rank, draw).to(self.device)
        self._out = _glorot(self.rank, int(y.max()) + 1, draw).to(self.device)
        optimiser = torch.optim.Adam(
            [*self._down.parameters(), *self._out.parameters()], lr=self.lr, eps=1e-7
        )
        order = torch.empty(0, dtype=torch.int64)
        for _ in progress(range(self.steps), desc="low-rank classifier", unit="step"):
            while len(order) < min(self.batch, len(x)):
                order = torch.cat([order, torch.randperm(len(x), generator=draw)])
            some, order = order[: self.batch], order[self.batch :]
            hidden = self._down(data[some])
            keep = torch.rand(hidden.shape, generator=draw) >= self.dropout
            hidden = hidden * keep.to(self.device) / (1 - self.dropout)
            loss = cross_entropy(self._out(hidden), target[some])
            loss = loss + self.l2 * self._out.weight.square().sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        self.facts_ = {"last batch's loss": float(loss.detach())}
        return self

    @torch.no_grad()
    def predict_proba(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = self._out(self._down(torch.from_numpy(x).to(self.device)))
        return np.asarray(torch.softmax(logits.double(), dim=1).cpu().numpy())


def _glorot(inside: int, outside: int, draw: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inside, outside)
    nn.init.xavier_uniform_(layer.weight, generator=draw)
    nn.init.zeros_(layer.bias)
    return layer
