"""The gate: the curriculum that lets a sample take part only while its losses agree enough.

A sample passes while cos(g_va, g_vt) > gamma; gamma follows a schedule (arXiv 2211.02077). A sample whose
cosine is undefined always passes.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harmonize_cli.errors import BadInput, list_faults

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
        faults = [
            f"gate.{name}: {value} is not within {low:g} and 1"
            for name, value in (("start", self.start), ("end", self.end))
            if not low <= value <= 1
        ]
        if self.schedule not in ("constant", "linear", "cosine", "quantile"):
            faults.append(f"gate.schedule: {self.schedule!r}; choose constant, linear, cosine or quantile")
        if self.steps is not None and self.steps < 1:
            faults.append(f"gate.steps: {self.steps} is not at least 1")
        if self.steps is None and self.schedule != "constant" and self.start != self.end:
            faults.append(
                f"gate.steps: missing; within how many steps does the threshold go from {self.start:g} to "
                f"{self.end:g}? Give the run's length, or schedule='constant' for {self.end:g} throughout"
            )
        if self.warmup < 0:
            faults.append(f"gate.warmup: {self.warmup} is not at least 0")
        if not 0 <= self.min_share <= 1:
            faults.append(f"gate.min_share: {self.min_share} is not within 0 and 1")
        if faults:
            raise BadInput(list_faults("gate: bad settings", faults))

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
