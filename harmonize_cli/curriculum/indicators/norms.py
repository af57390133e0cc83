"""Gradient norms of a sample, by loss."""

from typing import TYPE_CHECKING

from harmonize_cli.curriculum.indicators import indicator

if TYPE_CHECKING:
    from torch import Tensor

    from harmonize_cli.curriculum.view import BatchView


@indicator(
    "norm",
    noisy="high",
    about="norm of the gradient of {}",
    each="loss",
    scopes=("backbone", "shared", "representation"),
)
def norm(view: "BatchView", loss: str, scope: str) -> "Tensor":
    """[B]."""
    k = list(view.losses).index(loss)
    return view.grams[scope][:, k, k].clamp_min(0).sqrt()
