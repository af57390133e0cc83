"""A plan at work in a training run: the order of the samples, and what they keep of themselves.

A run's folder keeps what it was guided by, `curriculum/step-00000000.yaml` and the weights beside it, so that
it goes on exactly the same without the scores. A plan given to a resumed run adds an entry for the steps from
there on; an order begun with the old plan is finished by it, so the change comes with the next epoch.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonize_cli.config import load_config
from harmonize_cli.curriculum.indicators import columns_of, compared
from harmonize_cli.curriculum.plan import ACTIONS, Gate, Plan, read_plan, scores_folder, write_plan
from harmonize_cli.curriculum.scores import read_scores
from harmonize_cli.curriculum.view import BatchView
from harmonize_cli.curriculum.weights import PhaseWeights, phase_weights, weighted_order
from harmonize_cli.data.batches import Batch
from harmonize_cli.errors import BadInput, list_errors
from harmonize_cli.files import read_arrays, write_arrays
from harmonize_cli.harmony import Gate as CosineGate
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.objectives.base import LossOutput
from harmonize_cli.ranks import gather, own_rows
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.data import shuffled

FOLDER = "curriculum"
_KEPT = {"text": "caption", "audio": "sound"}
"""Names of the arrays that say which samples keep a modality."""
_ENTRY = re.compile(r"step-\d{1,18}")
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Entry:
    """A plan in force from step `first`; weights per phase, over the rows that are trained on."""

    first: int
    plan: Plan
    weights: list[PhaseWeights]


class Guide:
    """What `training` asks: `order(epoch)`, then for every batch `before`, `gate`, and `after` its first
    losses."""

    def __init__(
        self, entries: Sequence[Entry], rows: Rows, *, batch: int, steps: int, seed: int, size: int
    ) -> None:
        self.entries, self.rows, self.steps, self.seed = list(entries), rows, steps, seed
        self.per_epoch = max(1, len(rows) // batch)
        self.losses: dict[str, str] = {}
        self._place = np.full(size, -1, np.int64)
        self._place[rows] = np.arange(len(rows))

    def order(self, epoch: int) -> Rows:
        """The draws of an epoch, as `training.data.EpochOrder`; those of a run without a plan where all
        samples weigh the same."""
        entry, phase = self._now(epoch * self.per_epoch)
        draw = entry.weights[phase].draw
        if (draw == draw[0]).all():
            return shuffled(self.rows, self.seed)(epoch)
        return weighted_order(self.rows, draw, self.seed, epoch)

    def before(self, batch: Batch, step: int) -> Batch:
        """The batch without the modalities that the plan takes from its samples."""
        entry, phase = self._now(step // self.per_epoch * self.per_epoch)
        place, device = self._place[batch.indices], batch.groups.device
        lost = entry.weights[phase].lost.items()
        return without(batch, {name: torch.from_numpy(gone[place]).to(device) for name, gone in lost})

    def gate(self, step: int) -> CosineGate | None:
        """The conflict gate of this step, for the gradient engine."""
        gate, level = self._gate(step)
        if gate is None or not gate.scope:
            return None
        return CosineGate("quantile" if gate.unit == "share" else "constant", start=level, end=level)

    def after(
        self, batch: Batch, embeddings: Mapping[str, Tensor], terms: Mapping[str, LossOutput], step: int
    ) -> Batch | None:
        """The batch without what an online gate takes away at this step; None where there is no gate."""
        gate, level = self._gate(step)
        if gate is None or gate.scope:
            return None
        detached = {name: e.detach() for name, e in embeddings.items()}
        out = rejected(gate, level, BatchView(batch, detached, terms, self.losses))
        return without(batch, dict.fromkeys(ACTIONS[gate.takes].modalities, out))

    @property
    def by_conflict(self) -> bool:
        """Whether any phase has a gate for the gradient engine."""
        return any(gate.scope for gate in self._gates())

    def check(self, config: PretrainConfig, specs: Mapping[str, InputSpec]) -> None:
        """Whether a run with these inputs can follow.

        Raises:
            BadInput: a gate that it can't have.
        """
        engine, errors = config.harmonize, []
        self.losses = compared(config.loss, specs)
        able = columns_of(self.losses)
        for by in dict.fromkeys(gate.by for gate in self._gates()):
            if by not in able:
                online = ", ".join(name for name, column in able.items() if column.kind.online)
                errors.append(f"gate by {by}: this run has no such indicator; gate by {online}; or set loss")
        for scope in dict.fromkeys(gate.scope for gate in self._gates() if gate.scope):
            if engine.mode in ("curriculum", "both"):
                other = "none" if engine.mode == "curriculum" else "realign"
                errors.append(
                    f"harmonize.mode: {engine.mode} has a gate of its own; with this plan set {other}"
                )
            if engine.scope != scope and not (engine.scope == "auto" and scope in ("backbone", "shared")):
                errors.append(f"harmonize.scope: is {engine.scope}, the gate looks at {scope}; set the same")
            if engine.granularity == "batch":
                errors.append("harmonize.granularity: within `batch` there is nothing to choose; set sample")
        if errors:
            raise BadInput(list_errors("curriculum: the plan's gate does not fit the run:", errors))

    def keep(self, folder: Path, store: Store) -> None:
        """Write what guides a run into its folder; what is there of later steps is of an abandoned end."""
        names = {f"step-{entry.first:08d}" for entry in self.entries}
        for file in (folder / FOLDER).glob("step-*"):
            if file.stem not in names:
                file.unlink()
        for entry in self.entries:
            _write_entry(entry, folder / FOLDER, [store.ids[i] for i in self.rows])

    def _gates(self) -> list[Gate]:
        return [phase.gate for entry in self.entries for phase in entry.plan.phases if phase.gate]

    def _gate(self, step: int) -> tuple[Gate | None, float]:
        """The gate in force, and its level."""
        entry, number = self._now(step)
        phase = entry.plan.phases[number]
        if phase.gate is None:
            return None, 0.0
        begin = entry.plan.begin(phase)
        return phase.gate, phase.gate.level((step / self.steps - begin) / (phase.until - begin))

    def _now(self, step: int) -> tuple[Entry, int]:
        entry = next(e for e in reversed(self.entries) if e.first <= step or e is self.entries[0])
        return entry, entry.plan.phases.index(entry.plan.phase(step / self.steps))


def rejected(gate: Gate, level: float, view: BatchView) -> Tensor:
    """[B] bool: this rank's samples beyond `level`, a share of all ranks' samples or a value.

    A sample whose indicator is undefined is never rejected.
    """
    column = columns_of(view.losses)[gate.by]
    high = column.noisy == "high"
    with torch.no_grad():
        value = column.measure(view).float()
    everyone = gather(value if high else -value)
    defined = ~everyone.isnan()
    if gate.unit == "value":
        found = everyone > (level if high else -level)
    else:
        found = torch.zeros_like(defined)
        count = int(level * int(defined.sum()))
        found[everyone.masked_fill(~defined, -torch.inf).topk(count).indices] = True
    return own_rows(found)


def without(batch: Batch, lost: Mapping[str, Tensor]) -> Batch:
    """A batch whose samples lose modalities where `lost` [B] is True: neither positives nor negatives."""
    present, text = dict(batch.present), batch.text_present
    for modality, gone in lost.items():
        if modality in present:
            present[modality] = present[modality] & ~gone
        if modality == "text" and text is not None:
            text = text & ~gone.unsqueeze(-1)
    return replace(batch, present=present, text_present=text)


def make_guide(
    plan_file: Path | None,
    run: Path,
    store: Store,
    rows: Rows,
    *,
    batch: int,
    steps: int,
    seed: int,
    first: int,
) -> Guide | None:
    """The guide of a run: what its folder keeps, and a new plan from step `first` on. None without any.

    Raises:
        BadInput: an invalid plan, missing scores, or a plan that leaves nothing to train on.
    """
    entries = [
        _read_entry(file, store, rows)
        for file in sorted((run / FOLDER).glob("step-*.yaml"))
        if _ENTRY.fullmatch(file.stem)
    ]
    if plan_file is not None:
        entries = [entry for entry in entries if entry.first < first]
        if not entries and first:  # the run began without a plan
            nothing = Plan.model_validate({"phases": [{"until": 1.0}]})
            entries = [Entry(0, nothing, phase_weights(nothing, [""] * len(rows), [], None))]
        entries.append(new_entry(plan_file, store, rows, first))
    if not entries:
        return None
    return Guide(entries, rows, batch=batch, steps=steps, seed=seed, size=len(store))


def new_entry(plan_file: Path, store: Store, rows: Rows, first: int) -> Entry:
    """A plan's weights for the samples that are trained on."""
    plan = read_plan(plan_file)
    folder = scores_folder(plan, plan_file)
    scores = read_scores(folder) if folder is not None else None
    ids = [store.ids[i] for i in rows]
    if scores is not None:
        known = set(scores.ids.tolist())
        missing = sum(sample not in known for sample in ids)
        if missing == len(ids):
            raise BadInput(f"{folder}: holds no score of any sample of {store.path}; score this store")
    by_label = plan.floor is not None and plan.floor.by == "label"
    groups = [(store.labels[i] or ("",))[0] if by_label else store.groups[i] for i in rows]
    base = plan_file if plan_file.is_dir() else plan_file.parent
    weights = phase_weights(plan, ids, groups, scores, folder=base)
    for number, phase in enumerate(weights):
        if not phase.draw.sum() > 0:
            raise BadInput(f"{plan_file}: phase {number + 1} leaves no sample to draw")
    return Entry(first, plan, weights)


def _write_entry(entry: Entry, folder: Path, ids: Sequence[str]) -> None:
    stem = folder / f"step-{entry.first:08d}"
    arrays: dict[str, NDArray[Any]] = {}
    for k, phase in enumerate(entry.weights):
        arrays[f"draw/{k}"] = phase.draw
        for modality in dict.fromkeys([*_KEPT, *phase.lost]):
            gone = phase.lost.get(modality, np.zeros(len(ids), bool))
            arrays[f"{_KEPT.get(modality, modality)}/{k}"] = ~gone
    write_arrays(stem.with_suffix(".npz"), {"id": np.array(ids), **arrays}, compressed=True)
    write_plan(entry.plan, stem.with_suffix(".yaml"))


def _read_entry(file: Path, store: Store, rows: Rows) -> Entry:
    plan = load_config(Plan, file)
    kept = read_arrays(
        file.with_suffix(".npz"), hint="start a new run: its sample weights are lost"
    ).columns()
    ids = kept["id"].tolist()
    modalities = {name: modality for modality, name in _KEPT.items()}
    weights = []
    for k, _ in enumerate(plan.phases):
        found = [name for name in kept if name.endswith(f"/{k}") and name != f"draw/{k}"]
        names = dict.fromkeys([*(f"{name}/{k}" for name in modalities), *found])
        if kept[f"draw/{k}"].dtype.kind != "f" or any(kept[name].dtype.kind != "b" for name in names):
            raise kept.damaged("weights of another type")
        lost = {modalities.get(part := name.partition("/")[0], part): ~kept[name] for name in names}
        weights.append(PhaseWeights(kept[f"draw/{k}"], lost))
    if ids != [store.ids[i] for i in rows]:
        raise BadInput(f"{file}: was made for other samples than {store.path} has to train on")
    return Entry(int(file.stem.removeprefix("step-")), plan, weights)
