"""Scores of a store: every sample once, the right numbers, the same ones after a kill or in parallel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from planted import World, train
from sklearn.metrics import roc_auc_score
from small_run import small_store
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.curriculum.audit import AuditSettings
from harmonize_cli.curriculum.indicators import INDICATORS, columns_of, indicator
from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.curriculum.score import ScoreSettings, score, scoring_order
from harmonize_cli.curriculum.scorer import Scorer, batch_agreement, pick_columns
from harmonize_cli.curriculum.scores import Scores, read_scores
from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.errors import BadInput
from harmonize_cli.harmony import Harmonizer, conflict_cosine
from harmonize_cli.models.checkpoint import STATE, load_model
from harmonize_cli.objectives.config import LossConfig
from harmonize_cli.objectives.losses.nce import mil_nce
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import Status
from harmonize_cli.training.config import PretrainConfig


@pytest.fixture(scope="module")
def scores(world: World, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    out = tmp_path_factory.mktemp("scores") / "all"
    report = score(world.run, world.store, out, ScoreSettings(part=64))
    assert report.samples == report.scored == 240
    return read_scores(out)


def test_every_sample_once_in_the_stores_order(world: World, scores: Scores) -> None:
    assert list(scores.ids) == Store.open(world.store).ids
    able = columns_of({"va": "va", "vt": "vt"})
    asked_for = {"cosine_all", "cosine_shared", "norm_va_shared", "norm_vt_shared"}
    assert able.keys() - scores.columns.keys() == asked_for


def test_undefined_exactly_where_a_modality_lacks(world: World, scores: Scores) -> None:
    store = Store.open(world.store)
    lacks = {m: store.status(m) != Status.OK for m in ("video", "audio", "text")}
    assert lacks["audio"].any()
    assert lacks["text"].any()
    for name, column in scores.columns.items():
        ends = {"va": "audio", "vt": "text", "at": "audio text"}
        needed = next((m for pair, m in ends.items() if f"_{pair}" in name), "audio text")  # cosines: both
        expected = np.any([lacks[modality] for modality in needed.split()], axis=0)
        np.testing.assert_array_equal(np.isnan(column), expected, err_msg=name)


def test_wrong_captions_are_found(world: World, scores: Scores) -> None:
    train = np.array(Store.open(world.store).splits) == "train"
    wrong = np.array([i in world.marked for i in scores.ids])
    found = {}
    for name in scores.columns:
        x = scores.suspicion(name)
        use = train & np.isfinite(x)
        found[name] = roc_auc_score(wrong[use], x[use])
    assert found["similarity_vt"] > 0.75
    assert found["neighbours_vt"] > 0.75
    assert found["loss_vt"] > 0.65
    assert 0.45 < found["cosine_backbone"] < found["similarity_vt"]  # weak, as it is known to be
    assert 0.35 < found["similarity_va"] < 0.65  # the sound is right


def _batch_of(world: World, names: list[str] | None = None) -> tuple[Scorer, object]:
    loaded = load_model(world.run)
    store = Store.open(world.store)
    dataset = StoreDataset(store, loaded.specs)
    scorer = Scorer(loaded, loaded.specs, names)
    scorer.fill_bank(dataset, np.arange(64), batch=32, seed=0)
    return scorer, dataset.batch(list(range(12)))


def test_conflict_is_the_cosine_of_what_flows_through_the_sample(world: World) -> None:
    scorer, batch = _batch_of(world)
    columns = scorer(batch)
    model = scorer.model
    shared = list(model.transformer.parameters())
    pooled = model.encode(batch.inputs)
    terms = scorer.loss(model.heads(pooled), batch.present, batch.text_present)
    for i in range(12):
        flows = []
        for name in ("va", "vt"):
            delta = torch.autograd.grad(
                terms[name].value, list(pooled.values()), retain_graph=True, allow_unused=True
            )
            pairs = [(z[i], d[i]) for z, d in zip(pooled.values(), delta, strict=True) if d is not None]
            grads = torch.autograd.grad(
                [z for z, _ in pairs], shared, [d for _, d in pairs], retain_graph=True
            )
            flows.append(torch.cat([g.flatten() for g in grads]).double())
        if np.isnan(columns["cosine_backbone"][i]):
            continue
        cosine = torch.cosine_similarity(flows[0], flows[1], dim=0).item()
        assert columns["cosine_backbone"][i] == pytest.approx(cosine, abs=2e-4)
        assert columns["norm_vt_backbone"][i] == pytest.approx(flows[1].norm().item(), rel=1e-3)


def test_a_learned_temperature_is_the_trained_one(world: World, tmp_path: Path) -> None:
    """Not where it started; the config's value where a checkpoint keeps no state of the losses."""
    loss = LossConfig.model_validate({"learn_temperature": True})
    run = train(world.store, tmp_path / "run", loss=loss, steps=30)
    loaded = load_model(run)
    trained = torch.load(loaded.checkpoint / STATE, weights_only=True)["loss"]["terms.vt.log_tau"].exp()
    assert abs(trained.item() - loss.named["vt"].temperature) > 1e-3
    batch = StoreDataset(Store.open(world.store), loaded.specs).batch(list(range(12)))
    out = loaded.model(batch.inputs).embeddings

    def scored() -> np.ndarray:
        return Scorer(loaded, loaded.specs, ["loss_vt"])(batch)["loss_vt"]

    def expected(tau: float) -> np.ndarray:
        masks = {"anchor_mask": batch.present["video"], "partner_mask": batch.text_present}
        term = mil_nce(out["video_vt"], out["text_vt"], tau, **masks)
        return torch.where(term.valid, term.per_sample, torch.nan).numpy()

    np.testing.assert_allclose(scored(), expected(trained.item()), rtol=1e-5)
    torch.save({}, loaded.checkpoint / STATE)
    np.testing.assert_allclose(scored(), expected(loss.named["vt"].temperature), rtol=1e-5)


@pytest.mark.parametrize("scope", ["all", "backbone", "representation"])
def test_conflict_is_what_the_training_engine_measures(world: World, scope: str) -> None:
    scorer, batch = _batch_of(world, [f"cosine_{scope}"])
    column = scorer(batch)[f"cosine_{scope}"]
    engine = Harmonizer({"": scorer.model, "loss": scorer.loss}, scope=scope)
    with engine.record():
        pooled = scorer.model.encode(batch.inputs)
        terms = scorer.loss(scorer.model.heads(pooled), batch.present, batch.text_present)
    cosine = conflict_cosine(engine.grams({name: terms[name].value for name in ("va", "vt")}, pooled)[scope])
    defined = np.isfinite(column)
    assert defined.sum() > 6
    np.testing.assert_allclose(column[defined], cosine.numpy()[defined], atol=1e-4)


def test_scoring_leaves_the_model_as_it_was(world: World) -> None:
    scorer, batch = _batch_of(world)
    before = {k: v.clone() for k, v in scorer.model.state_dict().items()}
    scorer(batch)
    assert all(torch.equal(v, before[k]) for k, v in scorer.model.state_dict().items())
    assert all(p.grad is None for p in scorer.model.parameters())


def test_agreement_against_explicit_gradients() -> None:
    torch.manual_seed(0)
    pooled = [torch.randn(7, 5), torch.randn(7, 3, 4)]
    cotangents = [torch.randn(7, 5), torch.randn(7, 3, 4)]
    explicit = torch.stack(
        [
            torch.cat(
                [
                    torch.outer(cotangents[0][i], pooled[0][i]).flatten(),
                    (cotangents[1][i].T @ pooled[1][i]).flatten(),
                ]
            )
            for i in range(7)
        ]
    )
    found = batch_agreement(pooled, cotangents)
    for i in range(7):
        others = explicit.sum(0) - explicit[i]
        assert found[i].item() == pytest.approx(
            torch.cosine_similarity(explicit[i], others, dim=0).item(), abs=1e-4
        )


def test_a_killed_scoring_goes_on_and_processes_do_not_matter(world: World, tmp_path: Path) -> None:
    settings = ScoreSettings(part=64, indicators=("loss_vt", "cosine_representation", "neighbours_vt"))
    score(world.run, world.store, tmp_path / "a", settings)
    whole = read_scores(tmp_path / "a")
    (tmp_path / "a" / "scores.json").unlink()  # as a kill after three of four parts leaves it
    part = tmp_path / "a" / "part-00002.npz"
    part.write_bytes(part.read_bytes()[:300])
    with pytest.raises(BadInput, match=r"part-00002\.npz: damaged .*remove it"):
        score(world.run, world.store, tmp_path / "a", settings)
    part.unlink()
    with pytest.raises(BadInput, match="unfinished"):
        read_scores(tmp_path / "a")
    assert score(world.run, world.store, tmp_path / "a", settings).scored == 64
    score(world.run, world.store, tmp_path / "b", settings, jobs=2)
    for other in (read_scores(tmp_path / "a"), read_scores(tmp_path / "b")):
        assert list(other.ids) == list(whole.ids)
        for name, column in whole.columns.items():
            np.testing.assert_allclose(other.columns[name], column, rtol=1e-5, atol=1e-6, err_msg=name)


def test_other_scores_are_not_overwritten(world: World, tmp_path: Path) -> None:
    settings = ScoreSettings(indicators=("loss_vt",))
    score(world.run, world.store, tmp_path / "a", settings)
    assert score(world.run, world.store, tmp_path / "a", settings).scored == 0
    with pytest.raises(BadInput, match="another run, store or settings"):
        score(world.run, world.store, tmp_path / "a", ScoreSettings(indicators=("loss_va",)))


def test_a_script_scores_and_audits_on_the_gpu_where_there_is_one(world, tmp_path) -> None:
    assert ScoreSettings().device == AuditSettings().device == "auto"
    with pytest.raises(BadInput, match="cuda:99 not found"):
        score(world.run, world.store, tmp_path / "a", ScoreSettings(device="cuda:99"))


def test_order_mixes_the_files() -> None:
    order = scoring_order(np.arange(1000), seed=1)
    assert sorted(order) == list(range(1000))
    assert not (np.abs(np.diff(order)) == 1).mean() > 0.02
    np.testing.assert_array_equal(order, scoring_order(np.arange(1000), seed=1))


def test_unknown_indicators_are_named() -> None:
    with pytest.raises(
        BadInput, match=r"(?s)loudness: unknown.*margin_at: unknown here .did you mean margin_vt"
    ):
        pick_columns(["loudness", "margin_at", "loss_vt"], {"vt": "vt"})
    assert [column.name for column in pick_columns(["margin"], {"va": "va"})] == ["margin_va"]


def test_columns_follow_the_losses_of_the_run() -> None:
    one, three = columns_of({"va": "va"}), columns_of({"va": "va", "vt": "vt", "at": "at"})
    assert {"loss_va", "similarity_va", "norm_va_backbone", "agreement_va"} <= set(one)
    assert not any("vt" in name or name.startswith("cosine") for name in one)
    assert {"loss_at", "norm_at_backbone", "agreement_at", "margin_at", "cosine_backbone"} <= set(three)
    assert three["cosine_backbone"].modalities == ("video", "audio", "text")
    two = columns_of({"siglip_vt": "vt", "gramian": "vat"})  # names of the user's, a triple
    assert {"loss_siglip_vt", "loss_gramian", "norm_gramian_backbone", "margin_vt", "margin_at"} <= set(two)
    assert two["loss_gramian"].modalities == ("video", "audio", "text")


def test_an_indicator_is_one_call(world: World) -> None:
    @indicator("words", noisy="low", about="words of the caption", modalities=("text",))
    def words(view):
        return (view.batch.inputs["text"] != 0).sum((1, 2)).float()

    try:
        scorer, batch = _batch_of(world)
        found = scorer(batch)["words"]
        lacking = ~batch.present["text"].numpy()
        assert lacking.any()
        np.testing.assert_array_equal(np.isnan(found), lacking)
        assert set(found[~lacking]) == {2.0}
        with pytest.raises(ValueError, match="registered twice"):
            indicator("words", noisy="low", about="")(words)
    finally:
        del INDICATORS._entries["words"]


def test_command(world: World, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    words = ["curriculum", "score", str(world.run), str(world.store), "-o", str(out), "--split", "val"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "60 samples" in done.output
    assert "in conflict" in done.output
    assert (out / "histogram.png").stat().st_size > 10_000
    again = CliRunner().invoke(app, words)
    assert "all done before" in again.output


def test_separate_towers_are_compared_where_losses_meet(tmp_path: Path) -> None:
    """Nothing is passed by all modalities there: the scope is the video tower."""
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = {
        "kind": "towers",
        "video": {"config": {**size, "patch_size": 4, "tubelet_size": 2}},
        "audio": {"config": {**size, "patch_size": 4, "frequency_stride": 4, "time_stride": 4}},
        "text": {"config": size},
        "space": 12,
    }
    store = small_store(tmp_path / "store.h5")
    config = {"batch": 8, "steps": 2, "device": "cpu", "model": model}
    pretrain(store, tmp_path / "run", PretrainConfig.model_validate(config))
    score(tmp_path / "run", store, tmp_path / "scores", ScoreSettings())
    columns = read_scores(tmp_path / "scores").columns
    assert {"cosine_shared", "cosine_representation", "norm_va_shared", "similarity_at"} <= set(columns)
    assert not any("backbone" in name for name in columns)
    assert np.isfinite(columns["cosine_shared"]).any()
