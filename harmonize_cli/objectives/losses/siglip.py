"""SigLIP: every pair is judged by itself, right or wrong (arXiv 2303.15343, section 3.2).

With z = cosine / tau + bias, the paper's sum over pairs of softplus(-z) for right and softplus(z) for wrong
ones, over B. A pair counts half for either of its samples; several captions of a sample share its weight.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from harmonize_cli.objectives.base import LOSSES, MASKED, Loss, LossOutput, mean_over_ranks
from harmonize_cli.objectives.config import TermConfig
from harmonize_cli.objectives.losses.nce import cosines
from harmonize_cli.ranks import gather


class SigLipConfig(TermConfig):
    """Temperature and bias start as published."""

    temperature: float = 0.1
    learn_temperature: bool = True
    bias: float = -10.0
    """Added to every logit; where it is learned, where it starts."""
    learn_bias: bool = True


@LOSSES.register("siglip")
class SigLip(Loss):
    """See the module."""

    Config = SigLipConfig

    def __init__(self, config: SigLipConfig) -> None:
        super().__init__(config)
        self.bias = nn.Parameter(torch.tensor(config.bias), requires_grad=config.learn_bias)

    def forward(
        self, embeddings: Sequence[Tensor], masks: Sequence[Tensor], skip: Tensor | None
    ) -> LossOutput:
        """See `Loss`."""
        anchor, partner = embeddings
        pairs = cosines(anchor[:, 0], partner, self.tau, masks[0][:, 0], masks[1], skip)
        share = masks[1] / masks[1].sum(-1, keepdim=True).clamp(min=1)  # [B, C] of a sample's captions

        def wrong(logits: Tensor, share: Tensor) -> Tensor:
            found = torch.where(logits > MASKED / 2, softplus(logits + self.bias), 0.0)
            return (found * share).sum((1, 2))

        # the sums over all pairs count the right ones as wrong: softplus(-z) = softplus(z) - z
        loss = (wrong(pairs.rows, gather(share)) + wrong(pairs.columns, share.unsqueeze(1))) / 2
        own = torch.where(masks[1], pairs.positives + self.bias, 0.0)
        return mean_over_ranks(loss - (own * share).sum(-1), pairs.valid)
