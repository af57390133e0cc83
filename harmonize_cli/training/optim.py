"""Optimizer, learning rate, and the moving average of the weights."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from harmonize_cli.training.config import OptimConfig, PretrainConfig

Tensors = tuple[Tensor, ...] | list[Tensor]


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """Adam or AdamW; the learning rate is set at every step. Weight decay spares vectors and scalars."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind([g for g in groups if g["params"]], lr=1.0, betas=config.betas, eps=config.eps)


def learning_rate(step: int, steps: int, config: PretrainConfig) -> float:
    """Learning rate of `step` (from 0): linear warm-up, then a quarter (or half) period of a cosine.

    With progress p in [0, 1] after the warm-up: final + (peak - final) cos(p pi / 2), or
    final + (peak - final) (1 + cos(p pi)) / 2.
    """
    peak, final = config.peak_lr, config.peak_lr * config.final_share
    warmup = warmup_steps(steps, config.optim)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    p = (step - warmup) / max(1, steps - 1 - warmup)
    if config.optim.schedule == "constant":
        return peak
    if config.optim.schedule == "half-cosine":
        return final + (peak - final) * (1 + math.cos(math.pi * p)) / 2
    return final + (peak - final) * math.cos(math.pi / 2 * p)


def warmup_steps(steps: int, config: OptimConfig) -> int:
    """`warmup`, resolved."""
    return config.warmup if config.warmup is not None else min(10_000, steps // 20)


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
