"""Optimiser and learning rate."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from harmonize_cli.training.config import OptimConfig, PretrainConfig


def build_optimiser(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
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
