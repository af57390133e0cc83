"""One optimizer step: plain, or harmonized."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from harmonize_cli.data.batches import Batch
from harmonize_cli.harmony import CachedStep, Gate, Harmonizer, HarmonyReport
from harmonize_cli.models.base import Model, make_model
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.objectives.base import LossOutput
from harmonize_cli.objectives.config import SPACES
from harmonize_cli.objectives.objective import Objective
from harmonize_cli.ranks import ranks, sum_gradients
from harmonize_cli.training.config import GateConfig, PretrainConfig
from harmonize_cli.training.hooks import Guide
from harmonize_cli.training.optim import Ema, build_optimizer


@dataclass(frozen=True, slots=True)
class Outcome:
    """Losses of this rank's rows, and what harmonization saw (None for a plain step)."""

    terms: dict[str, LossOutput]
    report: HarmonyReport | None

    @property
    def total(self) -> Tensor:
        """This rank's share of the total loss."""
        return torch.stack([term.value.detach() for term in self.terms.values()]).sum()


class TrainStep:
    """One optimizer step: gradients over all ranks' rows, plain or harmonized, then the update.

    Owns what is trained and what trains it. `guide` may gate by conflict, step by step.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        config: PretrainConfig,
        *,
        steps: int,
        guide: Guide | None = None,
    ) -> None:
        self.model, self.objective, self.guide = model, objective, guide
        self.gated = guide is not None and guide.by_conflict
        self.harmonizer = build_harmonizer(model, objective, config, steps, gated=self.gated)
        if config.compile:
            # the harmonizer goes through the compiled backward twice: it may not reuse its inputs' memory
            torch._functorch.config.donated_buffer = False
        model.prepare(checkpointing=config.checkpoint_activations, compiled=config.compile)
        self.accumulate, self.clip = config.accumulate, config.optim.clip
        self.chunk = config.chunk and max(1, config.chunk // ranks())
        self.engine_every = config.harmonize.log_every if config.harmonize.mode == "none" else 1
        """Steps between those that the engine makes; 0: only those that a plan gates."""
        self.autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
        device = next(model.parameters()).device.type
        self.scaler = GradScaler(device, enabled=config.precision == "fp16")
        self.optimizer = build_optimizer(self.parameters(), config.optim)
        self.ema = Ema(model, config.ema) if config.ema else None

    @classmethod
    def build(
        cls,
        specs: Mapping[str, InputSpec],
        config: PretrainConfig,
        device: torch.device,
        *,
        steps: int,
        guide: Guide | None = None,
        fit_inputs: Callable[[Model], None] = lambda _: None,
    ) -> "TrainStep":
        """Before the first step; the seed decides the weights, the same on every rank."""
        torch.manual_seed(config.seed)
        model = make_model(config.model, specs).to(device)
        model.needs({space for term in config.loss.terms for space in SPACES[term.on]})
        fit_inputs(model)
        made = cls(model, Objective(config.loss).to(device), config, steps=steps, guide=guide)
        if made.harmonizer is not None:
            made.harmonizer.policy.check(config.loss.fed_by(specs))
        return made

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained."""
        yield from self.model.parameters()
        yield from self.objective.parameters()

    def __call__(self, batch: Batch, step: int) -> Outcome:
        """Gradients of `step` (from 0) on this rank's `batch`, in place of those before; with fp16 scaled."""
        self.optimizer.zero_grad(set_to_none=True)
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

    def update(self, rate: float) -> Tensor:
        """Clip and take the optimizer's step, unless the gradient isn't finite; returns its norm."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        norm = take_step(self.optimizer, self.parameters(), rate, clip=self.clip)
        if self.scaler.is_enabled():
            self.scaler.update()
        return norm

    def state(self) -> dict[str, Any]:
        """What goes on with the run besides the weights; nothing but plain values and tensors."""
        state = {
            "loss": self.objective.state_dict(),
            "optimiser": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        if self.harmonizer is not None:
            state["harmonizer"] = self.harmonizer.state_dict()
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put `state()` back."""
        self.objective.load_state_dict(state["loss"])
        self.scaler.load_state_dict(state["scaler"])
        self.optimizer.load_state_dict(state["optimiser"])
        if self.harmonizer is not None:
            self.harmonizer.load_state_dict(state.get("harmonizer", {}))

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
        terms: dict[str, LossOutput] = self.objective(
            embeddings, batch.present, batch.text_present, batch.groups, batch.texts
        )
        return terms


def take_step(
    optimizer: torch.optim.Optimizer, clipped: Iterable[nn.Parameter], rate: float, *, clip: float
) -> Tensor:
    """Clip the gradient of `clipped` to length `clip` (0: don't) and take the optimizer's step, unless that
    gradient isn't finite; returns its norm."""
    parameters = [p for p in clipped if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if torch.isfinite(norm):
        if clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return norm


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


def build_harmonizer(
    model: nn.Module, objective: nn.Module, config: PretrainConfig, steps: int, *, gated: bool = False
) -> Harmonizer | None:
    """The engine for this mode; with mode none one that only looks, or None where nobody wants to look.

    gated: a plan is going to set its gate.

    Chunked batches are made by the engine even then: at scope representation that costs nothing.
    """
    section = config.harmonize
    looks = bool(section.log_every) or gated
    if section.mode == "none" and not looks and not config.chunk:
        return None
    idle = section.mode == "none" and not looks
    return Harmonizer(
        {"": model, "loss": objective},
        rule=section.rule if section.mode in ("realign", "both") else "sum",
        scope="representation" if idle else section.scope,
        gate=build_gate(section.gate, steps) if section.mode in ("curriculum", "both") else None,
        granularity=section.granularity,
        gram=section.gram,
        control=section.control if section.mode != "none" else None,
        seed=config.seed,
    )


def build_gate(gate: GateConfig, steps: int) -> Gate:
    """The gate of a run of `steps` steps."""
    return Gate(**gate.model_dump() | {"steps": gate.steps or max(1, steps - gate.warmup)})
