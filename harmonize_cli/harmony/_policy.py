"""From Gram matrices to weights: gate first, then the rule, or a control of equal cost in their place.

The gate is the curriculum: a sample takes part while cos(g_va, g_vt) > gamma, and gamma follows a schedule
(arXiv 2211.02077). A sample whose cosine is undefined always passes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harmonize_cli.errors import BadInput, list_errors
from harmonize_cli.harmony._rule import Rule
from harmonize_cli.harmony._rules import conflict_cosine, usable

Schedule = Literal["constant", "linear", "cosine", "quantile"]


@dataclass(frozen=True, slots=True)
class Gate:
    """When and how samples are kept out.

    schedule: `constant` is `end`, `linear` and `cosine` go from `start` to `end` within `steps`; `quantile`
        reads both as shares of the samples to reject and goes linearly.
    steps: length of the schedule, such as the steps of the run after the warm-up. Needed wherever the
        threshold moves.
    warmup: steps without gating, before the schedule starts.
    min_share: at least this share of the samples with a defined cosine is kept, the best ones.
    rejected: `both` (all losses), `one` (the loss that agrees least with the others; with two losses that
        is a tie and means the last one), or the name of a loss.
    """

    schedule: Schedule = "linear"
    start: float = -0.3
    end: float = 0.0
    steps: int | None = None
    warmup: int = 0
    min_share: float = 0.0
    rejected: str = "both"

    def __post_init__(self) -> None:
        low = 0.0 if self.schedule == "quantile" else -1.0
        errors = [
            f"gate.{name}: {value} is not within {low:g} and 1"
            for name, value in (("start", self.start), ("end", self.end))
            if not low <= value <= 1
        ]
        if self.schedule not in ("constant", "linear", "cosine", "quantile"):
            errors.append(f"gate.schedule: {self.schedule!r}; choose constant, linear, cosine or quantile")
        if self.steps is not None and self.steps < 1:
            errors.append(f"gate.steps: {self.steps} is not at least 1")
        if self.steps is None and self.schedule != "constant" and self.start != self.end:
            errors.append(
                f"gate.steps: missing; within how many steps does the threshold go from {self.start:g} to "
                f"{self.end:g}? Give the run's length, or schedule='constant' for {self.end:g} throughout"
            )
        if self.warmup < 0:
            errors.append(f"gate.warmup: {self.warmup} is not at least 0")
        if not 0 <= self.min_share <= 1:
            errors.append(f"gate.min_share: {self.min_share} is not within 0 and 1")
        if errors:
            raise BadInput(list_errors("gate: bad settings", errors))

    def level(self, step: int) -> float | None:
        """Threshold on the cosine (or share to reject, for `quantile`) at `step`; None during warm-up."""
        if step < self.warmup:
            return None
        if self.schedule == "constant" or self.steps is None:
            return self.end
        done = min((step - self.warmup) / self.steps, 1.0)
        if self.schedule == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + done * (self.end - self.start)

    def threshold(self, cosine: Tensor, step: int) -> float | None:
        """The cosine to exceed at `step`, None where all pass. cosine: [B], may hold NaN."""
        level = self.level(step)
        if level is None or self.schedule != "quantile":
            return level
        defined = cosine[~cosine.isnan()].sort().values
        rejects = int(level * len(defined))
        return defined[rejects - 1].item() if rejects else None

    def keep(self, cosine: Tensor, step: int) -> Tensor:
        """[B] True for the samples that take part at `step`. cosine: [B], NaN where undefined."""
        defined = ~cosine.isnan()
        threshold = self.threshold(cosine, step)
        if threshold is None:
            return torch.ones_like(defined)
        kept = (cosine > threshold) & defined
        least = math.ceil(self.min_share * int(defined.sum()))
        if int(kept.sum()) < least:
            best = torch.where(defined, cosine, -math.inf).argsort(descending=True, stable=True)[:least]
            kept[best] = True
        return kept | ~defined


Control = Literal["random", "shuffled", "norm"]
CONTROLS = ("random", "shuffled", "norm")


@dataclass(frozen=True, slots=True)
class Decision:
    """Per unit: weights [U, K], kept [U], cosine [U] as measured (NaN where undefined).

    taking_part: [U, K], 0 where the gate took the loss away, 1 elsewhere. rejecting: it did so for a unit of
    any rank. everywhere: cosines of all ranks.
    """

    weights: Tensor
    taking_part: Tensor
    kept: Tensor
    cosine: Tensor
    everywhere: Tensor
    threshold: float | None
    rejecting: bool

    def open_weights(self) -> Tensor:
        """Weights [U, K] where the losses taken away are gone from the cotangents already."""
        return torch.where(self.taking_part == 0, 1.0, self.weights)


@dataclass(frozen=True, slots=True)
class Policy:
    """What decides. control:

    - `random`: as many units as the gate rejects are rejected, drawn at random;
    - `shuffled`: every unit is judged by the Gram matrix of another one, drawn at random;
    - `norm`: both gradients get the same weight, such that the update is as long as the rule's.

    Draws depend on (seed, step) only.
    """

    rule: Rule
    gate: Gate | None = None
    control: Control | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.control is not None and self.control not in CONTROLS:
            raise BadInput(f"control: {self.control!r}; choose one of {', '.join(CONTROLS)}")
        if self.control == "random" and self.gate is None:
            raise BadInput("control: random rejects what a gate would; give a gate")

    @property
    def one_by_one(self) -> bool:
        """Whether a unit's share of the update depends on nothing but its own Gram matrix."""
        return self.gate is None and self.control in (None, "norm")

    def check(self, losses: Sequence[str]) -> None:
        """Refuse losses that the rule or the gate can't do with, before the first step.

        Raises:
            BadInput: such as a rule for two losses with three.
        """
        gram = torch.eye(len(losses))[None]
        self._weights(gram)
        if self.gate is not None:
            _left_to_rejected(gram, self.gate.rejected, losses)

    def decide(self, gram: Tensor, defined: Tensor, step: int, losses: Sequence[str]) -> Decision:
        """gram [U, K, K] and defined [U] of the units of all ranks; `defined` is False for one-loss units."""
        draw = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**63)
        measured = torch.where(defined, conflict_cosine(gram), torch.nan)
        judged, cosine = gram, measured
        if self.control == "shuffled":
            judged, cosine = _shuffled(gram, measured, draw)
        kept, threshold = torch.ones_like(defined), None
        if self.gate is not None:
            kept, threshold = self.gate.keep(cosine, step), self.gate.threshold(cosine, step)
            if self.control == "random":
                kept = _same_share(kept, ~measured.isnan(), draw)
        weights = taking_part = torch.ones_like(gram[..., 0])
        if gram.shape[-1] > 1:  # one loss alone makes a plain step, whatever the rule
            weights = torch.where(cosine.isnan()[:, None], 1.0, self._weights(judged))
        if self.gate is not None and gram.shape[-1] > 1:
            left = _left_to_rejected(judged, self.gate.rejected, losses)
            weights = torch.where(kept[:, None], weights, left)
            taking_part = torch.where(kept[:, None], 1.0, left)
        if self.control == "norm":
            weights = _length_only(weights, gram)
        rejecting = bool((taking_part == 0).any())
        return Decision(weights, taking_part, kept, measured, measured, threshold, rejecting)

    def _weights(self, gram: Tensor) -> Tensor:
        """The rule's [U, K].

        Raises:
            BadInput: the rule gave something else, or no finite weight for a usable Gram matrix.
        """
        weights = self.rule(gram)
        wrong = None
        if not torch.is_tensor(weights) or weights.shape != gram.shape[:2]:
            shape = list(weights.shape) if torch.is_tensor(weights) else type(weights).__name__
            wrong = f"gave {shape} for Gram matrices {list(gram.shape)}"
        elif not weights[usable(gram)].isfinite().all():
            wrong = "gave a weight that is not finite for gradients that are"
        if wrong is not None:
            raise BadInput(f"rule {self.rule.name or self.rule}: {wrong}; expected finite weights [B, K]")
        return weights.detach().to(gram)


def _shuffled(gram: Tensor, cosine: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    (known,) = (~cosine.isnan()).nonzero(as_tuple=True)
    other = known[torch.randperm(len(known), generator=draw)]
    gram, cosine = gram.clone(), cosine.clone()
    gram[known], cosine[known] = gram[other], cosine[other]
    return gram, cosine


def _same_share(kept: Tensor, defined: Tensor, draw: torch.Generator) -> Tensor:
    (known,) = defined.nonzero(as_tuple=True)
    rejected = known[torch.randperm(len(known), generator=draw)[: int((~kept).sum())]]
    kept = torch.ones_like(kept)
    kept[rejected] = False
    return kept


def _left_to_rejected(gram: Tensor, rejected: str, losses: Sequence[str]) -> Tensor:
    """Weights [U, K] of a rejected unit: it loses all losses, or one and keeps the others with weight 1."""
    K = gram.shape[-1]
    left = torch.ones_like(gram[..., 0])
    if rejected == "both":
        return torch.zeros_like(left)
    if rejected == "one":
        norm = gram.diagonal(dim1=1, dim2=2).clamp_min(1e-30).sqrt()
        agreement = (gram / (norm[:, :, None] * norm[:, None, :])).sum(-1)
        # ties, such as between two losses, go to the last loss
        worst = K - 1 - agreement.flip(1).argmin(1)
        left[torch.arange(len(left)), worst] = 0
        return left
    if rejected not in losses:
        raise BadInput(f"gate.rejected: {rejected!r}; choose both, one or a loss: {', '.join(losses)}")
    left[:, list(losses).index(rejected)] = 0
    return left


def _length_only(weights: Tensor, gram: Tensor) -> Tensor:
    wanted = torch.einsum("uk,ukl,ul->u", weights, gram, weights).clamp_min(0)
    plain = gram.sum((1, 2))
    # a sum of (nearly) zero length can't be scaled to another
    usable = plain > 1e-12 * gram.diagonal(dim1=1, dim2=2).sum(1)
    scale = torch.where(usable, (wanted / torch.where(usable, plain, 1.0)).sqrt(), 1.0)
    scale = torch.where((weights == 1).all(1), 1.0, scale)
    return scale[:, None].expand_as(weights).clone()
