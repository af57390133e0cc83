"""Gradient norms of a sample, by loss."""

from torch import Tensor

from harmonize_cli.curriculum.indicators.base import register
from harmonize_cli.curriculum.view import BatchView

for _scope in ("backbone", "representation"):
    for _pair in ("va", "vt"):

        @register(
            f"norm_{_pair}_{_scope}",
            noisy="high",
            about=f"norm of the gradient of {_pair} at scope {_scope}",
            pairs=(_pair,),
            needs=f"gram:{_scope}",
        )
        def _norm(view: BatchView, scope: str = _scope, pair: str = _pair) -> Tensor:
            k = view.losses.index(pair)
            norm = view.grams[scope][:, k, k].clamp_min(0).sqrt()
            return norm.masked_fill(~view.valid(pair), float("nan"))
