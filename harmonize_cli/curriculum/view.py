"""What indicators look at: one batch, run through a model, and everything that several of them share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harmonize_cli.data.batches import Batch
from harmonize_cli.objectives.base import LossOutput
from harmonize_cli.objectives.config import PAIRS, SPACES


@dataclass(frozen=True, slots=True)
class Bank:
    """Embeddings of a fixed random part of the store: unit length, [R, D] by space; NaN rows are absent."""

    indices: Tensor
    spaces: Mapping[str, Tensor]


@dataclass(slots=True)
class BatchView:
    """B samples, scored together: they are each other's negatives.

    embeddings: by space, [B, D] or text [B, C, D], not normalized; terms: losses that the run trained with;
    losses: their names -> what they compare (va, vt, ...); grams: scope -> [B, K, K] over `losses`;
    agreement: loss -> [B], see `indicators.agreement`.
    """

    batch: Batch
    embeddings: Mapping[str, Tensor]
    terms: Mapping[str, LossOutput]
    losses: Mapping[str, str] = field(default_factory=dict)
    grams: Mapping[str, Tensor] = field(default_factory=dict)
    agreement: Mapping[str, Tensor] = field(default_factory=dict)
    bank: Bank | None = None
    _similar: dict[str, Tensor] = field(default_factory=dict)

    def has(self, modalities: Sequence[str]) -> Tensor:
        """[B] bool: the sample has all of these modalities."""
        ok = torch.ones(len(self.batch), dtype=torch.bool, device=self.batch.groups.device)
        for modality in modalities:
            ok = ok & self._present(modality)
        return ok

    def spaces(self, pair: str) -> tuple[str, ...]:
        """The embeddings of a pair."""
        return SPACES[pair]

    def similarity(self, pair: str) -> Tensor:
        """[B, B] cosine of row's first modality and column's second; the best caption of several."""
        if pair not in self._similar:
            left, right = (normalize(self.embeddings[space].float(), dim=-1) for space in SPACES[pair])
            if right.dim() == 3:
                assert self.batch.text_present is not None
                sims = torch.einsum("bd,ncd->bnc", left, right)
                sims = sims.masked_fill(~self.batch.text_present, -torch.inf).amax(-1)
            else:
                sims = left @ right.T
            rows, columns = (self._present(modality) for modality in PAIRS[pair])
            self._similar[pair] = sims.masked_fill(~(rows[:, None] & columns[None]), -torch.inf)
        return self._similar[pair]

    def unit(self, space: str) -> Tensor:
        """[B, D] unit vectors of a space; the mean of several captions; NaN rows where absent."""
        x = normalize(self.embeddings[space].float(), dim=-1)
        modality = space.partition("_")[0]
        if x.dim() == 3:
            assert self.batch.text_present is not None
            x = normalize((x * self.batch.text_present.unsqueeze(-1)).sum(1), dim=-1)
        return x.masked_fill(~self._present(modality).unsqueeze(-1), torch.nan)

    def _present(self, modality: str) -> Tensor:
        if modality == "text":
            assert self.batch.text_present is not None
            return self.batch.text_present.any(-1)
        return self.batch.present[modality]
