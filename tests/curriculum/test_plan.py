"""Plans: faults named, weights as written, draws exact, runs that follow them and resume bit for bit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import CONFIG, World
from safetensors.torch import load_file

from harmonize_cli.config import validate
from harmonize_cli.curriculum.guide import make_guide
from harmonize_cli.curriculum.plan import Plan, read_plan, write_plan
from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.curriculum.score import ScoreSettings, score
from harmonize_cli.curriculum.scores import Scores, read_scores
from harmonize_cli.curriculum.weights import phase_weights, weighted_order
from harmonize_cli.data.batches import Draw
from harmonize_cli.errors import BadInput
from harmonize_cli.models.checkpoint import find_checkpoint
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.data import Schedule

IDS = [f"s{i}" for i in range(20)]
SCORES = Scores(
    np.array(IDS),
    np.arange(20),
    {"loss": np.array([*range(19), np.nan], np.float32), "alike": -np.arange(20, dtype=np.float32)},
    {"loss": "high", "alike": "low"},
    {},
)


def _plan(**phase: object) -> Plan:
    return Plan.model_validate({"scores": "scores", "phases": [{"until": 1.0, **phase}]})


def test_faults_are_named() -> None:
    phases = [
        {"until": 0.5, "cut": {"indicator": "loss"}},
        {"until": 0.4, "action": "caption", "weight": 0.5},
        {"until": 2},
    ]
    with pytest.raises(BadInput, match=r"(?s)give share.*beyond.*weight and softness.*until"):
        validate(Plan, {"phases": phases}, source="plan.yaml")
    with pytest.raises(BadInput, match="the last phase must end at 1"):
        validate(Plan, {"phases": [{"until": 0.5}]}, source="plan.yaml")
    cut = {"indicator": "loss", "share": 0.1}
    with pytest.raises(BadInput, match="a cut needs scores"):
        validate(Plan, {"phases": [{"until": 1, "cut": cut}]}, source="plan.yaml")


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = _plan(cut={"indicator": "loss", "share": 0.25}, softness=0.1)
    plan = plan.model_copy(update={"scores": "1e5"})  # a folder, not a number
    write_plan(plan, tmp_path / "plan.yaml")
    assert read_plan(tmp_path) == plan
    with pytest.raises(BadInput, match="no such plan"):
        read_plan(tmp_path / "nothing")


@pytest.mark.parametrize("indicator", ["loss", "alike"])
def test_cut_by_share_and_by_value(indicator: str) -> None:
    groups = ["g"] * 20
    (found,) = phase_weights(_plan(cut={"indicator": indicator, "share": 0.2}), IDS, groups, SCORES)
    worst = {"loss": {15, 16, 17, 18}, "alike": {16, 17, 18, 19}}[indicator]
    assert set(np.flatnonzero(found.draw == 0)) == worst
    edge = {"loss": 14.5, "alike": -15.5}[indicator]
    (found,) = phase_weights(_plan(cut={"indicator": indicator, "beyond": edge}), IDS, groups, SCORES)
    assert set(np.flatnonzero(found.draw == 0)) == worst
    assert found.draw[19] == (1 if indicator == "loss" else 0)  # undefined is never suspect


def test_actions_weights_and_soft_edges() -> None:
    groups = ["g"] * 20
    cut = {"indicator": "alike", "share": 0.5}
    (found,) = phase_weights(_plan(cut=cut, action="caption"), IDS, groups, SCORES)
    assert found.draw.min() == 1
    assert list(found.lost) == ["text"]
    assert found.lost["text"][10:].all()
    assert not found.lost["text"][:10].any()
    (found,) = phase_weights(_plan(cut=cut, weight=0.1), IDS, groups, SCORES)
    assert set(found.draw) == {0.1, 1.0}
    (found,) = phase_weights(_plan(cut=cut, softness=0.2), IDS, groups, SCORES)
    assert (np.diff(found.draw) <= 0).all()
    assert 0.3 < found.draw[10] < 0.7


def test_cut_by_a_list_of_ids(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("s3\ns5\nunknown\n")
    plan = Plan.model_validate({"phases": [{"until": 1.0, "cut": {"ids": "ids.txt"}}]})
    (found,) = phase_weights(plan, IDS, ["g"] * 20, None, folder=tmp_path)
    assert np.flatnonzero(found.draw == 0).tolist() == [3, 5]
    with pytest.raises(BadInput, match="can't be read"):
        phase_weights(plan, IDS, ["g"] * 20, None, folder=tmp_path / "elsewhere")
    (tmp_path / "ids.txt").write_text("nobody\n")
    with pytest.raises(BadInput, match="names none of the samples"):
        phase_weights(plan, IDS, ["g"] * 20, None, folder=tmp_path)


def test_floor_spares_the_best_of_each_group() -> None:
    plan = _plan(cut={"indicator": "alike", "share": 0.5})
    plan = plan.model_copy(
        update={"floor": Plan.model_validate({**plan.model_dump(), "floor": {"share": 0.3}}).floor}
    )
    groups = ["a"] * 10 + ["b"] * 10  # all of b is suspect
    (found,) = phase_weights(plan, IDS, groups, SCORES)
    assert set(np.flatnonzero(found.draw == 0)) == set(range(13, 20))


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=50).filter(lambda w: sum(w) > 1e-3),
    st.integers(0, 99),
    st.integers(0, 9),
)
@settings(deadline=None)
def test_draws_come_as_often_as_their_weight_says(weights: list[float], seed: int, epoch: int) -> None:
    rows = np.arange(len(weights)) + 100
    drawn = weighted_order(rows, np.array(weights), seed, epoch)
    assert len(drawn) == len(rows)
    expected = len(rows) * np.array(weights) / sum(weights)
    counts = np.bincount(drawn - 100, minlength=len(rows))
    assert (counts >= np.floor(expected - 1e-6)).all()
    assert (counts <= np.ceil(expected + 1e-6)).all()
    assert not counts[np.array(weights) == 0].any()
    np.testing.assert_array_equal(drawn, weighted_order(rows, np.array(weights), seed, epoch))


def test_equal_weights_are_a_shuffled_epoch() -> None:
    drawn = weighted_order(np.arange(500), np.ones(500), 1, 2)
    assert sorted(drawn) == list(range(500))
    assert (drawn != weighted_order(np.arange(500), np.ones(500), 1, 3)).any()


@pytest.fixture(scope="module")
def plans(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scores and three plans."""
    folder = tmp_path_factory.mktemp("plans")
    score(world.run, world.store, folder / "scores", ScoreSettings(split="train"))
    cut = {"indicator": "similarity_vt", "share": 0.3}
    for name, phases in {
        "drop": [{"until": 0.4}, {"until": 1.0, "cut": cut}],
        "caption": [{"until": 1.0, "cut": cut, "action": "caption"}],
        "gate": [{"until": 1.0, "gate": {"by": "loss_vt", "start": 0.25, "end": 0.5}}],
    }.items():
        write_plan(Plan.model_validate({"scores": "scores", "phases": phases}), folder / f"{name}.yaml")
    return folder


SHORT = CONFIG.model_copy(update={"steps": 20, "batch": 30})


def _saving(every: int) -> PretrainConfig:
    checkpoint = SHORT.checkpoint.model_copy(update={"every": every, "keep": 9})
    return SHORT.model_copy(update={"checkpoint": checkpoint})


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(find_checkpoint(run) / "weights.safetensors")


def _equal(a: Path, b: Path) -> bool:
    left, right = _weights(a), _weights(b)
    return all(torch.equal(left[name], right[name]) for name in left)


def test_guide_draws_drops_and_gates(world: World, plans: Path, tmp_path: Path) -> None:
    store = Store.open(world.store)
    rows = store.select("train")
    guide = make_guide(plans / "drop.yaml", tmp_path, store, rows, batch=30, steps=20, seed=0, first=0)
    assert guide is not None
    assert sorted(guide.order(0)) == sorted(rows)  # the first phase takes all
    late = set(guide.order(2).tolist())
    scores = read_scores(plans / "scores")
    suspicion = dict(zip(scores.index.tolist(), scores.suspicion("similarity_vt").tolist(), strict=True))
    left_out = set(rows.tolist()) - late
    assert len(left_out) == pytest.approx(0.3 * len(rows), abs=4)
    assert min(suspicion[i] for i in left_out) >= max(suspicion[i] for i in late if np.isfinite(suspicion[i]))
    wrong = np.array([i in world.marked for i in store.ids])
    assert wrong[list(left_out)].mean() > 0.6  # what goes is what was wrong


def test_ranks_share_what_one_process_draws(world: World, plans: Path, tmp_path: Path) -> None:
    store = Store.open(world.store)
    rows = store.select("train")

    def draws(rank: int, ranks: int) -> list[list[Draw]]:
        folder = tmp_path / f"{rank}-{ranks}"  # each process makes its own guide
        guide = make_guide(plans / "drop.yaml", folder, store, rows, batch=30, steps=20, seed=0, first=0)
        assert guide is not None
        return list(Schedule(guide.order, 30, rank=rank, ranks=ranks).from_step(0, 20))

    both = zip(draws(0, 2), draws(1, 2), strict=True)
    assert [left + right for left, right in both] == draws(0, 1)


def test_runs_follow_a_plan_and_resume_exactly(world: World, plans: Path, tmp_path: Path) -> None:
    config = SHORT.model_copy(
        update={"checkpoint": SHORT.checkpoint.model_copy(update={"every": 9, "keep": 9})}
    )
    for name in ("drop", "gate", "caption"):
        pretrain(world.store, tmp_path / name, config, curriculum=plans / f"{name}.yaml")
    pretrain(world.store, tmp_path / "none", config)
    assert not any(_equal(tmp_path / "none", tmp_path / name) for name in ("drop", "gate", "caption"))
    # as a kill at step 9 leaves it; the scores are gone, too
    cut_off = tmp_path / "cut-off"
    shutil.copytree(tmp_path / "drop", cut_off, symlinks=True)
    for step in (18, 20):
        shutil.rmtree(cut_off / "checkpoints" / f"step-{step:08d}")
    pretrain(world.store, cut_off)
    assert _equal(cut_off, tmp_path / "drop")


def test_a_plan_can_be_changed_mid_run(world: World, plans: Path, tmp_path: Path) -> None:
    config = SHORT.model_copy(
        update={"checkpoint": SHORT.checkpoint.model_copy(update={"every": 6, "keep": 9})}
    )
    pretrain(world.store, tmp_path / "base", config)
    run = tmp_path / "changed"
    shutil.copytree(tmp_path / "base", run, symlinks=True)
    for step in (12, 18, 20):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    pretrain(world.store, run, curriculum=plans / "caption.yaml")
    assert [p.name for p in sorted((run / "curriculum").glob("*.yaml"))] == [
        "step-00000000.yaml",
        "step-00000006.yaml",
    ]
    assert not _equal(run, tmp_path / "base")
    unchanged = tmp_path / "unchanged"  # a plan that asks for nothing is a run without a plan
    write_plan(Plan.model_validate({"phases": [{"until": 1.0}]}), plans / "nothing.yaml")
    pretrain(world.store, unchanged, config, curriculum=plans / "nothing.yaml")
    assert _equal(unchanged, tmp_path / "base")
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 20


def test_plans_that_do_not_fit_are_refused(world: World, plans: Path, tmp_path: Path) -> None:
    store = Store.open(world.store)
    rows = store.select("train")
    values = {"scores": "scores", "phases": [{"until": 1.0, "cut": {"indicator": "smell", "share": 0.1}}]}
    (plans / "bad.yaml").write_text(json.dumps(values))
    with pytest.raises(BadInput, match="no indicator 'smell'"):
        make_guide(plans / "bad.yaml", tmp_path, store, rows, batch=30, steps=20, seed=0, first=0)
    values["phases"] = [{"until": 1.0, "cut": {"indicator": "loss_vt", "beyond": -1.0}}]
    (plans / "bad.yaml").write_text(json.dumps(values))
    clean = np.array([i for i in rows if store.status("text")[i] == 0])
    with pytest.raises(BadInput, match="leaves no sample to draw"):
        make_guide(plans / "bad.yaml", tmp_path, store, clean, batch=30, steps=20, seed=0, first=0)
