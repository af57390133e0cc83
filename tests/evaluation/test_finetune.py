"""Fine-tuning learns, goes on after a stop as if nothing had happened, and keeps VATT's constants."""

import json

import numpy as np
import pytest
import torch
from small_world import make_run, make_store

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.finetune_task import FinetuneTask, Stopped
from harmonize_cli.evaluation.results import read_result
from harmonize_cli.evaluation.task import Options, evaluate
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.training.config import FinetuneConfig
from harmonize_cli.training.finetune import Tuner, cropped, fitting_spec, learning_rate

QUICK = Options(draws=50)
SMALL = FinetuneConfig(steps=30, batch=6, lr=0.05, warmup=3, checkpoint_every=7, log_every=1, windows=2)


def task(loaded, store, out, config, test="test", **more) -> FinetuneTask:
    return FinetuneTask(Tuner(loaded, store, out, config, **more), test)


def test_learns_and_reports(small_store, small_run, tmp_path):
    config = SMALL.model_copy(update={"steps": 80, "dropout": 0.0, "smoothing": 0.0})
    result, path = evaluate(task(load_model(small_run), small_store, tmp_path / "ft", config), QUICK)
    assert result.metrics["video/top-1"]["value"] > 0.8
    assert read_result(path) == result
    assert result.chance["video/top-1"] == pytest.approx(1 / 3)
    assert result.protocol["name"] == "kinetics-modified"
    again, _ = evaluate(task(load_model(small_run), small_store, tmp_path / "ft", config), QUICK)
    assert again == result


def test_stopped_and_resumed_equals_uninterrupted(small_store, small_run, tmp_path):
    whole, _ = evaluate(task(load_model(small_run), small_store, tmp_path / "a", SMALL), QUICK)
    asked = iter([False] * 9 + [True])
    stopped = task(load_model(small_run), small_store, tmp_path / "b", SMALL, stop=lambda: next(asked))
    with pytest.raises(Stopped):
        evaluate(stopped, QUICK)
    assert not list(tmp_path.glob("b/eval/*.json"))
    parts, _ = evaluate(task(load_model(small_run), small_store, tmp_path / "b", SMALL), QUICK)
    assert parts.metrics == whole.metrics
    one, two = (torch.load(tmp_path / x / "state.pt", weights_only=True) for x in "ab")
    assert all(torch.equal(v, two["model"][k]) for k, v in one["model"].items())
    texts = [(tmp_path / x / "metrics.jsonl").read_text().splitlines() for x in "ab"]
    losses = [[json.loads(line)["loss"] for line in lines] for lines in texts]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 30


def test_a_kill_between_checkpoints_costs_only_those_steps(small_store, small_run, tmp_path):
    calls = iter(range(100))

    def die():
        if next(calls) == 16:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        evaluate(task(load_model(small_run), small_store, tmp_path / "b", SMALL, stop=die))
    assert torch.load(tmp_path / "b" / "state.pt", weights_only=True)["step"] == 14
    parts, _ = evaluate(task(load_model(small_run), small_store, tmp_path / "b", SMALL), QUICK)
    whole, _ = evaluate(task(load_model(small_run), small_store, tmp_path / "a", SMALL), QUICK)
    assert parts.metrics == whole.metrics


def test_other_settings_or_weights_do_not_go_on_in_the_same_folder(small_store, small_run, tmp_path):
    loaded = load_model(small_run)
    evaluate(task(loaded, small_store, tmp_path / "a", SMALL), QUICK)
    other = SMALL.model_copy(update={"lr": 0.01})
    with pytest.raises(BadInput, match="other settings"):
        evaluate(task(load_model(small_run), small_store, tmp_path / "a", other), QUICK)
    with pytest.raises(BadInput, match="other settings"):
        evaluate(
            task(load_model(small_run), small_store, tmp_path / "a", SMALL, augment=lambda _, x, __: x),
            QUICK,
        )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(BadInput, match="holds something else"):
        evaluate(task(loaded, small_store, tmp_path / "full", SMALL), QUICK)


def test_audio_by_group(small_store, small_run, tmp_path):
    config = SMALL.model_copy(update={"modality": "audio"})
    options = Options(draws=50, clusters=True)
    result, path = evaluate(task(load_model(small_run), small_store, tmp_path / "ft", config), options)
    with np.load(path.parent / result.queries["file"]) as queries:
        assert queries["audio/group"][:2].tolist() == ["g6", "g6"]
    assert set(result.metrics) == {"audio/top-1", "audio/mean per class"}
    assert result.coverage["modalities"]["audio"]["silent"] == 1


def test_published_constants():
    c = FinetuneConfig()
    assert (c.steps, c.batch, c.lr, c.warmup, c.momentum) == (100_000, 64, 0.005, 2500, 0.9)
    assert (c.smoothing, c.clip, c.dropout, c.windows, c.crops) == (0.1, 0.75, 0.5, 4, 3)
    assert learning_rate(2499, c) == pytest.approx(0.005)
    assert learning_rate(51_250, c) == pytest.approx(0.0025)
    assert learning_rate(99_999, c) == pytest.approx(0, abs=1e-9)


def test_larger_and_oblong_frames_interpolate_positions(small_run, tmp_path):
    import small_world

    from harmonize_cli.store.reader import Store
    from harmonize_cli.store.schema import FeatureSpec, Sample
    from harmonize_cli.store.writer import ShardWriter

    wide = FeatureSpec("video/frames", "frames", "raw", "uint8", (16, 24, 1), rate=5.0)
    with ShardWriter(tmp_path / "wide.h5", [wide]) as shard:
        for i in range(12):
            frames = np.full((4, 16, 24, 1), 60 * (i % 3), np.uint8)
            split = "train" if i < 6 else "test"
            shard.add(
                Sample(
                    id=f"w{i}",
                    split=split,
                    labels=(f"c{i % 3}",),
                    features={"video/frames": frames},
                    times={"video/frames": np.arange(4) / 5},
                )
            )
    store = Store.open(tmp_path / "wide.h5")
    loaded = load_model(small_run)
    before = [table.weight.shape[0] for table in loaded.model.stems["video"].positions.tables]
    assert fitting_spec(store, loaded.specs, "video").row_shape == (16, 24, 1)
    result, _ = evaluate(task(loaded, store, tmp_path / "ft", SMALL), QUICK)
    after = [table.weight.shape[0] for table in loaded.model.stems["video"].positions.tables]
    assert after == [before[0], 2 * before[1], 2 * before[2]]
    assert result.coverage["expected"] == 6
    assert small_world.FEATURES[0].row_shape == (8, 8, 1)


def test_crops_are_squares_along_the_longer_side():
    x = torch.arange(24).reshape(1, 1, 2, 12, 1)
    left, middle, right = (cropped({"video": x}, "video", s)["video"][0, 0, 0, :, 0] for s in (0, 0.5, 1))
    assert (left.tolist(), middle.tolist(), right.tolist()) == ([0, 1], [5, 6], [10, 11])


def test_splits_must_not_share_samples(small_store, small_run, tmp_path):
    with pytest.raises(BadInput, match="share samples"):
        evaluate(task(load_model(small_run), small_store, tmp_path / "x", SMALL, test="all"))


def test_command(command, tmp_path):
    store = make_store(tmp_path / "store.h5")
    make_run(tmp_path / "run", store)
    options = [
        "--set",
        "steps=3",
        "--set",
        "batch=4",
        "--set",
        "warmup=0",
        "--set",
        "windows=1",
        "--draws",
        20,
    ]
    done = command("eval", "finetune", "run", "store.h5", "-o", "ft", *options, cwd=tmp_path)
    assert "video" in done.stdout
    assert len(list((tmp_path / "ft" / "eval").glob("finetune-*.json"))) == 1
