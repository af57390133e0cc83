"""Volume of the parallelotope that a sample's unit vectors span, against that of wrong tuples (GRAM,
arXiv 2412.11959, equations 4 and 5).

The last modality of `on` (text, where it is compared) is the anchor: other samples' anchors meet this
sample's tuple of the others, and the other way round; logits are -volume / tau, the loss is the mean of both
directions. Several captions are summed over as in MIL-NCE.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from harmonize_cli.objectives.base import LOSSES, Loss, LossOutput, contrast, mean_over_ranks, unit
from harmonize_cli.ranks import gather

FLAT = 1e-6
"""Squared volumes below are taken for this: the root has no gradient at 0."""


@LOSSES.register("gramian")
class Gramian(Loss):
    """See the module."""

    takes = (2, 3)

    def forward(
        self, embeddings: Sequence[Tensor], masks: Sequence[Tensor], skip: Tensor | None
    ) -> LossOutput:
        """See `Loss`."""
        *others, anchor = [unit(x) for x in embeddings]
        tuples = [x[:, 0] for x in others]  # [B, D] each
        there = masks[0][:, 0]
        for mask in masks[1:-1]:
            there = there & mask[:, 0]
        rows = -volumes(tuples, gather(anchor)) / self.tau
        columns = -volumes([gather(x) for x in tuples], anchor).transpose(0, 1) / self.tau
        found = contrast(rows, columns, there, masks[-1], skip)
        both = found.rows.flatten(1).logsumexp(-1) + found.columns.flatten(1).logsumexp(-1)
        return mean_over_ranks(both / 2 - found.positives.logsumexp(-1), found.valid)


def volumes(tuples: Sequence[Tensor], anchors: Tensor) -> Tensor:
    """[M, N, C] volumes: M tuples of one or two unit vectors, each [M, D], with every anchor of [N, C, D]."""
    to_anchor = [torch.einsum("md,ncd->mnc", x, anchors) for x in tuples]
    squared = 1 - to_anchor[0].square()
    if len(tuples) == 2:
        inside = (tuples[0] * tuples[1]).sum(-1)[:, None, None]
        squared = squared + 2 * to_anchor[0] * to_anchor[1] * inside - to_anchor[1].square() - inside.square()
    return squared.clamp_min(FLAT).sqrt()
