"""One batch through a model, and every wanted indicator of its samples."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonize_cli.curriculum.indicators import REGISTRY, Indicator
from harmonize_cli.curriculum.view import Bank, BatchView
from harmonize_cli.data.batches import Batch, StoreDataset
from harmonize_cli.errors import BadInput, list_faults
from harmonize_cli.harmony import Harmonizer
from harmonize_cli.models.checkpoint import LoadedModel, read_loss_state
from harmonize_cli.objectives.base import LossOutput
from harmonize_cli.objectives.config import SPACES, LossConfig
from harmonize_cli.objectives.objective import Objective

BANK_SAMPLES = 2048


def losses_of(loaded: LoadedModel, modalities: Collection[str]) -> list[str]:
    """The losses that a run trained with and that these modalities of a store allow."""
    return LossConfig.model_validate(loaded.config["loss"]).fed_by(modalities)


def pick_indicators(names: Sequence[str] | None, losses: Sequence[str]) -> list[Indicator]:
    """Indicators by name, or all that these losses allow, but the costly ones.

    Raises:
        BadInput: an unknown name, or one whose pair of modalities the run does not have.
    """
    pairs = {*losses, "at"} if {"va", "vt"} <= set(losses) else set(losses)
    able = {n: i for n, i in REGISTRY.items() if set(i.pairs) <= pairs}
    if names is None:
        return [indicator for indicator in able.values() if not indicator.costly]
    faults = [
        f"{n}: " + (f"needs the pairs {', '.join(REGISTRY[n].pairs)}" if n in REGISTRY else "unknown")
        for n in names
        if n not in able
    ]
    if faults:
        raise BadInput(list_faults(f"indicators (known here: {', '.join(able)}):", faults))
    return [able[n] for n in dict.fromkeys(names)]


class Scorer:
    """Scores batches with a model in eval mode; changes nothing of it."""

    def __init__(
        self,
        loaded: LoadedModel,
        indicators: Sequence[Indicator],
        losses: Sequence[str],
        *,
        bank: Bank | None = None,
    ) -> None:
        self.model, self.indicators, self.bank = loaded.model, list(indicators), bank
        self.losses = list(losses)
        # gradients are taken of the plain losses: weights and negatives as in training
        self.loss = Objective(LossConfig.model_validate(loaded.config["loss"]))
        if learned := read_loss_state(loaded.checkpoint):
            self.loss.load_state_dict(learned)
        needs = {indicator.needs for indicator in indicators}
        self.scopes = {need.removeprefix("gram:") for need in needs if need.startswith("gram:")}
        self.agreement = "agreement" in needs
        self.layered = bool(self.scopes - {"representation"})
        scope = "backbone" if self.layered else "representation"
        self.harmonizer = Harmonizer({"": loaded.model, "loss": self.loss}, scope=scope)

    def __call__(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Indicator -> [B]."""
        view = self.look(batch)
        with torch.no_grad():
            return {i.name: i.measure(view).float().cpu().numpy() for i in self.indicators}

    def look(self, batch: Batch) -> BatchView:
        """Run the model forward, and backward as far as the indicators ask for."""
        if not (self.scopes or self.agreement):
            with torch.no_grad():
                return self._view(batch, self.model.encode(batch.inputs))
        if not self.layered:
            with torch.no_grad():
                pooled = self.model.encode(batch.inputs)
            view = self._view(batch, pooled := {m: z.requires_grad_() for m, z in pooled.items()})
        else:
            with self.harmonizer.record():
                view = self._view(batch, pooled := self.model.encode(batch.inputs))
        losses = {name: view.terms[name].value for name in self.losses}
        if self.agreement:
            vectors = list(pooled.values())
            found = {}
            for name, loss in losses.items():
                delta = torch.autograd.grad(loss, vectors, retain_graph=True, allow_unused=True)
                found[name] = batch_agreement(vectors, delta)
            view.agreement = found
        if self.scopes:
            view.grams = self.harmonizer.grams(losses, pooled, sorted(self.scopes))
        return view

    def _view(self, batch: Batch, pooled: Mapping[str, Tensor]) -> BatchView:
        embeddings = self.model.heads(pooled)
        terms: dict[str, LossOutput] = self.loss(
            embeddings, batch.present, batch.text_present, batch.groups, batch.texts
        )
        return BatchView(
            batch, {k: v.detach() for k, v in embeddings.items()}, terms, self.losses, bank=self.bank
        )


def make_bank(loaded: LoadedModel, dataset: StoreDataset, indices: np.ndarray, *, batch: int) -> Bank:
    """Embeddings of `indices`, the fixed company in which neighbours are looked for."""
    parts: list[dict[str, Tensor]] = []
    spaces = sorted({space for pair in SPACES.values() for space in pair})
    with torch.no_grad():
        for read in dataset.batches(indices, batch):
            some = read.to(next(loaded.model.parameters()).device)
            view = BatchView(some, loaded.model(some.inputs).embeddings, {})
            parts.append({space: view.unit(space) for space in spaces if space in view.embeddings})
    stacked = {space: torch.cat([part[space] for part in parts]) for space in parts[0]}
    device = next(iter(stacked.values())).device
    return Bank(torch.from_numpy(np.asarray(indices)).to(device), stacked)


def batch_agreement(pooled: Sequence[Tensor], cotangents: Sequence[Tensor | None]) -> Tensor:
    """[B] cosine of g_i = sum_m d_im z_im^T with the sum of the others; each pooled vector is a layer."""
    B = len(pooled[0])
    inner, own, whole = (torch.zeros(B, device=pooled[0].device, dtype=torch.float64) for _ in range(3))
    for vectors, cotangent in zip(pooled, cotangents, strict=True):
        if cotangent is None:
            continue
        z, d = (x.detach().reshape(B, -1, x.shape[-1]).float() for x in (vectors, cotangent))
        total = torch.einsum("bcd,bce->de", d, z)
        inner += torch.einsum("bcd,de,bce->b", d, total, z)
        own += ((d @ d.transpose(1, 2)) * (z @ z.transpose(1, 2))).sum((1, 2))
        whole += total.square().sum()
    others = (whole - 2 * inner + own).clamp_min(0)  # |G - g_i|^2
    return torch.where((own > 0) & (others > 0), (inner - own) / (own * others).sqrt(), torch.nan)
