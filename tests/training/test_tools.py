"""Around a run: its model printed, its cost planned, its state listed, its results exported."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from harmonize_cli.cli.main import app
from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.data.windows import InputsConfig, resolve_inputs
from harmonize_cli.errors import BadInput
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.models.export import load_encoder
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.embeddings import embed_store, write_embeddings
from harmonize_cli.training.overview import describe_model, show_model
from harmonize_cli.training.plan import make_plan, show_plan
from harmonize_cli.training.runs import find_runs, show_runs

CONFIG = PretrainConfig.model_validate(
    {
        "batch": 16,
        "steps": 4,
        "log_every": 2,
        "model": {"width": 32, "heads": 2, "layers": 2, "feedforward": 64, "head": {"va": 32, "vt": 16}},
        "validation": {"split": "test"},
        "harmonize": {"mode": "realign"},
        "tensorboard": True,
    }
)


@pytest.fixture(scope="module")
def run(store_path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    pretrain(store_path, folder, CONFIG)
    return folder


def invoke(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_tensorboard_files_have_the_metrics(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "events"))
    events.Reload()
    assert {"loss", "loss_va", "conflict_share", "val/score"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("loss")] == [2, 4]


def test_the_model_table_counts_all_and_knows_losses_and_scope(store_path):
    specs = resolve_inputs(Store.open(store_path), InputsConfig())
    rows = describe_model(specs, CONFIG)
    from harmonize_cli.models.vatt import Vatt

    model = Vatt(CONFIG.model, specs)
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in model.parameters())
    by_path = {row.path: row for row in rows}
    assert by_path["stems.audio.agg"].losses == ("va",)
    assert by_path["stems.text.agg"].losses == ("vt",)
    assert by_path["stems.video.agg"].losses == ("va", "vt")
    assert by_path["head.va_vt"].losses == ("vt",)
    inside = {row.path for row in rows if row.in_scope}
    assert inside == {path for path in by_path if path.startswith("transformer.")}
    assert sum(by_path[p].parameters for p in inside) == sum(
        p.numel() for p in model.transformer.parameters()
    )
    table = show_model(rows, "backbone")
    assert "transformer.blocks.*.attention.qkv" in table
    every = describe_model(specs, CONFIG.model_copy(update={"harmonize": _harmonize(scope="all")}))
    assert {row.path for row in every if not row.in_scope} == {p for p in by_path if p.startswith("head.")}
    none = describe_model(specs, CONFIG.model_copy(update={"harmonize": _harmonize(scope="representation")}))
    assert not any(row.in_scope for row in none)


def _harmonize(**values):
    return CONFIG.harmonize.model_copy(update=values)


def test_plan_predicts_from_real_steps(store_path, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("batch: 16\nepochs: 3\nmodel: {width: 32, heads: 2, layers: 1, feedforward: 32}\n")
    done = invoke("plan", file, store_path, "--probe-steps", 1, "--json")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert plan["steps"] == 12
    assert plan["epochs"] == pytest.approx(12 * 16 / 72)
    assert plan["hours"] == pytest.approx(plan["seconds_per_step"] * 12 / 3600)
    assert plan["checkpoint_gb"] > 3 * 4 * plan["parameters"] / 1e9
    assert plan["peak_memory_gb"] > 0.05
    assert "peak memory" in show_plan(make_plan(store_path, CONFIG, 1))
    assert make_plan(store_path, CONFIG.model_copy(update={"steps": 1}), 1).steps == 1  # less than the probe
    assert isinstance(invoke("plan", tmp_path / "no.yaml", store_path).exception, BadInput)


def test_runs_are_listed_with_their_state(run):
    (info,) = find_runs([run.parent])
    assert (info.state, info.step, info.planned, info.mode) == ("done", 4, 4, "realign")
    assert {"loss", "conflict_share", "val/text-to-video/R@10"} <= info.metrics.keys()
    assert "4/4" in show_runs([info])
    assert json.loads(invoke("runs", run.parent, "--json").stdout)[0]["state"] == "done"
    assert "no runs" in invoke("runs", run / "checkpoints").stdout
    assert isinstance(invoke("runs", run / "nowhere").exception, BadInput)


def test_an_exported_encoder_gives_the_runs_features(run, store_path, tmp_path, capsys):
    out = tmp_path / "encoder"
    done = invoke("export", "encoder", run, "-o", out, "--checkpoint", "best")
    assert done.exit_code == 0, done.output
    assert {p.name for p in out.iterdir()} == {
        "weights.safetensors",
        "config.json",
        "README.md",
        "example.py",
    }
    loaded, encoder = load_model(run, "best"), load_encoder(out)
    batch = StoreDataset(Store.open(store_path), loaded.specs).batch([0, 1, 2])
    with torch.no_grad():
        want, found = loaded.model.encode(batch.inputs), encoder.encode(batch.inputs)
    assert all(torch.equal(want[m], found[m]) for m in want)
    with pytest.raises(BadInput, match="without its heads"):
        encoder.heads(found)
    runpy.run_path(str(out / "example.py"))
    assert "'video': (1, 32)" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert loaded.weights_hash in card
    assert "realign (rule realign, scope auto" in card
    assert json.loads((out / "config.json").read_text())["vocab"][0] == "<pad>"
    invoke("export", "encoder", run, "-o", tmp_path / "whole", "--heads")
    assert load_encoder(tmp_path / "whole").heads(found)["video_va"].shape == (3, 32)
    assert isinstance(invoke("export", "encoder", run, "-o", out).exception, BadInput)
    with pytest.raises(BadInput, match="no exported encoder"):
        load_encoder(tmp_path)
    (out / "weights.safetensors").write_bytes(b"PK not tensors")
    with pytest.raises(BadInput, match=r"weights\.safetensors: can't be read"):
        load_encoder(out)


def test_embeddings_of_a_store(run, store_path, tmp_path):
    import pyarrow.parquet as pq

    done = invoke("export", "embeddings", run, store_path, "-o", tmp_path / "e.parquet", "--device", "cpu")
    assert done.exit_code == 0, done.output
    table = pq.read_table(tmp_path / "e.parquet")
    ids, arrays = embed_store(load_model(run), Store.open(store_path), batch=7)
    assert table["id"].to_pylist() == ids == Store.open(store_path).ids
    video = np.array(table["video_va"].to_pylist())
    np.testing.assert_allclose(video, arrays["video_va"], atol=1e-5)
    text = np.array(table["text_vt"].to_pylist())
    assert text.shape == (96, 2, 16)
    assert np.isnan(arrays["audio_va"][3]).all()  # no sound
    assert np.isnan(text[0, 1]).all()  # one caption only
    assert np.isfinite(video).all()
    written = write_embeddings(ids, arrays, tmp_path / "e.npy")
    assert json.loads(written[0].read_text()) == ids
    np.testing.assert_array_equal(np.load(tmp_path / "e.video_va.npy"), arrays["video_va"])
    with pytest.raises(BadInput, match=r"\.parquet or \.npy"):
        write_embeddings(ids, arrays, tmp_path / "e.csv")


def test_the_command_trains_prints_and_refuses(store_path, tmp_path):
    model = ["--set", "model.width=32", "--set", "model.layers=1", "--set", "batch=16", "--set", "steps=2"]
    done = invoke(
        "pretrain",
        store_path,
        "-o",
        tmp_path / "run",
        *model,
        "--harmonize",
        "both",
        "--set",
        "checkpoint.keep=1",
    )
    assert done.exit_code == 0, done.output
    assert "pretrain: 2 steps, 32 clips" in done.stdout
    assert load_model(tmp_path / "run").config["harmonize"]["mode"] == "both"
    again = invoke("pretrain", store_path, "-o", tmp_path / "run", "--resume")
    assert "pretrain: 2 steps, 0 clips" in again.stdout
    table = invoke("pretrain", store_path, "--print-model", *model, "--scope", "stems.video")
    assert "in scope stems.video" in table.stdout
    for args, message in (
        (["--resume", "--harmonize", "both"], "leave --config"),
        (["--set", "modle.width=3"], "modle: unknown key"),
        (["--scope", "trunk", "--harmonize", "both", *model], "no trained parameter matches"),
    ):
        failed = invoke("pretrain", store_path, "-o", tmp_path / "bad", *args)
        assert isinstance(failed.exception, BadInput)
        assert message in str(failed.exception)
    checked = invoke("pretrain", store_path, "--verify", *model, "--scope", "all")
    error = float(checked.stdout.split("Gram ")[1].split()[0])
    assert error < 1e-4
    assert "-o is missing" in str(invoke("pretrain", store_path).exception)
