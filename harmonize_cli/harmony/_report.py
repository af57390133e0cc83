"""What one harmonized step measured and did."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class HarmonyReport:
    """Per sample of this rank, at granularities above `sample` the values of its microbatch or batch.

    gram: [B, K, K]. cosine: [B], the smallest between two losses; NaN where a sample has only one loss or a
    zero gradient. weights: [B, K], 0 where gated. kept: [B] bool. threshold: the gate's, None without one.
    scope: where the Gram was taken; for `auto`, what it came to. seconds: time from the losses to the
    gradients. slow: paths of the parameters whose Gram took a backward pass for every unit and loss.
    """

    losses: tuple[str, ...]
    gram: Tensor
    cosine: Tensor
    weights: Tensor
    kept: Tensor
    threshold: float | None
    scope: str
    seconds: float
    slow: tuple[str, ...] = ()

    def norms(self) -> Tensor:
        """Lengths of the gradients, [B, K]."""
        return self.gram.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()

    def scalars(self) -> dict[str, float]:
        """Numbers for a log, all finite; those of an empty set are left out.

        conflict_share (of the samples with a defined cosine), cosine_mean and quantiles, norm_ratio (median
        of a/c, first loss over second), weight_<loss> means, gated_share, undefined_share, seconds.
        """
        cosine = self.cosine.detach().double().cpu()
        defined = ~cosine.isnan()
        found = {
            "undefined_share": 1 - defined.double().mean().item(),
            "gated_share": 1 - self.kept.double().mean().item(),
            "seconds": self.seconds,
        }
        for name, mean in zip(self.losses, self.weights.double().mean(0).tolist(), strict=True):
            found[f"weight_{name}"] = mean
        if self.threshold is not None:
            found["threshold"] = self.threshold
        if defined.any():
            known = cosine[defined]
            found["conflict_share"] = (known < 0).double().mean().item()
            found["cosine_mean"] = known.mean().item()
            levels = torch.tensor(QUANTILES, dtype=torch.float64)
            for level, value in zip(QUANTILES, known.quantile(levels).tolist(), strict=True):
                found[f"cosine_q{round(level * 100):02d}"] = value
            ratio = (self.gram[:, 0, 0] / self.gram[:, 1, 1]).double().cpu()[defined]
            found["norm_ratio"] = ratio.median().item()
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def arrays(self) -> dict[str, Tensor]:
        """Per-sample columns [B] for a ledger, on the CPU: cosine, kept, norm_<loss>, weight_<loss>."""
        columns = {"cosine": self.cosine, "kept": self.kept}
        columns |= _named("norm", self.losses, self.norms())
        columns |= _named("weight", self.losses, self.weights)
        return {name: column.detach().cpu() for name, column in columns.items()}


def _named(prefix: str, losses: Sequence[str], table: Tensor) -> dict[str, Tensor]:
    return {f"{prefix}_{name}": table[:, k] for k, name in enumerate(losses)}
