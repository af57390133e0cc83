"""What every loss shares: its interface, the registry, masks, similarities to all ranks' rows, the mean."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from harmonize_cli.objectives.config import TermConfig
from harmonize_cli.ranks import gather, rank, sum_over_ranks
from harmonize_cli.registry import Registry

MASKED = -1e9
"""In place of a similarity that takes no part. Finite: a row of nothing but masked entries stays finite."""


@dataclass(frozen=True, slots=True)
class LossOutput:
    """One loss of a batch.

    value: scalar; the sum of all ranks' values is the mean over all valid samples of all ranks.
    per_sample: [B] this rank's samples, 0 where not valid. valid: [B] bool, the sample has the modalities.
    """

    value: Tensor
    per_sample: Tensor
    valid: Tensor


class Loss(nn.Module, ABC):
    """A loss of this rank's rows against the rows of all ranks. Subclasses register in `LOSSES`.

    `Config` adds settings of the kind; `takes` says how many modalities it compares.
    """

    Config: ClassVar[type[TermConfig]] = TermConfig
    takes: ClassVar[tuple[int, ...]] = (2,)

    def __init__(self, config: TermConfig) -> None:
        super().__init__()
        self.config = config
        self.log_tau = nn.Parameter(
            torch.tensor(config.temperature).log(), requires_grad=config.learn_temperature
        )

    @property
    def tau(self) -> Tensor:
        """The temperature, within [0.01, 1] where it is learned."""
        tau = self.log_tau.exp()
        return tau.clamp(0.01, 1.0) if self.log_tau.requires_grad else tau

    @abstractmethod
    def forward(
        self, embeddings: Sequence[Tensor], masks: Sequence[Tensor], skip: Tensor | None
    ) -> LossOutput:
        """The loss.

        Args:
            embeddings: of each modality compared, in the order of `on`, [B, C, D], not normalized: text has C
                candidates a sample, the others one.
            masks: [B, C] bool; False entries are neither positives nor negatives.
            skip: [B, N] bool over all ranks' N samples, True for those that are not a sample's negatives;
                never for itself. None: all are.
        """


LOSSES: Registry[type[Loss]] = Registry(
    "loss", group="harmonize.losses", package="harmonize_cli.objectives.losses"
)


def unit(x: Tensor) -> Tensor:
    """L2-normalized, in float32 at least: at tau 0.07 half precision loses the small differences."""
    return normalize(x if x.dtype == torch.float64 else x.float(), dim=-1)


def mean_over_ranks(loss: Tensor, valid: Tensor) -> LossOutput:
    """The output of per-sample losses [B], of which those of `valid` [B] samples count."""
    loss = torch.where(valid, loss, 0.0)
    count = sum_over_ranks(valid.sum()).clamp(min=1)
    return LossOutput(loss.sum() / count, loss.detach(), valid)


@dataclass(frozen=True, slots=True)
class Contrast:
    """Logits [B, N, C] of anchors and candidates, `MASKED` where a pair takes no part.

    rows: this rank's anchors against all ranks' candidates; columns: all anchors against this rank's
    candidates. positives: [B, C], the sample's own. valid: [B], it has an anchor and a candidate.
    """

    rows: Tensor
    columns: Tensor
    positives: Tensor
    valid: Tensor


def contrast(
    rows: Tensor, columns: Tensor, anchor_mask: Tensor, partner_mask: Tensor, skip: Tensor | None
) -> Contrast:
    """Mask logits [B, N, C] by anchor_mask [B], partner_mask [B, C] and skip [B, N]."""
    B = len(rows)
    out = None if skip is None else skip.unsqueeze(-1)
    rows = _masked(rows, gather(partner_mask).unsqueeze(0), out)
    columns = _masked(columns, gather(anchor_mask)[None, :, None] & partner_mask[:, None, :], out)
    here = torch.arange(B, device=rows.device)
    return Contrast(rows, columns, rows[here, here + rank() * B], anchor_mask & partner_mask.any(-1))


def not_negatives(groups: Tensor | None, texts: Tensor | None, text_mask: Tensor | None) -> Tensor | None:
    """[B, N] True for different samples of one group [B], or sharing a caption (texts, text_mask: [B, C])."""
    if groups is None and texts is None:
        return None
    given = groups if groups is not None else texts
    assert given is not None
    B, first = len(given), rank() * len(given)
    same: Tensor | None = None
    if groups is not None:
        same = groups[:, None] == gather(groups)[None]
    if texts is not None:
        assert text_mask is not None
        # masked captions get numbers that no other caption has
        blank = -1 - torch.arange(texts.numel(), device=texts.device).view_as(texts) - first * texts.shape[1]
        named = torch.where(text_mask, texts, blank)
        shared = (named[:, None, :, None] == gather(named)[None, :, None, :]).flatten(2).any(-1)
        same = shared if same is None else same | shared
    assert same is not None
    own = torch.arange(B, device=same.device)
    same[own, own + first] = False
    return same


def _masked(logits: Tensor, mask: Tensor, skip: Tensor | None) -> Tensor:
    return logits.masked_fill(~mask if skip is None else ~mask | skip, MASKED)
