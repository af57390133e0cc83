"""Do a sample's neighbours in one modality stay neighbours in the other?

Among a fixed part of the store, the k samples whose video is nearest: their captions (sounds) are right more
often than not, so a right caption is like theirs even where the model learned this one pair by heart.
"""

import torch
from torch import Tensor

from harmonize_cli.curriculum.indicators.base import register
from harmonize_cli.curriculum.view import BatchView
from harmonize_cli.objectives.config import SPACES

NEIGHBOURS = 10

for _pair in ("va", "vt", "at"):

    @register(
        f"neighbours_{_pair}",
        noisy="low",
        about=f"mean likeness in the second modality of {_pair} to the {NEIGHBOURS} nearest in the first",
        pairs=(_pair,),
        needs="bank",
    )
    def _neighbours(view: BatchView, pair: str = _pair) -> Tensor:
        assert view.bank is not None
        first, second = SPACES[pair]
        near = _among(view, first)
        alike = _among(view, second)
        near = near.masked_fill(alike.isnan(), -torch.inf).nan_to_num(nan=-torch.inf)
        k = min(NEIGHBOURS, near.shape[1])
        top = near.topk(k, dim=1)
        chosen = alike.gather(1, top.indices)
        counted = ~top.values.isinf()
        mean = torch.where(counted, chosen, 0.0).sum(1) / counted.sum(1)
        return mean.masked_fill(~view.valid(pair), float("nan"))


def _among(view: BatchView, space: str) -> Tensor:
    """[B, R] cosine with the bank; NaN where either is absent or they are the same sample."""
    assert view.bank is not None
    sims = view.unit(space) @ view.bank.spaces[space].T
    own = torch.from_numpy(view.batch.indices).to(sims.device)[:, None] == view.bank.indices[None]
    return sims.masked_fill(own, float("nan"))
