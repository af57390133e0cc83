"""A sample's own contrastive loss among the samples that it is scored with."""

from torch import Tensor

from harmonize_cli.curriculum.indicators.base import register
from harmonize_cli.curriculum.view import BatchView

for _pair in ("va", "vt"):

    @register(f"loss_{_pair}", noisy="high", about=f"the sample's {_pair} loss", pairs=(_pair,))
    def _loss(view: BatchView, pair: str = _pair) -> Tensor:
        term = view.terms[pair]
        return term.per_sample.masked_fill(~term.valid, float("nan"))
