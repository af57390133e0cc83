"""NCE and MIL-NCE with one log-sum-exp over both directions (VATT's AsymmetricNCE, arXiv 2104.11178).

With video embedding v_i, partners t_{i,l} (l = 1 for audio, up to C captions) and s = cosine / tau:

    Num_i = sum_l exp s(v_i, t_il)
    Den_i = sum_j sum_l exp s(v_i, t_jl) + sum_j sum_l exp s(v_j, t_il)
    loss_i = log Den_i - log Num_i

The positives stand in both sums of Den_i, so loss_i >= log 2. NCE is the case of one partner.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from harmonize_cli.objectives.base import LOSSES, Contrast, Loss, LossOutput, contrast, mean_over_ranks, unit
from harmonize_cli.objectives.config import NceConfig
from harmonize_cli.ranks import gather


@LOSSES.register("nce")
class Nce(Loss):
    """See the module."""

    Config = NceConfig

    def forward(
        self, embeddings: Sequence[Tensor], masks: Sequence[Tensor], skip: Tensor | None
    ) -> LossOutput:
        """See `Loss`."""
        assert isinstance(self.config, NceConfig)
        anchor, partner = embeddings
        return mil_nce(
            anchor[:, 0],
            partner,
            self.tau,
            anchor_mask=masks[0][:, 0],
            partner_mask=masks[1],
            skip=skip,
            symmetric=self.config.symmetric,
        )


def mil_nce(
    anchor: Tensor,
    partner: Tensor,
    tau: float | Tensor = 0.07,
    *,
    anchor_mask: Tensor | None = None,
    partner_mask: Tensor | None = None,
    skip: Tensor | None = None,
    symmetric: bool = False,
) -> LossOutput:
    """MIL-NCE of anchors [B, D] and partners [B, C, D], not normalized; masks and skip as in `Loss`.

    symmetric: two log-sum-exps, added, instead of the joint one.
    """
    if anchor_mask is None:
        anchor_mask = torch.ones(len(anchor), dtype=torch.bool, device=anchor.device)
    if partner_mask is None:
        partner_mask = torch.ones(partner.shape[:2], dtype=torch.bool, device=anchor.device)
    pairs = cosines(anchor, partner, tau, anchor_mask, partner_mask, skip)
    rows, columns, num = pairs.rows.flatten(1), pairs.columns.flatten(1), pairs.positives.logsumexp(-1)
    if symmetric:
        loss = rows.logsumexp(-1) + columns.logsumexp(-1) - 2 * num
    else:
        loss = torch.cat([rows, columns], dim=1).logsumexp(-1) - num
    return mean_over_ranks(loss, pairs.valid)


def cosines(
    anchor: Tensor,
    partner: Tensor,
    tau: float | Tensor,
    anchor_mask: Tensor,
    partner_mask: Tensor,
    skip: Tensor | None,
) -> Contrast:
    """Cosines over tau of anchors [B, D] and partners [B, C, D], both ways."""
    v, t = unit(anchor), unit(partner)
    rows = torch.einsum("bd,ncd->bnc", v, gather(t)) / tau  # v_i against every t_jl
    columns = torch.einsum("nd,bcd->bnc", gather(v), t) / tau  # every v_j against t_il
    return contrast(rows, columns, anchor_mask, partner_mask, skip)
