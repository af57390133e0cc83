"""Injected noise is what it says, detection is measured right, and the audit finds what there is to find."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import World
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.curriculum.audit import (
    AuditSettings,
    audit,
    detect,
    detection_metrics,
    read_combination,
    table,
)
from harmonize_cli.curriculum.combine import Combination, cross_fitted, learn
from harmonize_cli.curriculum.inject import MISALIGNMENTS, inject
from harmonize_cli.curriculum.scores import read_scores
from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.errors import BadInput
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.store.reader import Store


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=4, max_size=60))
@settings(deadline=None)
def test_metrics_agree_with_scikit_learn_ties_included(rows: list[tuple[int, bool]]) -> None:
    x = np.array([value for value, _ in rows], float)
    y = np.array([wrong for _, wrong in rows])
    if y.any() and not y.all():
        found = detection_metrics(x, y, np.ones(len(x)))
        assert found[0] == pytest.approx(roc_auc_score(y, x))
        assert found[1] == pytest.approx(average_precision_score(y, x))
        weights = np.arange(len(x)) % 3 + 1  # a resample: some samples count several times
        found = detection_metrics(x, y, weights)
        assert found[0] == pytest.approx(roc_auc_score(y, x, sample_weight=weights))
        assert found[1] == pytest.approx(average_precision_score(y, x, sample_weight=weights))


def test_precision_at_takes_the_mean_of_ties() -> None:
    x = np.array([3.0, 2, 2, 2, 2, 1, 1, 1, 1, 1])
    y = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], bool)
    assert detection_metrics(x, y, np.ones(10))[-1] == 1
    twice = detection_metrics(x, y, np.full(10, 2))[-1]  # two of twenty: the first sample both times
    assert twice == 1
    half = detection_metrics(np.repeat(x, 2)[1:], np.repeat(y, 2)[1:], np.ones(19))[-1]
    assert half == pytest.approx((1 + 0.5) / 2)  # two places: the first, and one of eight tied, four wrong


def test_intervals_hold_the_value_and_undefined_scores_are_reported() -> None:
    rng = np.random.default_rng(0)
    y = rng.random(400) < 0.4
    x = y + rng.normal(0, 1, 400)
    x[:40] = np.nan
    found = detect(x, y, draws=100)
    assert found.defined == pytest.approx(0.9)
    for value, low, high in found.metrics.values():
        assert low <= value <= high
    assert np.isnan(detect(x, np.zeros(400, bool)).metrics["auroc"][0])


def test_intervals_count_a_source_once() -> None:
    """Ten segments of one video that score alike are one piece of evidence, not ten."""
    rng = np.random.default_rng(0)
    sources = rng.random(40) < 0.4
    scores = sources + rng.normal(0, 1, 40)
    x, y, groups = np.repeat(scores, 10), np.repeat(sources, 10), np.repeat([f"v{i}" for i in range(40)], 10)
    widths = [
        high - low
        for found in (detect(scores, sources), detect(x, y), detect(x, y, groups.tolist()))
        for _, low, high in [found.metrics["auroc"]]
    ]
    assert widths[1] < 0.5 * widths[0]
    assert widths[2] == pytest.approx(widths[0], rel=0.3)


@pytest.mark.parametrize("kind", MISALIGNMENTS)
def test_injection_changes_what_it_says_and_nothing_else(world: World, kind: str) -> None:
    store = Store.open(world.store)
    dataset = StoreDataset(store, load_model(world.run).specs)
    rows = store.select("val")
    injection = inject(dataset, rows, kind, share=0.4, seed=3)
    modality = MISALIGNMENTS[kind].modality
    able = [i for i in rows if dataset.ok[modality][i]]
    assert 0.3 * len(able) <= len(injection.wrong) <= 0.4 * len(able) + 1
    plain, changed = dataset.batch([int(i) for i in rows]), injection.make([int(i) for i in rows])
    for name, before in plain.inputs.items():
        after = changed.inputs[name]
        for place, row in enumerate(rows):
            same = bool((before[place] == after[place]).all())
            assert same == (name != modality or int(row) not in injection.wrong), (name, row)
    words = {i: store.texts(int(i)) for i in rows}
    if kind == "caption-neighbour":
        for i in injection.wrong:
            near = {t for j in rows if store.groups[j] == store.groups[i] for t in words[j]}
            assert near - set(words[i])


def test_injection_refuses_what_cannot_be(world: World) -> None:
    dataset = StoreDataset(Store.open(world.store), load_model(world.run).specs)
    with pytest.raises(BadInput, match=r"unknown.*caption-elsewhere"):
        inject(dataset, np.arange(10), "smell", share=0.5)
    with pytest.raises(BadInput, match="no sample of these has a partner"):
        inject(dataset, np.array([3]), "caption-elsewhere", share=1.0)


def test_a_combination_beats_its_parts_and_never_saw_the_group() -> None:
    rng = np.random.default_rng(1)
    y = rng.random(1200) < 0.4
    columns = {f"x{k}": y + rng.normal(0, 1.5, 1200) for k in range(4)}
    columns["noise"] = rng.normal(0, 1, 1200)
    columns["x0"][:100] = np.nan
    groups = [f"g{i // 6}" for i in range(1200)]
    combined = cross_fitted(columns, y, groups)
    parts = [roc_auc_score(y, np.nan_to_num(x)) for x in columns.values()]
    assert roc_auc_score(y, combined) > max(parts) + 0.03
    # with labels that mean nothing nothing is learned: cross-fitting leaks nothing
    shuffled = rng.permutation(y)
    assert roc_auc_score(shuffled, cross_fitted(columns, shuffled, groups)) < 0.6
    model = learn(columns, y)
    again = Combination.from_json(json.loads(json.dumps(model.to_json())), "c.json")
    np.testing.assert_allclose(again(columns), model(columns))


def test_audit_finds_captions_and_reports_conflict_as_it_is(world: World, tmp_path: Path) -> None:
    settings = AuditSettings(kinds=("caption-elsewhere",), draws=50)
    result = audit(world.run, world.store, tmp_path, settings)
    assert result.split == "val"
    found = {name: d.metrics["auroc"][0] for name, d in result.found["caption-elsewhere"].items()}
    assert max(found.values()) > 0.9
    assert found[result.best("caption-elsewhere")] == max(found.values())
    assert 0.45 < found["cosine_backbone"] < max(found.values())
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written["best"]["caption-elsewhere"] == result.best("caption-elsewhere")
    assert "cosine_backbone" in table(result)
    assert "loss_vt" in read_combination(tmp_path, "caption-elsewhere").names
    with pytest.raises(BadInput, match="has no 'audio-shifted'"):
        read_combination(tmp_path, "audio-shifted")


def test_audit_command(world: World, tmp_path: Path) -> None:
    words = ["curriculum", "audit", str(world.run), str(world.store), "-o", str(tmp_path / "a")]
    words += ["--indicator", "loss_va", "--indicator", "cosine_all"]
    done = CliRunner().invoke(app, [*words, "--kind", "audio-elsewhere", "--draws", "20"])
    assert done.exit_code == 0, done.output
    assert "trust" in done.output
    assert "loss_va" in done.output
    assert "cosine_all" in done.output
    assert "loss_vt" not in done.output


def test_what_an_audit_learned_becomes_a_column(world: World, tmp_path: Path) -> None:
    settings = AuditSettings(kinds=("caption-elsewhere",), draws=20)
    audit(world.run, world.store, tmp_path / "audit", settings)
    words = ["curriculum", "score", str(world.run), str(world.store), "-o", str(tmp_path / "scores")]
    words += ["--split", "train", "--combine", str(tmp_path / "audit")]
    for _ in range(2):  # a second call adds it again, no more
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    scores = read_scores(tmp_path / "scores")
    wrong = np.array([i in world.marked for i in scores.ids])
    ok = np.isfinite(scores.columns["combined"])
    assert roc_auc_score(wrong[ok], scores.suspicion("combined")[ok]) > 0.75
    done = CliRunner().invoke(app, words[:-2])  # the same scoring again, without the combination
    assert done.exit_code == 0, done.output
    assert "combined" in read_scores(tmp_path / "scores").columns
    (tmp_path / "scores" / "added-combined.npz").unlink()
    with pytest.raises(BadInput, match=r"added-combined\.npz: no such file"):
        read_scores(tmp_path / "scores")
