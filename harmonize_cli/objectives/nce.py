"""NCE and MIL-NCE with one log-sum-exp over both directions (VATT's AsymmetricNCE).

With video embedding v_i, partners t_{i,l} (l = 1 for sound, up to C captions) and s = cosine / tau:

    Num_i = sum_l exp s(v_i, t_il)
    Den_i = sum_j sum_l exp s(v_i, t_jl) + sum_j sum_l exp s(v_j, t_il)
    loss_i = log Den_i - log Num_i

The positives stand in both sums of Den_i, so loss_i >= log 2. NCE is the case of one partner.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harmonize_cli.ranks import gather, rank, sum_over_ranks


@dataclass(frozen=True, slots=True)
class Term:
    """One loss of a batch.

    value: scalar; the sum of all ranks' values is the mean over all valid samples of all ranks.
    per_sample: [B] this rank's samples, 0 where not valid. valid: [B] bool, the sample has the pair.
    """

    value: Tensor
    per_sample: Tensor
    valid: Tensor


def mil_nce(
    video: Tensor,
    partner: Tensor,
    tau: float | Tensor = 0.07,
    *,
    video_mask: Tensor | None = None,
    partner_mask: Tensor | None = None,
    groups: Tensor | None = None,
    texts: Tensor | None = None,
    symmetric: bool = False,
) -> Term:
    """MIL-NCE of this rank's rows against the rows of all ranks.

    Args:
        video: [B, D], not normalised. partner: [B, C, D].
        tau: temperature.
        video_mask: [B], partner_mask: [B, C]; False entries are neither positives nor negatives, and a
            sample without video or without any partner has no loss of its own.
        groups: [B] integer per source; other samples of the same source are no negatives.
        texts: [B, C] integer per caption; samples that share a caption are no negatives of each other.
        symmetric: two log-sum-exps, added, instead of the joint one.
    """
    B, C, _ = partner.shape
    if video_mask is None:
        video_mask = torch.ones(B, dtype=torch.bool, device=video.device)
    if partner_mask is None:
        partner_mask = torch.ones(B, C, dtype=torch.bool, device=video.device)
    v, t = _unit(video), _unit(partner)
    all_v, all_t = gather(v), gather(t)
    all_v_mask, all_t_mask = gather(video_mask), gather(partner_mask)
    rows = torch.einsum("bd,ncd->bnc", v, all_t) / tau  # v_i against every t_jl
    cols = torch.einsum("nd,bcd->bnc", all_v, t) / tau  # every v_j against t_il
    drop = _ignored(groups, texts, partner_mask)
    rows = _masked(rows, all_t_mask.unsqueeze(0), drop)
    cols = _masked(cols, all_v_mask[None, :, None] & partner_mask[:, None, :], drop)
    own = torch.arange(B, device=video.device) + rank() * B
    num = rows[torch.arange(B, device=video.device), own].logsumexp(-1)
    if symmetric:
        loss = rows.flatten(1).logsumexp(-1) + cols.flatten(1).logsumexp(-1) - 2 * num
    else:
        loss = torch.cat([rows.flatten(1), cols.flatten(1)], dim=1).logsumexp(-1) - num
    valid = video_mask & partner_mask.any(-1)
    loss = torch.where(valid, loss, 0.0)
    count = sum_over_ranks(valid.sum()).clamp(min=1)
    return Term(loss.sum() / count, loss.detach(), valid)


def nce(
    video: Tensor,
    partner: Tensor,
    tau: float | Tensor = 0.07,
    *,
    video_mask: Tensor | None = None,
    partner_mask: Tensor | None = None,
    groups: Tensor | None = None,
    symmetric: bool = False,
) -> Term:
    """`mil_nce` with one partner a sample: partner [B, D], partner_mask [B]."""
    return mil_nce(
        video,
        partner.unsqueeze(1),
        tau,
        video_mask=video_mask,
        partner_mask=None if partner_mask is None else partner_mask.unsqueeze(1),
        groups=groups,
        symmetric=symmetric,
    )


MASKED = -1e9
"""In place of a similarity that takes no part. Finite: a row of nothing but masked entries stays finite."""


def _unit(x: Tensor) -> Tensor:
    """L2-normalised, in float32 at least: at tau 0.07 half precision loses the small differences."""
    return normalize(x if x.dtype == torch.float64 else x.float(), dim=-1)


def _masked(sims: Tensor, mask: Tensor, drop: Tensor | None) -> Tensor:
    return sims.masked_fill(~mask if drop is None else ~mask | drop, MASKED)


def _ignored(groups: Tensor | None, texts: Tensor | None, partner_mask: Tensor) -> Tensor | None:
    """[B, N, 1] True for pairs of different samples that are no negatives of each other."""
    if groups is None and texts is None:
        return None
    B = len(partner_mask)
    first = rank() * B
    same: Tensor | None = None
    if groups is not None:
        same = groups[:, None] == gather(groups)[None]
    if texts is not None:
        # masked captions get numbers that no other caption has
        blank = -1 - torch.arange(texts.numel(), device=texts.device).view_as(texts) - first * texts.shape[1]
        named = torch.where(partner_mask, texts, blank)
        shared = (named[:, None, :, None] == gather(named)[None, :, None, :]).flatten(2).any(-1)
        same = shared if same is None else same | shared
    assert same is not None
    own = torch.arange(B, device=same.device)
    same[own, own + first] = False
    return same.unsqueeze(-1)
