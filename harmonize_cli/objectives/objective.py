"""The configured losses of a batch, weighted."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from harmonize_cli.objectives.base import LOSSES, LossOutput, not_negatives
from harmonize_cli.objectives.config import PAIRS, SPACES, LossConfig


class Objective(nn.Module):
    """The configured losses; their parameters (learned temperatures) belong to the heads' side."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config
        self.terms = nn.ModuleDict(
            {name: LOSSES.find(term.kind)(term) for name, term in config.named.items()}
        )
        self.register_load_state_dict_pre_hook(_old_names)  # type: ignore[no-untyped-call]

    def forward(
        self,
        embeddings: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        text_present: Tensor | None,
        groups: Tensor | None = None,
        texts: Tensor | None = None,
    ) -> dict[str, LossOutput]:
        """Losses by name; their values carry their share of the total, so that the total is their sum.

        embeddings: `MODALITY_SPACE` -> [B, D], of text [B, C, D]. present: [B] bool per modality;
        text_present: [B, C]; groups [B] and texts [B, C]: integers, used where the config asks for ignored
        negatives. A loss whose embeddings are absent is left out.
        """
        named = {
            name: term
            for name, term in self.config.named.items()
            if all(space in embeddings for space in SPACES[term.on])
        }
        total = sum(term.weight for term in named.values())
        outputs: dict[str, LossOutput] = {}
        for name, term in named.items():
            vectors, masks = [], []
            for modality, space in zip(PAIRS[term.on], SPACES[term.on], strict=True):
                x = embeddings[space]
                mask = text_present if modality == "text" else present[modality]
                assert mask is not None
                vectors.append(x if x.dim() == 3 else x.unsqueeze(1))
                masks.append(mask if mask.dim() == 2 else mask.unsqueeze(1))
            skip = not_negatives(
                groups if self.config.ignore_same_group else None,
                texts if self.config.ignore_same_text and "t" in term.on else None,
                text_present,
            )
            found: LossOutput = self.terms[name](vectors, masks, skip)
            outputs[name] = LossOutput(found.value * (term.weight / total), found.per_sample, found.valid)
        return outputs


def _old_names(_module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    """Checkpoints of earlier versions called the terms `tau`."""
    for name in [name for name in state if name.startswith("tau.")]:
        state["terms." + name.removeprefix("tau.")] = state.pop(name)
