"""Calls of a layer brought to one form: tokens of each unit, and their cotangents under each loss.

A unit is what gets a weight of its own: a sample, or a microbatch. Layers whose weight gradient is a sum of
outer products over tokens (linear, patch convolutions, embeddings) and layers that act on each token alone
(norms) are read this way; see `layers` for the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Segment:
    """One call. x: [U, n, in], or [U, n] integer for an embedding; d: per loss [U, n, out], None for zero."""

    x: Tensor
    d: list[Tensor | None]

    @property
    def tokens(self) -> int:
        """n, tokens per unit."""
        return self.x.shape[1]

    @property
    def units(self) -> int:
        """U."""
        return self.x.shape[0]

    def cotangent(self, loss: int | None = None) -> Tensor:
        """The cotangent of a loss that reaches this call; of the first one by default."""
        d = self.d[self.losses()[0] if loss is None else loss]
        assert d is not None
        return d

    def losses(self) -> list[int]:
        """Indices of the losses that reach this call."""
        return [k for k, d in enumerate(self.d) if d is not None]


def per_unit(t: Tensor, units: int, *, features: bool = True) -> Tensor:
    """[N, ..., D] -> [U, n, D] (or [N, ...] -> [U, n]); row r of N belongs to unit r // (N // U)."""
    return t.reshape(units, -1, t.shape[-1]) if features else t.reshape(units, -1)


def drop_dead_tokens(segments: Sequence[Segment]) -> None:
    """Narrow segments, in place, to the tokens with a cotangent under any loss.

    Only the AGG token of a clip is pooled, so in the last block everything after the attention has exactly
    zero cotangents on all other tokens. A look at one feature of a few units rules most layers out; the
    others are looked at whole, so the result stays exact.
    """
    suspects = _alive(segments, probe=True)
    chosen = [(s, alive) for s, alive in zip(segments, suspects, strict=True) if 4 * sum(alive) <= s.tokens]
    for (segment, _), alive in zip(chosen, _alive([s for s, _ in chosen], probe=False), strict=True):
        kept = [t for t, lives in enumerate(alive) if lives]
        if len(kept) * 2 <= segment.tokens:
            segment.x = _pick(segment.x, kept)
            segment.d = [None if d is None else _pick(d, kept) for d in segment.d]


def _alive(segments: Sequence[Segment], *, probe: bool) -> list[list[bool]]:
    """Per segment and token: is there a cotangent. One transfer from the device for all segments."""
    flags = []
    for segment in segments:
        total = torch.zeros(segment.tokens, dtype=torch.bool, device=segment.x.device)
        for d in segment.d:
            if d is not None:
                total |= (d[:: max(1, len(d) // 4), :, 0].ne(0) if probe else _not_zero(d)).any(0)
        flags.append(total)
    flat = iter(torch.cat(flags).tolist() if flags else [])
    return [[next(flat) for _ in range(segment.tokens)] for segment in segments]


def _pick(t: Tensor, kept: list[int]) -> Tensor:
    if kept and kept[-1] - kept[0] + 1 == len(kept):
        return t[:, kept[0] : kept[-1] + 1]
    return t[:, kept]


def _not_zero(d: Tensor) -> Tensor:
    """[U, n, D] -> [U, n]; two reductions without a temporary of d's size."""
    return d.amax(-1).ne(0) | d.amin(-1).ne(0)
