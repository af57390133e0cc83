"""Online gates: what they may look at, whom they reject, and that the paper's gate is one of them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import CONFIG, World
from safetensors.torch import load_file

from harmonize_cli.config import validate
from harmonize_cli.curriculum.guide import rejected
from harmonize_cli.curriculum.indicators import columns_of
from harmonize_cli.curriculum.plan import Gate, Plan, write_plan
from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.curriculum.view import BatchView
from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.errors import BadInput
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.objectives.base import LossOutput
from harmonize_cli.objectives.config import LossConfig
from harmonize_cli.objectives.objective import Objective
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig

SHORT = CONFIG.model_copy(update={"steps": 12, "batch": 30})
LOSSES = {"va": "va", "vt": "vt"}
COLUMNS = columns_of(LOSSES)
AT_HAND = [name for name, c in COLUMNS.items() if c.kind.online and not c.scope]


def _config(**harmonize: object) -> PretrainConfig:
    checkpoint = SHORT.checkpoint.model_copy(update={"every": 5, "keep": 9})
    section = SHORT.harmonize.model_validate(harmonize)
    return SHORT.model_copy(update={"checkpoint": checkpoint, "harmonize": section})


def _plan(folder: Path, **gate: object) -> Path:
    file = folder / "plan.yaml"
    write_plan(Plan.model_validate({"phases": [{"until": 1.0, "gate": gate}]}), file)
    return file


@pytest.mark.parametrize(
    ("gate", "complaint"),
    [
        ({"by": "smell"}, "smell unknown; gates can look at .*loss_.*margin_"),
        ({"by": "neighbours_vt"}, "neighbours_vt needs more than a training step has: cut by its scores"),
        ({"by": "norm_vt_backbone"}, "norm_vt_backbone needs more"),
        ({"by": "similarity_vt", "start": -0.3}, "shares, between 0 and 1, unless `unit: value`"),
        ({"by": "cosine_backbone", "action": "caption"}, "takes the sample, not only its caption"),
    ],
)
def test_gates_that_cannot_be_are_refused(gate: dict[str, object], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        validate(Plan, {"phases": [{"until": 1.0, "gate": gate}]}, source="plan.yaml")


def test_what_a_rejected_sample_loses_follows_from_the_indicator() -> None:
    takes = {by: Gate(by=by).takes for by in ("loss_va", "margin_vt", "similarity_at", "cosine_all")}
    assert list(takes.values()) == ["audio", "caption", "caption", "sample"]
    assert Gate(by="loss_va", action="sample").takes == "sample"


@pytest.fixture(scope="module")
def view(world: World) -> BatchView:
    """A batch in which some samples lack their sound or caption."""
    loaded = load_model(world.run)
    batch = StoreDataset(Store.open(world.store), loaded.specs).batch(list(range(40)))
    with torch.no_grad():
        embeddings = loaded.model(batch.inputs).embeddings
    terms = Objective(LossConfig())(embeddings, batch.present, batch.text_present)
    return BatchView(batch, embeddings, terms, LOSSES)


@pytest.mark.parametrize("by", AT_HAND)
def test_the_most_suspicious_are_rejected_and_the_undefined_never(view: BatchView, by: str) -> None:
    value = COLUMNS[by].measure(view).numpy()
    defined = np.isfinite(value)
    assert not defined.all()
    badness = value if COLUMNS[by].noisy == "high" else -value
    order = np.argsort(np.where(defined, -badness, np.inf))
    found = rejected(Gate(by=by), 0.3, view).numpy()
    assert set(np.flatnonzero(found)) == set(order[: int(0.3 * defined.sum())])
    edge = float(np.median(value[defined]))
    found = rejected(Gate(by=by, unit="value"), edge, view).numpy()
    np.testing.assert_array_equal(found, badness > (edge if COLUMNS[by].noisy == "high" else -edge))


class Counted:
    """A recorder: per step, how many samples had each pair."""

    def __init__(self) -> None:
        self.steps: list[dict[str, int]] = []

    def record(self, step, epoch, batch, terms: Mapping[str, LossOutput], report) -> None:
        self.steps.append({name: int(term.valid.sum()) for name, term in terms.items()})

    def flush(self, step) -> None: ...

    def rewind(self, step) -> None: ...


@pytest.mark.parametrize(
    ("by", "action", "lost"),
    [("similarity_vt", None, {"vt"}), ("margin_va", None, {"va"}), ("loss_vt", "sample", {"va", "vt"})],
)
def test_a_run_is_gated_as_planned(
    world: World, tmp_path: Path, by: str, action: str | None, lost: set[str]
) -> None:
    plan = _plan(tmp_path, by=by, start=0.0, end=0.6, action=action)
    plain, gated = Counted(), Counted()
    pretrain(world.store, tmp_path / "plain", _config(), recorders=[plain])
    pretrain(world.store, tmp_path / "gated", _config(), recorders=[gated], curriculum=plan)
    for step, (before, after) in enumerate(zip(plain.steps, gated.steps, strict=True)):
        rejects = int(0.6 * (step / 12) * before[by.rpartition("_")[2]])
        for pair in ("va", "vt"):
            # of those that lose everything, some had no such pair to lose
            most = rejects if pair in lost else 0
            least = most if action is None else 0
            assert least <= before[pair] - after[pair] <= most, (step, pair)
    assert sum(s["vt"] + s["va"] for s in gated.steps) < sum(s["vt"] + s["va"] for s in plain.steps) - 30


def _same(a: Path, b: Path) -> bool:
    left, right = (load_file(run / "last" / "weights.safetensors") for run in (a, b))
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("scope", ["representation", "backbone"])
def test_the_papers_gate_is_a_plan_bit_for_bit(world: World, tmp_path: Path, scope: str) -> None:
    gate = {"start": -0.9, "end": 0.4}
    pretrain(world.store, tmp_path / "mode", _config(mode="curriculum", scope=scope, gate=gate))
    plan = _plan(tmp_path, by=f"cosine_{scope}", unit="value", start=-0.9, end=0.4)
    pretrain(world.store, tmp_path / "plan", _config(scope=scope), curriculum=plan)
    pretrain(world.store, tmp_path / "none", _config(scope=scope))
    assert _same(tmp_path / "plan", tmp_path / "mode")
    assert not _same(tmp_path / "plan", tmp_path / "none")


def test_a_conflict_gate_starts_with_its_phase_and_may_come_with_a_resume(
    world: World, tmp_path: Path
) -> None:
    """Before its phase the run is a plain one, to the bit, though the engine stands ready."""
    base = _config(scope="representation")
    pretrain(world.store, tmp_path / "plain", base.model_copy(update={"steps": 24}))
    gate = {"by": "cosine_representation", "start": 0.3, "end": 0.3}
    phases = [{"until": 0.5}, {"until": 1.0, "gate": gate}]
    write_plan(Plan.model_validate({"phases": phases}), tmp_path / "late.yaml")
    pretrain(
        world.store,
        tmp_path / "late",
        base.model_copy(update={"steps": 24}),
        curriculum=tmp_path / "late.yaml",
    )
    states = [
        load_file(tmp_path / run / "checkpoints/step-00000010/weights.safetensors")
        for run in ("plain", "late")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not _same(tmp_path / "plain", tmp_path / "late")
    # the plain run, cut off, goes on with the gate: its checkpoints know of no engine
    for step in (15, 20, 24):
        (tmp_path / f"plain/checkpoints/step-{step:08d}/manifest.json").unlink()
    pretrain(world.store, tmp_path / "plain", curriculum=tmp_path / "late.yaml")
    assert _same(tmp_path / "plain", tmp_path / "late")


@pytest.mark.parametrize(
    ("gate", "harmonize", "complaint"),
    [
        (
            {"by": "cosine_backbone"},
            {"scope": "representation"},
            "scope: is representation, the gate looks at",
        ),
        (
            {"by": "cosine_backbone"},
            {"mode": "both"},
            "both has a gate of its own; with this plan set realign",
        ),
        ({"by": "cosine_all"}, {"scope": "all", "granularity": "batch"}, "nothing to choose; set sample"),
        ({"by": "margin_vx"}, {}, "gate by margin_vx: this run has no such indicator; gate by .*margin_vt"),
    ],
)
def test_gates_that_the_run_cannot_have_are_refused_before_it_starts(
    world: World, tmp_path: Path, gate: dict[str, object], harmonize: dict[str, object], complaint: str
) -> None:
    with pytest.raises(BadInput, match=complaint):
        pretrain(world.store, tmp_path / "run", _config(**harmonize), curriculum=_plan(tmp_path, **gate))
    assert not (tmp_path / "run").exists()
