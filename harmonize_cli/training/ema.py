"""An exponential moving average of the weights."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


class Ema(AveragedModel):
    """Average of a model's parameters; the average of a run's first steps follows the weights faster.

    `module` is the model with averaged parameters; its buffers are the model's.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=self._follow)
        self.decay, self.step = decay, 0
        self.n_averaged.fill_(1)  # it starts at the model's weights, not at those after the first step
        self.module.requires_grad_(False)

    def update(self, model: nn.Module, step: int) -> None:
        """After optimiser step number `step` (from 1)."""
        self.step = step
        self.update_parameters(model)

    def _follow(self, average: Tensors, weights: Tensors, _: Tensor | int) -> None:
        torch._foreach_lerp_(average, weights, 1 - min(self.decay, self.step / (self.step + 10)))
