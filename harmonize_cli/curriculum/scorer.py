"""One batch through a model, and every wanted indicator of its samples."""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonize_cli.curriculum.indicators import Column, columns_of, compared
from harmonize_cli.curriculum.view import Bank, BatchView
from harmonize_cli.data.batches import Batch, StoreDataset
from harmonize_cli.errors import BadInput, list_errors
from harmonize_cli.harmony import Harmonizer
from harmonize_cli.models.checkpoint import LoadedModel, read_loss_state
from harmonize_cli.objectives.config import SPACES, LossConfig
from harmonize_cli.objectives.objective import Objective

BANK_SAMPLES = 2048
Rows = NDArray[np.int64]


def pick_columns(
    names: Sequence[str] | None, losses: Mapping[str, str], whole: str = "backbone"
) -> list[Column]:
    """Columns by their name or their indicator's, or all that these losses allow, but the costly ones.

    whole: the scope that stands for the whole model, backbone, or shared with separate towers.

    Raises:
        BadInput: unknown names, or names of losses that the run does not have.
    """
    able = columns_of(losses)
    usual = [c for c in able.values() if not c.costly and c.scope in ("", whole, "representation")]
    if names is None:
        return usual
    found, errors = {}, []
    for name in names:
        chosen = [able[name]] if name in able else [c for c in usual if c.kind.name == name]
        found.update({column.name: column for column in chosen})
        if not chosen:
            close = difflib.get_close_matches(name, able, n=1)
            errors.append(f"{name}: unknown here" + (f" (did you mean {close[0]}?)" if close else ""))
    if errors:
        raise BadInput(
            list_errors(f"indicators (a run with {', '.join(losses)} has {', '.join(able)}):", errors)
        )
    return list(found.values())


class Scorer:
    """Scores batches with a run's model in eval mode; changes nothing of it.

    modalities: those that the store has. names: as for `pick_columns`. columns: what it computes.
    """

    def __init__(
        self, loaded: LoadedModel, modalities: Collection[str], names: Sequence[str] | None = None
    ) -> None:
        config = LossConfig.model_validate(loaded.config["loss"])
        self.loaded, self.model = loaded, loaded.model
        self.losses = compared(config, modalities)
        towers = [{p for s in self.model.stages(m) for p in s.parameters()} for m in self.model.modalities]
        whole = "backbone" if set.intersection(*towers) else "shared"
        self.columns = pick_columns(names, self.losses, whole)
        self.bank: Bank | None = None
        # gradients are taken of the plain losses: weights and negatives as in training
        self.loss = Objective(config)
        if learned := read_loss_state(loaded.checkpoint):
            self.loss.load_state_dict(learned)
        self.device = next(loaded.model.parameters()).device
        self.loss.to(self.device)
        self.scopes = sorted({column.scope for column in self.columns} - {""})
        self.needs = {column.kind.needs for column in self.columns}
        self.layered = bool(set(self.scopes) - {"representation"})
        scope = whole if self.layered else "representation"
        self.harmonizer = Harmonizer({"": loaded.model, "loss": self.loss}, scope=scope)

    def fill_bank(self, dataset: StoreDataset, rows: Rows, *, batch: int, seed: int) -> None:
        """Embed a random part of `rows`, the fixed company in which neighbours are looked for."""
        if "bank" not in self.needs:
            return
        size = min(BANK_SAMPLES, len(rows))
        chosen = np.sort(np.random.default_rng([seed, 72]).choice(rows, size=size, replace=False))
        parts: list[dict[str, Tensor]] = []
        spaces = sorted({space for pair in SPACES.values() for space in pair})
        with torch.no_grad():
            for read in dataset.batches(chosen, batch):
                some = read.to(self.device)
                view = BatchView(some, self.model(some.inputs).embeddings, {})
                parts.append({space: view.unit(space) for space in spaces if space in view.embeddings})
        stacked = {space: torch.cat([part[space] for part in parts]) for space in parts[0]}
        self.bank = Bank(torch.from_numpy(chosen).to(self.device), stacked)

    def rows(
        self, make: Callable[[Sequence[int]], Batch], order: Rows, batch: int, span: range
    ) -> tuple[Rows, dict[str, NDArray[np.float32]]]:
        """The samples `order[span]`, and their columns.

        make: rows of the store -> Batch. The last batch is filled up with what follows in `order`: a full
        batch gives every sample the same number of negatives.
        """
        pieces: dict[str, list[NDArray[np.float32]]] = {column.name: [] for column in self.columns}
        for first in range(span.start, span.stop, batch):
            chosen = np.take(order, np.arange(first, first + batch), mode="wrap")
            for name, values in self(make([int(i) for i in chosen]).to(self.device)).items():
                pieces[name].append(values[: span.stop - first])
        return order[span.start : span.stop], {name: np.concatenate(x) for name, x in pieces.items()}

    def __call__(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Column -> [B]."""
        view = self.look(batch)
        with torch.no_grad():
            return {c.name: c.measure(view).float().cpu().numpy() for c in self.columns}

    def look(self, batch: Batch) -> BatchView:
        """Run the model forward, and backward as far as the columns ask for."""
        agreement = "agreement" in self.needs
        if self.layered:
            with self.harmonizer.record():
                view = self._view(batch, pooled := self.model.encode(batch.inputs))
        elif self.scopes or agreement:
            with torch.no_grad():
                pooled = self.model.encode(batch.inputs)
            view = self._view(batch, pooled := {m: z.requires_grad_() for m, z in pooled.items()})
        else:
            with torch.no_grad():
                return self._view(batch, self.model.encode(batch.inputs))
        losses = {name: view.terms[name].value for name in self.losses}
        if agreement:
            vectors = list(pooled.values())
            cotangents = {
                name: torch.autograd.grad(loss, vectors, retain_graph=True, allow_unused=True)
                for name, loss in losses.items()
            }
            view.agreement = {name: batch_agreement(vectors, delta) for name, delta in cotangents.items()}
        if self.scopes:
            view.grams = self.harmonizer.grams(losses, pooled, self.scopes)
        return view

    def _view(self, batch: Batch, pooled: Mapping[str, Tensor]) -> BatchView:
        embeddings = self.model.heads(pooled)
        terms = self.loss(embeddings, batch.present, batch.text_present, batch.groups, batch.texts)
        detached = {space: vectors.detach() for space, vectors in embeddings.items()}
        return BatchView(batch, detached, terms, self.losses, bank=self.bank)


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
