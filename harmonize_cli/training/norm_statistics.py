"""BatchNorm's statistics for evaluation, taken anew with frozen weights ("precise BN": Wu & Johnson 2021).

The running averages lag behind the weights. Under per-sample weights that is fatal: the losses don't see a
shift that all rows share, since the batch's own mean takes it out, so plain gradients leave it alone; a
weighted sum of them doesn't, and the mean in front of the first norm wanders off by many deviations.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harmonize_cli.models.norm import BatchNorm
from harmonize_cli.models.vatt import Vatt
from harmonize_cli.store.batches import Batch

SAMPLES = 1024
"""Clips of the training split that the statistics come from."""


def spread(samples: np.ndarray, batch: int) -> list[np.ndarray]:
    """`SAMPLES` of `samples`, evenly spread, in equal parts of at most `batch` (and 256)."""
    chosen = samples[np.unique(np.linspace(0, len(samples) - 1, SAMPLES).astype(int))]
    # a stride, not a slice: neighbours in a store come from the same video
    parts = -(-len(chosen) // min(batch, 256))
    return [chosen[part::parts] for part in range(parts)]


@torch.no_grad()
def refresh(model: Vatt, batches: Iterable[Batch], device: torch.device) -> None:
    """Set mean and variance of every BatchNorm to those of `batches`, all else as in evaluation.

    A pure function of weights and batches: it draws no random numbers. All ranks must take part.
    """
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    if not norms:
        return
    totals = {norm: _Totals(norm.num_features, device) for norm in norms}
    before = [{name: x.clone() for name, x in norm.named_buffers()} for norm in norms]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    hooks = [norm.register_forward_pre_hook(totals[norm].add, with_kwargs=True) for norm in norms]
    try:
        for norm in norms:
            norm.train()
        for batch in batches:
            moved = batch.to(device)
            model.heads(model.encode(moved.inputs), moved.real)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    for norm, buffers in zip(norms, before, strict=True):
        for name, x in norm.named_buffers():
            x.copy_(buffers[name])
        totals[norm].write(norm)


class _Totals:
    """Sums over the rows that reach a norm, in float64."""

    def __init__(self, features: int, device: torch.device) -> None:
        self.rows = 0
        self.sum = torch.zeros(features, dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.sum)

    def add(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs.get("running"):  # sound on its way to the text: it must leave no trace in the video's norm
            return
        x: Tensor = args[0].double()
        if (real := kwargs.get("real")) is not None:
            x = x[real]
        self.rows += len(x)
        self.sum += x.sum(0)
        self.squares += x.square().sum(0)

    def write(self, norm: BatchNorm) -> None:
        """Without a finite figure the norm stays as it was."""
        if self.rows < 2 or norm.running_mean is None or norm.running_var is None:
            return
        mean = self.sum / self.rows
        variance = (self.squares / self.rows - mean.square()).clamp_min(0)
        if bool(torch.isfinite(mean).all()) and bool(torch.isfinite(variance).all()):
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance * self.rows / (self.rows - 1))
