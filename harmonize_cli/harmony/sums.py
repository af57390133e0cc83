"""Sums that Gram matrices are gathered in, and buffers that their temporaries live in."""

from collections.abc import Sequence

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, everything else is added up in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Buffers:
    """Temporaries by purpose, kept between layers: on a CPU fresh memory costs as much as a pass over it."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype], Tensor] = {}

    def like(self, purpose: str, t: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """An uninitialised tensor of t's type and device, valid until the purpose is asked for again."""
        shape = t.shape if shape is None else torch.Size(shape)
        key, size = (purpose, t.dtype), shape.numel()
        if key not in self._kept or self._kept[key].numel() < size:
            self._kept[key] = torch.empty(size, dtype=t.dtype, device=t.device)
        return self._kept[key][:size].view(shape)

    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        """Inner products of [U, ...] and [U, ...] -> [U], added up in float32 at least."""
        axes = tuple(range(1, x.dim()))
        if x.dtype in (torch.bfloat16, torch.float16):
            x, y = x.float(), y.float()
        # multiply and add up: three times as fast as a batched matrix product of such thin factors
        return torch.mul(x, y, out=self.like("dot", x)).sum(axes)


class GramSum:
    """Sums [U] per pair of losses, kept in rows so that adding touches contiguous memory."""

    def __init__(self, units: int, losses: int, like: Tensor) -> None:
        self.units, self.losses = units, losses
        self._rows = torch.zeros(losses, losses, units, dtype=wide(like.dtype), device=like.device)
        self._row = [list(of) for of in self._rows]

    def add(self, i: int, k: int, value: Tensor, part: slice = slice(None), times: int = 1) -> None:
        """Add value [U], so many times, to the entries (i, k) and (k, i) of the units in `part`."""
        self._row[max(i, k)][min(i, k)][part].add_(value, alpha=times)

    def add_all(self, grads: Sequence[Sequence[Tensor]], buffers: Buffers, part: slice = slice(None)) -> None:
        """Add the inner products of gradients: per loss a list of [U, ...], empty for zero."""
        for i, g_i in enumerate(grads):
            for k, g_k in enumerate(grads[: i + 1]):
                for one, two in zip(g_i, g_k, strict=False):
                    self.add(i, k, buffers.dot(one, two), part)

    def table(self) -> Tensor:
        """[U, K, K]."""
        lower = self._rows.permute(2, 0, 1)
        return lower.tril() + lower.tril(-1).transpose(1, 2)
