"""Gradient conflict: the cosine between a sample's gradients of its losses (docs/harmonization.md)."""

from typing import TYPE_CHECKING

from harmonize_cli.curriculum.indicators import indicator

if TYPE_CHECKING:
    from torch import Tensor

    from harmonize_cli.curriculum.view import BatchView


@indicator(
    "cosine",
    noisy="low",
    about="cosine of the gradients of {}",
    each="losses",
    scopes=("all", "backbone", "shared", "representation"),
    costly=("all",),  # the layers of each modality's own take as long as all the rest
    online=True,  # the gradient engine measures it
)
def cosine(view: "BatchView", scope: str) -> "Tensor":
    """[B]; the smallest one of more than two losses."""
    from harmonize_cli.harmony import conflict_cosine

    return conflict_cosine(view.grams[scope])
