"""One step's gradients: plain, or harmonized."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from harmonize_cli.data.batches import Batch
from harmonize_cli.harmony import CachedStep, Harmonizer, HarmonyReport
from harmonize_cli.models.base import Model
from harmonize_cli.objectives.base import LossOutput
from harmonize_cli.objectives.objective import Objective
from harmonize_cli.ranks import sum_gradients
from harmonize_cli.training.guide import Guide


@dataclass(frozen=True, slots=True)
class Outcome:
    """Losses of this rank's rows, and what harmonization saw (None for a plain step)."""

    terms: dict[str, LossOutput]
    report: HarmonyReport | None

    @property
    def total(self) -> Tensor:
        """This rank's share of the total loss."""
        return torch.stack([term.value.detach() for term in self.terms.values()]).sum()


class Gradients:
    """Fills `.grad` of model and loss with the gradient over all ranks' rows."""

    def __init__(
        self,
        model: Model,
        loss: Objective,
        harmonizer: Harmonizer | None,
        *,
        precision: str = "fp32",
        accumulate: int = 1,
        chunk: int | None = None,
        engine_every: int = 1,
    ) -> None:
        self.guide: Guide | None = None
        self.gated = False
        """Whether the guide sets the engine's gate, step by step."""
        self.model, self.loss, self.harmonizer = model, loss, harmonizer
        self.accumulate, self.chunk = accumulate, chunk
        self.engine_every = engine_every
        """Steps between those that the engine makes; 0: only those that a plan gates."""
        self.autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        device = next(model.parameters()).device.type
        self.scaler = GradScaler(device, enabled=precision == "fp16")

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained."""
        yield from self.model.parameters()
        yield from self.loss.parameters()

    def __call__(self, batch: Batch, step: int) -> Outcome:
        """Gradients of `step` (from 0) on this rank's `batch`; with fp16 they are still scaled."""
        harmonize = bool(self.engine_every) and (step + 1) % self.engine_every == 0
        if self.guide is not None:
            batch = self.guide.before(batch, step)
            if self.gated and self.harmonizer is not None:
                gate = self.guide.gate(step)
                self.harmonizer.policy = replace(self.harmonizer.policy, gate=gate)
                harmonize |= gate is not None
        if self.chunk:
            return self._cached(batch, step)
        parts = batch.split(self.accumulate) if self.accumulate > 1 else [batch]
        outcomes = []
        for k, part in enumerate(parts):
            last = k == len(parts) - 1
            make = self._harmonized if harmonize and self.harmonizer is not None else self._plain
            outcomes.append(make(part, step=step, last=last))
        return outcomes[0] if len(outcomes) == 1 else joined(outcomes)

    def _plain(self, batch: Batch, *, step: int, last: bool) -> Outcome:
        _, terms = self.forward(batch, step)
        torch.autograd.backward([self.scaler.scale(term.value) for term in terms.values()])
        if last:
            sum_gradients(self.parameters())
        return Outcome(terms, None)

    def _harmonized(self, batch: Batch, *, step: int, last: bool) -> Outcome:
        assert self.harmonizer is not None
        with self.harmonizer.record():
            pooled, terms = self.forward(batch, step)
        report = self.harmonizer.backward(
            {name: term.value for name, term in terms.items()},
            pooled,
            step=step,
            valid={name: term.valid for name, term in terms.items()},
            scaler=self.scaler,
            reduce=last,
        )
        return Outcome(terms, report)

    def _cached(self, batch: Batch, step: int) -> Outcome:
        """Chunk by chunk, with the negatives of the whole batch."""
        assert self.harmonizer is not None
        assert self.chunk is not None
        terms: dict[str, LossOutput] = {}
        valid: dict[str, Tensor] = {}  # known, as the terms, once the losses were made

        def losses_of(pooled: Mapping[str, Tensor]) -> dict[str, Tensor]:
            terms.update(self._losses(pooled, batch, step))
            valid.update({name: term.valid for name, term in terms.items()})
            return {name: term.value for name, term in terms.items()}

        chunks = batch.split(equal_parts(len(batch), self.chunk))
        make = CachedStep(self.harmonizer, self._encode)
        report = make(chunks, losses_of, step=step, valid=valid)
        return Outcome(
            {name: replace(term, value=term.value.detach()) for name, term in terms.items()}, report
        )

    def forward(self, batch: Batch, step: int) -> tuple[dict[str, Tensor], dict[str, LossOutput]]:
        """Pooled features and losses of a batch, with their graphs; the values are this part's share."""
        pooled = self._encode(batch)
        terms = self._losses(pooled, batch, step)
        share = 1 / self.accumulate
        if share != 1:
            terms = {name: replace(term, value=term.value * share) for name, term in terms.items()}
        return pooled, terms

    def _encode(self, batch: Batch) -> dict[str, Tensor]:
        with self._mixed(batch):
            return self.model.encode(batch.inputs)

    def _losses(self, pooled: Mapping[str, Tensor], batch: Batch, step: int) -> dict[str, LossOutput]:
        with self._mixed(batch):
            embeddings = self.model.heads(pooled, batch.real)
        if self.harmonizer is not None:
            embeddings = self.harmonizer.through_gate(embeddings)
        terms = self._terms(embeddings, batch)
        if self.guide is not None and (kept := self.guide.after(batch, embeddings, terms, step)) is not None:
            terms = self._terms(embeddings, kept)
        return terms

    def _mixed(self, batch: Batch) -> torch.autocast:
        device = batch.groups.device.type
        return torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None)

    def _terms(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, LossOutput]:
        terms: dict[str, LossOutput] = self.loss(
            embeddings, batch.present, batch.text_present, batch.groups, batch.texts
        )
        return terms


def equal_parts(samples: int, most: int) -> int:
    """The smallest number of equal parts of at most `most` samples."""
    return next(parts for parts in range(1, samples + 1) if samples % parts == 0 and samples // parts <= most)


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a batch that was made in parts."""

    def term(name: str) -> LossOutput:
        parts = [outcome.terms[name] for outcome in outcomes]
        return LossOutput(
            torch.stack([part.value.detach() for part in parts]).sum(),
            torch.cat([part.per_sample for part in parts]),
            torch.cat([part.valid for part in parts]),
        )

    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    report = _one_report(reports) if reports else None
    return Outcome({name: term(name) for name in outcomes[0].terms}, report)


def _one_report(reports: Sequence[HarmonyReport]) -> HarmonyReport:
    return replace(
        reports[-1],
        gram=torch.cat([report.gram for report in reports]),
        cosine=torch.cat([report.cosine for report in reports]),
        weights=torch.cat([report.weights for report in reports]),
        kept=torch.cat([report.kept for report in reports]),
        seconds=sum(report.seconds for report in reports),
    )
