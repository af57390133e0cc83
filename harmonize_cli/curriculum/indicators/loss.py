"""A sample's own contrastive loss among the samples that it is scored with."""

from typing import TYPE_CHECKING

from harmonize_cli.curriculum.indicators import indicator

if TYPE_CHECKING:
    from torch import Tensor

    from harmonize_cli.curriculum.view import BatchView


@indicator("loss", noisy="high", about="the sample's {} loss", each="loss")
def loss(view: "BatchView", loss: str) -> "Tensor":
    """[B]."""
    return view.terms[loss].per_sample
