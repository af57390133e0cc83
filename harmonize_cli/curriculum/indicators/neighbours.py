"""Do a sample's neighbours in one modality stay neighbours in the other?

Among a fixed part of the store, the k samples whose video is nearest: their captions (audio) are right more
often than not, so a right caption is like theirs even where the model learned this one pair by heart.
"""

from typing import TYPE_CHECKING

from harmonize_cli.curriculum.indicators import indicator

if TYPE_CHECKING:
    from torch import Tensor

    from harmonize_cli.curriculum.view import BatchView

NEIGHBOURS = 10


@indicator(
    "neighbours",
    noisy="low",
    about=f"mean likeness in the second modality of {{}} to the {NEIGHBOURS} nearest in the first",
    each="pair",
    needs="bank",
)
def neighbours(view: "BatchView", pair: str) -> "Tensor":
    """[B]."""
    import torch

    near, alike = (_among(view, space) for space in view.spaces(pair))
    near = near.masked_fill(alike.isnan(), -torch.inf).nan_to_num(nan=-torch.inf)
    top = near.topk(min(NEIGHBOURS, near.shape[1]), dim=1)
    counted = ~top.values.isinf()
    return torch.where(counted, alike.gather(1, top.indices), 0.0).sum(1) / counted.sum(1)


def _among(view: "BatchView", space: str) -> "Tensor":
    """[B, R] cosine with the bank; NaN where either is absent or they are the same sample."""
    import torch

    assert view.bank is not None
    similarity = view.unit(space) @ view.bank.spaces[space].T
    own = torch.from_numpy(view.batch.indices).to(similarity.device)[:, None] == view.bank.indices[None]
    return similarity.masked_fill(own, float("nan"))
