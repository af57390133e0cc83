"""Does a sample pull where the batch pulls?

Measured as if a linear layer stood on the pooled vectors: a sample's gradient there is the outer product of
its pooled vector and cotangent, so the inner product with the batch's gradient needs no per-sample gradient.
The sample itself is left out of the batch: late in training few samples make most of its gradient.
"""

from typing import TYPE_CHECKING

from harmonize_cli.curriculum.indicators import indicator

if TYPE_CHECKING:
    from torch import Tensor

    from harmonize_cli.curriculum.view import BatchView


@indicator(
    "agreement",
    noisy="low",
    about="cosine of the sample's gradient of {} with that of the rest of the batch",
    each="loss",
    needs="agreement",
)
def agreement(view: "BatchView", loss: str) -> "Tensor":
    """[B]."""
    return view.agreement[loss]
