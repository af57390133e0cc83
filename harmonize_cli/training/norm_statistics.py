"""BatchNorm's statistics for evaluation, taken anew with frozen weights ("precise BN": Wu & Johnson 2021).

The running averages lag behind the weights. Under per-sample weights that is fatal: the losses don't see a
shift that all rows share, since the batch's own mean takes it out, so plain gradients leave it alone; a
weighted sum of them doesn't, and the mean in front of the first norm wanders off by many deviations.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harmonize_cli.data.batches import Batch
from harmonize_cli.models.base import Model
from harmonize_cli.models.norm import BatchNorm

SAMPLES = 1024
"""Clips of the training split that the statistics come from."""


def spread(samples: np.ndarray, batch: int) -> list[np.ndarray]:
    """`SAMPLES` of `samples`, evenly spread, in equal parts of at most `batch` (and 256)."""
    chosen = samples[np.unique(np.linspace(0, len(samples) - 1, SAMPLES).astype(int))]
    # a stride, not a slice: neighbours in a store come from the same video
    parts = -(-len(chosen) // min(batch, 256))
    return [chosen[part::parts] for part in range(parts)]


@torch.no_grad()
def measure(model: Model, batches: Iterable[Batch], device: torch.device) -> dict[str, Tensor]:
    """Mean and variance of every BatchNorm's rows over `batches`, by buffer name; all else as in evaluation.

    A pure function of weights and batches: it draws no random numbers and leaves the model as it was, for
    training goes on with its own averages (the audio-text loss reads them). All ranks must take part.
    """
    norms = {name: m for name, m in model.named_modules() if isinstance(m, BatchNorm)}
    if not norms:
        return {}
    totals = {name: _Totals(norm.num_features, device) for name, norm in norms.items()}
    before = [(x, x.clone()) for norm in norms.values() for x in norm.buffers()]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    hooks = [norm.register_forward_pre_hook(totals[n].add, with_kwargs=True) for n, norm in norms.items()]
    try:
        for norm in norms.values():
            norm.train()
        for batch in batches:
            moved = batch.to(device)
            model.heads(model.encode(moved.inputs), moved.real)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
        for x, was in before:
            x.copy_(was)
    return {f"{name}.{key}": x for name, total in totals.items() for key, x in total.result().items()}


@contextmanager
def applied(model: Model, statistics: Mapping[str, Tensor]) -> Iterator[None]:
    """The model has these statistics inside, and its own afterwards."""
    buffers = {name: x for name, x in model.named_buffers() if name in statistics}
    own = {name: x.clone() for name, x in buffers.items()}
    try:
        for name, x in buffers.items():
            x.copy_(statistics[name])
        yield
    finally:
        for name, x in buffers.items():
            x.copy_(own[name])


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

    def result(self) -> dict[str, Tensor]:
        """`running_mean` and `running_var`, float32; without a finite figure none: the norm keeps its own."""
        if self.rows < 2:
            return {}
        mean = self.sum / self.rows
        variance = (self.squares / self.rows - mean.square()).clamp_min(0)
        if not bool(torch.isfinite(mean).all() and torch.isfinite(variance).all()):
            return {}
        return {
            "running_mean": mean.float(),
            "running_var": (variance * self.rows / (self.rows - 1)).float(),
        }
