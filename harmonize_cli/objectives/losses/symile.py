"""Symile: the multilinear inner product of three unit vectors, MIP(x, y, z) = sum_d x_d y_d z_d (arXiv
2411.01053, section 3).

Each modality in turn is the anchor: its vector with its own two partners, against partners of which at least
one is another sample's; the loss is the mean over the three anchors of

    -log exp(MIP_i / tau) / (exp(MIP_i / tau) + sum over wrong partners exp(MIP(x_i, y_j, z_k) / tau))

A sample that lacks a modality has no loss, and what it lacks is in nobody's wrong partners. Several captions
are summed over as in MIL-NCE.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from harmonize_cli.objectives.base import LOSSES, MASKED, Loss, LossOutput, mean_over_ranks, unit
from harmonize_cli.objectives.config import TermConfig
from harmonize_cli.ranks import gather, rank


class SymileConfig(TermConfig):
    """The temperature is learned, as published."""

    learn_temperature: bool = True
    negatives: Literal["shuffled", "all"] = "shuffled"
    """shuffled: N wrong partners a sample, (y_j, z_j+1) in the batch's random order; all: every y_j with
    every z_k, N * N of them in memory for each sample."""


@LOSSES.register("symile")
class Symile(Loss):
    """See the module."""

    Config = SymileConfig
    takes = (3,)

    def forward(
        self, embeddings: Sequence[Tensor], masks: Sequence[Tensor], skip: Tensor | None
    ) -> LossOutput:
        """See `Loss`."""
        x = [unit(each) for each in embeddings]
        everywhere, there = [gather(each) for each in x], [gather(mask) for mask in masks]
        product = torch.einsum("bcd,bpd,bqd->bcpq", *x) / self.tau
        own = masks[0][:, :, None, None] & masks[1][:, None, :, None] & masks[2][:, None, None, :]
        positive = product.masked_fill(~own, MASKED).flatten(1)
        valid = own.flatten(1).any(1)
        total = torch.zeros(len(valid), dtype=positive.dtype, device=positive.device)
        for m in range(3):
            p, q = (k for k in range(3) if k != m)
            wrong = self._wrong(x[m], masks[m], everywhere[p], there[p], everywhere[q], there[q], skip)
            logits = torch.cat([positive, wrong.flatten(1)], dim=1)
            total = total + logits.logsumexp(1) - positive.logsumexp(1)
        return mean_over_ranks(total / 3, valid)

    def _wrong(
        self, x: Tensor, own: Tensor, p: Tensor, has_p: Tensor, q: Tensor, has_q: Tensor, skip: Tensor | None
    ) -> Tensor:
        """Logits of anchors x [B, C, D] (own [B, C]) with wrong partners among p and q [N, C, D]."""
        assert isinstance(self.config, SymileConfig)
        B, N = len(x), len(p)
        skip = torch.zeros(B, N, dtype=torch.bool, device=x.device) if skip is None else skip
        if self.config.negatives == "shuffled":
            q, has_q, skipped = q.roll(-1, 0), has_q.roll(-1, 0), skip | skip.roll(-1, 1)
            logits = torch.einsum("bcd,nkd->bcnk", x, torch.einsum("npd,nqd->npqd", p, q).flatten(1, 2))
            mask = (has_p[:, :, None] & has_q[:, None, :]).flatten(1)
            usable = own[:, :, None, None] & mask & ~skipped[:, None, :, None]
            if N == 1:
                usable = torch.zeros_like(usable)
        else:
            here = torch.arange(N, device=x.device) == torch.arange(B, device=x.device)[:, None] + rank() * B
            logits = torch.einsum("bcd,npd,mqd->bcnmpq", x, p, q)
            skipped = skip[:, :, None] | skip[:, None, :] | (here[:, :, None] & here[:, None, :])
            mask = has_p[:, None, :, None] & has_q[None, :, None, :]
            usable = own[:, :, None, None, None, None] & mask & ~skipped[:, None, :, :, None, None]
        return (logits / self.tau).masked_fill(~usable, MASKED)
