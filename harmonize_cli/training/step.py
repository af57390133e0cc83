"""One step's gradients: plain, or harmonized."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harmonize_cli.harmony import Harmonizer, HarmonyReport
from harmonize_cli.models.vatt import Vatt
from harmonize_cli.objectives.nce import Term
from harmonize_cli.objectives.trimodal import TriModalLoss
from harmonize_cli.store.batches import Batch
from harmonize_cli.training.parallel import sum_gradients


@dataclass(frozen=True, slots=True)
class Outcome:
    """Losses of this rank's rows, and what harmonization saw (None for a plain step)."""

    terms: dict[str, Term]
    report: HarmonyReport | None

    @property
    def total(self) -> Tensor:
        """This rank's share of the total loss."""
        return torch.stack([term.value.detach() for term in self.terms.values()]).sum()


class Gradients:
    """Fills `.grad` of model and loss with the gradient over all ranks' rows."""

    def __init__(
        self,
        model: Vatt,
        loss: TriModalLoss,
        harmonizer: Harmonizer | None,
        *,
        precision: str = "fp32",
        observe_every: int = 0,
    ) -> None:
        self.model, self.loss, self.harmonizer = model, loss, harmonizer
        self.observe_every = observe_every
        self.autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained."""
        yield from self.model.parameters()
        yield from self.loss.parameters()

    def __call__(self, batch: Batch, step: int) -> Outcome:
        """Gradients of `step` (from 0) on this rank's `batch`."""
        harmonize = self.harmonizer is not None and (not self.observe_every or step % self.observe_every == 0)
        return self._harmonized(batch, step) if harmonize else self._plain(batch)

    def _plain(self, batch: Batch) -> Outcome:
        _, terms = self._forward(batch)
        torch.autograd.backward([term.value for term in terms.values()])
        sum_gradients(self.parameters())
        return Outcome(terms, None)

    def _harmonized(self, batch: Batch, step: int) -> Outcome:
        assert self.harmonizer is not None
        with self.harmonizer.record():
            pooled, terms = self._forward(batch)
        losses = {name: term.value for name, term in terms.items()}
        valid = {name: term.valid for name, term in terms.items()}
        return Outcome(terms, self.harmonizer.backward(losses, pooled, step=step, valid=valid))

    def _forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Term]]:
        with torch.autocast(batch.groups.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            pooled = self.model.encode(batch.inputs)
            return pooled, self._terms(pooled, batch)

    def _terms(self, pooled: Mapping[str, Tensor], batch: Batch) -> dict[str, Term]:
        embeddings = self.model.heads(pooled)
        terms: dict[str, Term] = self.loss(
            embeddings, batch.present, batch.text_present, batch.groups, batch.texts
        )
        return terms
