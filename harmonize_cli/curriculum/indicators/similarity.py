"""How alike a sample's two modalities are, and by how much more than the best wrong partner."""

import torch
from torch import Tensor

from harmonize_cli.curriculum.indicators.base import register
from harmonize_cli.curriculum.view import BatchView

_ABOUT = {
    "va": "video and sound",
    "vt": "video and caption",
    "at": "sound, carried into the video-text space, and caption (triangle consistency)",
}

for _pair, _words in _ABOUT.items():

    @register(f"similarity_{_pair}", noisy="low", about=f"cosine of {_words}", pairs=(_pair,))
    def _similarity(view: BatchView, pair: str = _pair) -> Tensor:
        own = view.similarity(pair).diagonal()
        return own.masked_fill(~view.valid(pair), float("nan"))

    @register(
        f"margin_{_pair}",
        noisy="low",
        about=f"similarity_{_pair} less that of the best wrong partner in the batch, either way",
        pairs=(_pair,),
    )
    def _margin(view: BatchView, pair: str = _pair) -> Tensor:
        sims = view.similarity(pair)
        own = torch.eye(len(sims), dtype=torch.bool, device=sims.device)
        others = sims.masked_fill(own, -torch.inf)
        best = torch.maximum(others.amax(0), others.amax(1))
        margin = sims.diagonal() - best
        return margin.masked_fill(~view.valid(pair) | best.isinf(), float("nan"))
