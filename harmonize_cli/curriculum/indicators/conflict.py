"""Gradient conflict: the cosine between a sample's gradients of two losses (docs/harmonization.md)."""

import torch
from torch import Tensor

from harmonize_cli.curriculum.indicators.base import register
from harmonize_cli.curriculum.view import BatchView
from harmonize_cli.harmony import conflict_cosine

for _scope in ("all", "backbone", "representation"):

    @register(
        f"cosine_{_scope}",
        noisy="low",
        about=f"cosine of the gradients of va and vt at scope {_scope}",
        pairs=("va", "vt"),
        needs=f"gram:{_scope}",
        costly=_scope == "all",  # the layers of each modality's own take as long as all the rest
    )
    def _cosine(view: BatchView, scope: str = _scope) -> Tensor:
        pick = torch.tensor([view.losses.index(name) for name in ("va", "vt")])
        cosine = conflict_cosine(view.grams[scope][:, pick][:, :, pick])
        # a sample without the pair still has a gradient as a negative of others: no conflict of its own
        return cosine.masked_fill(~(view.valid("va") & view.valid("vt")), float("nan"))
