"""A plan at work in a training run: the order of the samples, and what they keep of themselves.

A run's folder keeps what it was guided by, `curriculum/step-00000000.yaml` and the weights beside it, so that
it goes on exactly the same without the scores. A plan given to a resumed run adds an entry for the steps from
there on; an order begun with the old plan is finished by it, so the change comes with the next epoch.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonize_cli.config import load_config
from harmonize_cli.curriculum.gates import check_gates, engine_gate, rejected
from harmonize_cli.curriculum.plan import Gate, Plan, read_plan, scores_folder, write_plan
from harmonize_cli.curriculum.sampler import weighted_order
from harmonize_cli.curriculum.scores import read_scores
from harmonize_cli.curriculum.view import BatchView
from harmonize_cli.curriculum.weights import PhaseWeights, phase_weights
from harmonize_cli.data.batches import Batch
from harmonize_cli.errors import BadInput
from harmonize_cli.files import read_arrays, write_arrays
from harmonize_cli.harmony import Gate as CosineGate
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.objectives.base import LossOutput
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.data import shuffled

FOLDER = "curriculum"
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
        """The batch without the captions and sounds that the plan takes away."""
        entry, phase = self._now(step // self.per_epoch * self.per_epoch)
        weights, place = entry.weights[phase], self._place[batch.indices]
        return without(batch, _flags(~weights.caption[place], batch), _flags(~weights.sound[place], batch))

    def gate(self, step: int) -> CosineGate | None:
        """The conflict gate of this step, for the gradient engine."""
        gate, level = self._gate(step)
        return engine_gate(gate, level) if gate is not None and gate.scope else None

    def after(
        self, batch: Batch, embeddings: Mapping[str, Tensor], terms: Mapping[str, LossOutput], step: int
    ) -> Batch | None:
        """The batch without what an online gate takes away at this step; None where there is no gate."""
        gate, level = self._gate(step)
        if gate is None or gate.scope:
            return None
        seen = {name: e.detach() for name, e in embeddings.items()}
        out = rejected(gate, level, BatchView(batch, seen, terms))
        nothing = torch.zeros_like(out)
        takes = gate.takes
        return without(batch, nothing if takes == "sound" else out, nothing if takes == "caption" else out)

    @property
    def by_conflict(self) -> bool:
        """Whether any phase has a gate for the gradient engine."""
        return any(gate.scope for gate in self._gates())

    def check(self, config: PretrainConfig, specs: Mapping[str, InputSpec]) -> None:
        """Whether a run with these inputs can follow.

        Raises:
            BadInput: a gate that it can't have.
        """
        check_gates(self._gates(), config, config.loss.fed_by(specs))

    def keep(self, folder: Path, store: Store) -> None:
        """Into the run's folder, so that it goes on the same without the scores."""
        keep_guide(self, folder, store)

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


def without(batch: Batch, captions: Tensor, sounds: Tensor) -> Batch:
    """A batch whose samples [B] lose their captions or sounds: neither positives nor negatives."""
    present, text = dict(batch.present), batch.text_present
    if "audio" in present:
        present["audio"] = present["audio"] & ~sounds
    if text is not None:
        text = text & ~captions.unsqueeze(-1)
        present["text"] = present["text"] & ~captions
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
        BadInput: a faulty plan, scores that miss, or a plan that leaves nothing to train on.
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


def keep_guide(guide: Guide, run: Path, store: Store) -> None:
    """Write what guides a run into its folder; what is there of later steps is of an abandoned end."""
    folder = run / FOLDER
    names = {f"step-{entry.first:08d}" for entry in guide.entries}
    for file in folder.glob("step-*"):
        if file.stem not in names:
            file.unlink()
    for entry in guide.entries:
        _write_entry(entry, folder, [store.ids[i] for i in guide.rows])


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
    arrays = {
        f"{name}/{k}": getattr(phase, name)
        for k, phase in enumerate(entry.weights)
        for name in ("draw", "caption", "sound")
    }
    write_arrays(stem.with_suffix(".npz"), {"id": np.array(ids), **arrays}, compressed=True)
    write_plan(entry.plan, stem.with_suffix(".yaml"))


def _read_entry(file: Path, store: Store, rows: Rows) -> Entry:
    plan = load_config(Plan, file)
    kept = read_arrays(
        file.with_suffix(".npz"), hint="start a new run: its sample weights are lost"
    ).columns()
    ids = kept["id"].tolist()
    weights = [
        PhaseWeights(kept[f"draw/{k}"], kept[f"caption/{k}"], kept[f"sound/{k}"])
        for k in range(len(plan.phases))
    ]
    for phase in weights:
        if phase.draw.dtype.kind != "f" or {phase.caption.dtype.kind, phase.sound.dtype.kind} != {"b"}:
            raise kept.damaged("weights of another type")
    if ids != [store.ids[i] for i in rows]:
        raise BadInput(f"{file}: was made for other samples than {store.path} has to train on")
    return Entry(int(file.stem.removeprefix("step-")), plan, weights)


def _flags(values: NDArray[np.bool_], batch: Batch) -> Tensor:
    return torch.from_numpy(values).to(batch.groups.device)
