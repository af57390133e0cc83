"""How alike a sample's two modalities are, and by how much more than the best wrong partner.

Of `at` the audio is carried through the video's step into the video-text space (triangle consistency).
"""

from typing import TYPE_CHECKING

from harmonize_cli.curriculum.indicators import indicator

if TYPE_CHECKING:
    from torch import Tensor

    from harmonize_cli.curriculum.view import BatchView


@indicator("similarity", noisy="low", about="cosine of the two embeddings of {}", each="pair")
def similarity(view: "BatchView", pair: str) -> "Tensor":
    """[B]."""
    return view.similarity(pair).diagonal()


@indicator(
    "margin",
    noisy="low",
    about="similarity of {} less that of the best wrong partner in the batch, either way",
    each="pair",
)
def margin(view: "BatchView", pair: str) -> "Tensor":
    """[B]."""
    import torch

    similarity = view.similarity(pair)
    own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    others = similarity.masked_fill(own, -torch.inf)
    best = torch.maximum(others.amax(0), others.amax(1))
    return (similarity.diagonal() - best).masked_fill(best.isinf(), torch.nan)
