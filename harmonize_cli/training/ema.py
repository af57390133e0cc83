"""An exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Average of a model's parameters; the average of a run's first steps follows the weights faster."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step number `step` (from 1)."""
        rate = 1 - min(self.decay, step / (step + 10))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.model.parameters()], rate)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def weights(self) -> dict[str, Tensor]:
        """The model's state dict with averaged parameters."""
        return {**self.model.state_dict(), **self.average}

    def load(self, average: dict[str, Tensor]) -> None:
        """Continue from a saved average."""
        for name, value in self.average.items():
            value.copy_(average[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, p in self.model.named_parameters():
            kept = p.detach().clone()
            p.copy_(self.average[name])
            self.average[name].copy_(kept)
