"""Learned positions per axis, and the token that gathers the clip."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn


class PositionTable(nn.Module):
    """A learned vector per index of one axis.

    forward(N, length) -> [N, length, D]: the same rows for each of N samples, so that a gradient can be
    read per sample. Another length than the table's is read off a cubic spline through the table;
    with `prefix`, a shorter one takes the first rows (words have an order, but no span to be stretched to).
    """

    def __init__(self, length: int, width: int, *, prefix: bool = False) -> None:
        super().__init__()
        self.prefix = prefix
        self.weight = nn.Parameter(torch.empty(length, width))
        std = width**-0.5
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, samples: int, length: int) -> Tensor:
        """See the class."""
        return self.at(length).unsqueeze(0).expand(samples, -1, -1)

    def at(self, length: int) -> Tensor:
        """The table [length, D], interpolated where lengths differ."""
        own = self.weight.shape[0]
        if length == own:
            return self.weight
        if self.prefix and length < own:
            return self.weight[:length]
        return torch.from_numpy(spline_matrix(own, length)).to(self.weight) @ self.weight

    @torch.no_grad()
    def resize(self, length: int) -> None:
        """Make the interpolated table the table, to train it further (fine-tuning at another size)."""
        self.weight = nn.Parameter(self.at(length).clone(), requires_grad=self.weight.requires_grad)


class AggToken(nn.Module):
    """One learned vector; forward(N) -> [N, 1, D]. Its output is the clip's feature; it has no position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width).normal_(std=width**-0.5))

    def forward(self, samples: int) -> Tensor:
        """See the class."""
        return self.weight.expand(samples, 1, -1)


class Positions(nn.Module):
    """Sum of the axes' tables, with a norm of its own.

    forward(N, grid, keep) -> [N, n, D] for the tokens `keep` ([n] or [N, n], flat indices into the grid),
    all of them where `keep` is None.
    """

    def __init__(self, grid: tuple[int, ...], width: int, *, prefix: bool = False) -> None:
        super().__init__()
        self.tables = nn.ModuleList(PositionTable(length, width, prefix=prefix) for length in grid)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, samples: int, grid: tuple[int, ...], keep: Tensor | None) -> Tensor:
        """See the class."""
        rows = [table(samples, length) for table, length in zip(self.tables, grid, strict=True)]
        if len(rows) == 1 and keep is None:
            return self._norm(rows[0])
        flat = keep if keep is not None else torch.arange(int(np.prod(grid)), device=rows[0].device)
        total: Tensor | None = None
        for row, index in zip(rows, torch.unravel_index(flat, grid), strict=True):
            picked = pick(row, index)
            total = picked if total is None else total + picked
        assert total is not None
        return self._norm(total)

    def _norm(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x)
        return normed


def pick(tokens: Tensor, keep: Tensor | None) -> Tensor:
    """Tokens [N, n, D] at `keep`: [k] the same for all samples, [N, k] each its own, None all."""
    if keep is None:
        return tokens
    if keep.dim() == 1:
        return tokens.index_select(1, keep)
    return tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


@lru_cache(maxsize=32)
def spline_matrix(old: int, new: int) -> np.ndarray:
    """[new, old] matrix of the cubic spline through points i/old, read at j/new.

    VATT's code has the polyharmonic spline of order 3, which in one dimension is the natural cubic one,
    continued on a straight line beyond the last point. The polyharmonic system is badly conditioned for long
    tables (errors of 1e-6 at 600 positions); the natural spline's is not.
    """
    from scipy.interpolate import CubicSpline

    if old == 1:
        return np.ones((new, 1))
    x, query = np.arange(old) / old, np.arange(new) / new
    spline = CubicSpline(x, np.eye(old), bc_type="natural")
    inside, beyond = np.minimum(query, x[-1]), np.maximum(query - x[-1], 0)
    matrix: np.ndarray = spline(inside) + beyond[:, None] * spline(x[-1], 1)
    return matrix
