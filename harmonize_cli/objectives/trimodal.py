"""The losses of a tri-modal batch: va, vt and, on request, at."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from harmonize_cli.objectives.config import LossConfig
from harmonize_cli.objectives.nce import Term, mil_nce, nce

PAIRS = {"va": ("video", "audio"), "vt": ("video", "text"), "at": ("audio", "text")}
"""Loss -> the modalities that it compares."""
SPACES = {"va": ("video_va", "audio_va"), "vt": ("video_vt", "text_vt"), "at": ("audio_vt", "text_vt")}
"""Loss -> their embeddings. For `at` the audio embedding is carried through the video va-to-vt head."""


class Temperature(nn.Module):
    """Fixed or learned temperature, kept as its logarithm; forward() -> tau in [0.01, 1]."""

    def __init__(self, start: float, *, learned: bool) -> None:
        super().__init__()
        self.log_tau = nn.Parameter(torch.tensor(start).log(), requires_grad=learned)

    def forward(self) -> Tensor:
        """See the class; a fixed temperature is not clamped."""
        return self.log_tau.exp().clamp(0.01, 1.0) if self.log_tau.requires_grad else self.log_tau.exp()


class TriModalLoss(nn.Module):
    """The configured losses; its parameters (learned temperatures) belong to the heads' side."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config
        self.tau = nn.ModuleDict(
            {
                name: Temperature(config.temperature, learned=config.learn_temperature)
                for name in PAIRS
                if getattr(config, name)
            }
        )

    def forward(
        self,
        embeddings: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        text_present: Tensor | None,
        groups: Tensor | None = None,
        texts: Tensor | None = None,
    ) -> dict[str, Term]:
        """Losses by name; their values carry their share of the total, so that the total is their sum.

        present: [B] bool per modality; text_present: [B, C]; groups [B] and texts [B, C]: integers, used
        where the config asks for ignored negatives. A loss whose embeddings are absent is left out.
        """
        cfg = self.config
        groups = groups if cfg.ignore_same_group else None
        texts = texts if cfg.ignore_same_text else None
        terms: dict[str, Term] = {}
        weights = {n: getattr(cfg, n) for n in self.tau if all(space in embeddings for space in SPACES[n])}
        for name, weight in weights.items():
            tau = self.tau[name]()
            left, right = (embeddings[space] for space in SPACES[name])
            anchor, partner = PAIRS[name]
            if partner == "audio":
                term = nce(
                    left,
                    right,
                    tau,
                    video_mask=present[anchor],
                    partner_mask=present[partner],
                    groups=groups,
                    symmetric=cfg.symmetric,
                )
            else:
                term = mil_nce(
                    left,
                    right,
                    tau,
                    video_mask=present[anchor],
                    partner_mask=text_present,
                    groups=groups,
                    texts=texts,
                    symmetric=cfg.symmetric,
                )
            share = weight / sum(weights.values())
            terms[name] = Term(term.value * share, term.per_sample, term.valid)
        return terms


def tri_modal_losses(
    embeddings: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    text_present: Tensor | None,
    config: LossConfig | None = None,
) -> dict[str, Term]:
    """`TriModalLoss` for a fixed temperature, in one call."""
    loss = TriModalLoss(config or LossConfig()).to(next(iter(embeddings.values())).device)
    terms: dict[str, Term] = loss(embeddings, present, text_present)
    return terms


def trained_pairs(config: LossConfig, modalities: Collection[str]) -> list[str]:
    """The losses that a run with these inputs has."""
    return [n for n, pair in PAIRS.items() if getattr(config, n) and all(m in modalities for m in pair)]
