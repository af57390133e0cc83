"""Inputs with zero mean and unit variance, for runs too short to learn that themselves.

Clips of one kind (one speaker, one camera) share most of every patch; a short run spends its steps on
subtracting that. VATT has no such step, and the published presets leave it out.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

FLOOR = 0.05
"""Share of the overall deviation that is added to each dimension's: constant ones are not blown up."""


class Standardise(nn.Module):
    """(x - mean) / std for each dimension of a patch [..., D]; the identity until `fit`.

    The statistics are buffers: they are saved with the weights, and no gradient touches them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to the same shape."""
        return (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)

    @torch.no_grad()
    def fit(self, patches: Iterable[Tensor]) -> None:
        """Take mean and deviation from training patches, each [..., D]; nothing seen leaves all as it is."""
        count = 0
        total, squares = (
            torch.zeros_like(self.mean, dtype=torch.float64),
            torch.zeros_like(self.std, dtype=torch.float64),
        )
        for part in patches:
            rows = part.flatten(0, -2).double()
            rows = rows[rows.isfinite().all(dim=1)]  # one damaged clip must not spoil all
            count += len(rows)
            total += rows.sum(0)
            squares += rows.square().sum(0)
        if not count:
            return
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        overall = variance.mean().sqrt()
        self.mean.copy_(mean)
        self.std.copy_(variance.sqrt() + FLOOR * overall if overall > 0 else torch.ones_like(variance))
