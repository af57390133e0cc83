"""RINCE, an InfoNCE that forgives wrong pairs (arXiv 2201.04309, equation 4).

    loss_i = -pos_i^q / q + (lam (pos_i + neg_i))^q / q

for either direction, and the mean of both; pos_i is the sum of exp(cosine / tau) over the sample's own
candidates. As q goes to 0 it becomes InfoNCE, with q = 1 it is symmetric in the sense of noisy labels.
"""

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, model_validator
from torch import Tensor

from harmonize_cli.objectives.base import LOSSES, Loss, LossOutput, mean_over_ranks
from harmonize_cli.objectives.config import TermConfig
from harmonize_cli.objectives.losses.nce import cosines


class RinceConfig(TermConfig):
    """q and lam within the paper's ranges."""

    q: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Robustness; recommended are 0.1 to 0.5."""
    lam: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Weight of the negatives."""

    @model_validator(mode="after")
    def _finite(self) -> "RinceConfig":
        if self.learn_temperature:
            raise ValueError(
                "learn_temperature: this loss falls without bound as the temperature does; keep it fixed"
            )
        if self.q / self.temperature > 60:
            raise ValueError(
                f"exp(q / temperature) = exp({self.q / self.temperature:.0f}) overflows; lower q"
            )
        return self


@LOSSES.register("rince")
class Rince(Loss):
    """See the module."""

    Config = RinceConfig

    def forward(
        self, embeddings: Sequence[Tensor], masks: Sequence[Tensor], skip: Tensor | None
    ) -> LossOutput:
        """See `Loss`."""
        assert isinstance(self.config, RinceConfig)
        q, lam = self.config.q, self.config.lam
        anchor, partner = embeddings
        pairs = cosines(anchor[:, 0], partner, self.tau, masks[0][:, 0], masks[1], skip)
        positive = (q * pairs.positives.logsumexp(-1)).exp()
        both = [
            (q * (math.log(lam) + logits.flatten(1).logsumexp(-1))).exp()
            for logits in (pairs.rows, pairs.columns)
        ]
        return mean_over_ranks((both[0] + both[1] - 2 * positive) / (2 * q), pairs.valid)
