"""Does a sample pull where the batch pulls?

Measured as if a linear layer stood on the pooled vectors: a sample's gradient there is the outer product of
its pooled vector and cotangent, so the inner product with the batch's gradient needs no per-sample gradient.
The sample itself is left out of the batch: late in training few samples make most of its gradient.
"""

from torch import Tensor

from harmonize_cli.curriculum.indicators.base import register
from harmonize_cli.curriculum.view import BatchView

for _pair in ("va", "vt"):

    @register(
        f"agreement_{_pair}",
        noisy="low",
        about=f"cosine of the sample's gradient of {_pair} with that of the rest of the batch",
        pairs=(_pair,),
        needs="agreement",
    )
    def _agreement(view: BatchView, pair: str = _pair) -> Tensor:
        cosine = view.agreement[pair]
        return cosine.masked_fill(~view.valid(pair), float("nan"))
