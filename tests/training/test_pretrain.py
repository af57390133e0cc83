"""Whole runs: they learn, stop, go on, refuse what they can't use."""

import json
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.errors import BadInput
from harmonize_cli.models.checkpoint import list_checkpoints, load_model
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec, Sample
from harmonize_cli.store.writer import ShardWriter
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.run import Run
from harmonize_cli.training.run_folder import read_metrics

SMALL = {"width": 32, "heads": 2, "layers": 2, "feedforward": 64, "head": {"va": 32, "vt": 16}}


def config(**more) -> PretrainConfig:
    model = {**SMALL, **more.pop("model", {})}
    values = {"batch": 16, "steps": 12, "log_every": 4, "optim": {"lr": 2e-3}, "model": model}
    return PretrainConfig.model_validate(values | more)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "weights.safetensors")


def same(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_run_learns_and_leaves_a_whole_folder(store_path, tmp_path):
    run = tmp_path / "run"
    done = pretrain(
        store_path,
        run,
        config(
            steps=150,
            validation={"split": "test", "every": 50},
            checkpoint={"every": 40, "keep": 2},
            harmonize={"log_every": 7},  # looked at in other steps than those that are logged
        ),
    )
    assert (done.steps, done.planned, done.clips) == (150, 150, 2400)
    lines = read_metrics(run)
    losses = [line["loss_va"] for line in lines if "loss_va" in line]
    assert losses[-1] < losses[0] - 0.5
    scores = {line["step"]: line["val/score"] for line in lines if "val/score" in line}
    assert list(scores) == [50, 100, 150]
    assert scores[150] > 0.6  # chance: 10 of 24
    assert any("conflict_share" in line for line in lines)
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.yaml", "versions.json", "metrics.jsonl", "vocab.json", "last", "best"}
    assert (run / "last").resolve().name == "step-00000150"
    best = max(scores, key=lambda step: scores[step])
    assert (run / "best").resolve().name == f"step-{best:08d}"
    kept = {path.name for path in list_checkpoints(run)}
    assert kept == {"step-00000120", "step-00000150", f"step-{best:08d}"}
    loaded = load_model(run, "best")
    assert loaded.step == best
    assert not loaded.model.training
    assert loaded.specs["video"].row_shape == (16, 16, 1)
    assert (
        json.loads((run / "versions.json").read_text())["store_hash"] == Store.open(store_path).content_hash
    )


@pytest.mark.parametrize(
    "more",
    [
        {"harmonize": {"mode": "both"}, "model": {"dropout": 0.2, "drop_token": 0.3}},
        {"harmonize": {"mode": "realign", "rule": "gradvac:ema", "scope": "representation"}, "ema": 0.9},
        {"harmonize": {"mode": "curriculum", "scope": "all", "control": "shuffled"}, "precision": "bf16"},
        {
            "accumulate": 2,
            "loss": {"learn_temperature": True, "at": 0.5},
            "optim": {"name": "adamw", "clip": 1},
        },
    ],
    ids=["both", "gradvac-ema", "control-bf16", "accumulate"],
)
def test_a_resumed_run_ends_with_the_same_weights(store_path, tmp_path, more):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = config(checkpoint={"every": 5, "keep": 9}, **more)
    pretrain(store_path, whole, settings)
    shutil.copytree(whole, cut, symlinks=True)
    for name in ("step-00000010", "step-00000012"):  # as if killed at step 9, with metrics already ahead
        shutil.rmtree(cut / "checkpoints" / name)
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')
    done = pretrain(store_path, cut)
    assert (done.steps, done.clips) == (12, 7 * 16)
    assert same(whole, cut)
    strip = re.compile(r'"(clips_per_s|wait_share|seconds|harmony_seconds)": [^,}]+')
    one, two = ((p / "metrics.jsonl").read_text() for p in (whole, cut))
    assert strip.sub("", one) == strip.sub("", two)


@pytest.mark.parametrize("more", [{}, {"ema": 0.9}], ids=["weights", "average"])
def test_training_does_not_depend_on_when_it_is_saved_or_validated(store_path, tmp_path, more):
    """Statistics taken for an evaluation are no training state; the audio-text loss reads others."""
    never, often = tmp_path / "never", tmp_path / "often"
    more = {"loss": {"at": 1.0}, **more}
    pretrain(store_path, never, config(checkpoint={"every": 99}, validation={"every": 0}, **more))
    validation = {"split": "test", "every": 2}
    pretrain(store_path, often, config(checkpoint={"every": 3}, validation=validation, **more))
    assert same(never, often)
    shutil.rmtree(often / "checkpoints" / "step-00000012")
    pretrain(store_path, often)
    assert same(never, often)


@pytest.mark.parametrize("scope", ["backbone", "all"])
def test_bf16_is_read_by_samples_and_repeats_to_the_bit(store_path, tmp_path, caplog, scope):
    """Cotangents in float32 have the rounding of those in 16 bits that they were made from."""
    settings = config(steps=4, log_every=1, precision="bf16", harmonize={"mode": "both", "scope": scope})
    for name in ("one", "two"):
        pretrain(store_path, tmp_path / name, settings)
    assert "can't be read by samples" not in caplog.text
    one, two = (read_metrics(tmp_path / name) for name in ("one", "two"))
    for key in ("cosine_mean", "weight_va", "norm_ratio", "loss"):
        assert [line[key] for line in one if key in line] == [line[key] for line in two if key in line]
    assert same(tmp_path / "one", tmp_path / "two")


def test_sigterm_saves_and_the_run_goes_on(store_path, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pretrain(store_path, whole, config())

    class Stopper:
        def record(self, step, epoch, batch, terms, report):
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

        def flush(self, step):
            self.flushed = step

        def rewind(self, step):
            pass

    stopper = Stopper()
    done = pretrain(store_path, cut, config(), recorders=[stopper])
    assert done.steps == stopper.flushed < 12
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert pretrain(store_path, cut).steps == 12
    assert same(whole, cut)


def test_a_damaged_last_checkpoint_is_passed_over(store_path, tmp_path, capsys):
    run, again = tmp_path / "run", tmp_path / "again"
    pretrain(store_path, run, config(checkpoint={"every": 5, "keep": 3}))
    shutil.copytree(run, again, symlinks=True)
    file = again / "checkpoints/step-00000012/weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(BadInput, match=r"damaged checkpoint \(weights.safetensors differs"):
        load_model(again)
    done = pretrain(store_path, again)
    assert done.clips == 2 * 16
    assert "step-00000012: damaged checkpoint" in capsys.readouterr().err
    assert same(run, again)


def test_recorders_see_every_sample_and_loss(store_path, tmp_path):
    seen = []

    class Watcher:
        def record(self, step, epoch, batch, terms, report):
            assert report.gram.shape == (16, 2, 2)
            seen.append((step, epoch, batch.ids, terms["va"].per_sample, terms["va"].valid))

        def flush(self, step):
            seen.append(("flush", step))

        def rewind(self, step):
            seen.append(("rewind", step))

    pretrain(
        store_path, tmp_path / "run", config(steps=6, harmonize={"mode": "realign"}), recorders=[Watcher()]
    )
    assert seen[0] == ("rewind", 0)
    assert seen[-1] == ("flush", 6)
    steps = seen[1:-1]
    assert [s[0] for s in steps] == [1, 2, 3, 4, 5, 6]
    assert [s[1] for s in steps] == [0, 0, 0, 0, 1, 1]  # 72 samples, 4 batches an epoch
    assert (steps[0][3][steps[0][4]] > 0.69).all()


def test_missing_sound_and_text_count_for_nothing(store_path, tmp_path):
    """A run must not depend on what is stored in the place of an absent modality, nor crash without any."""
    pretrain(store_path, tmp_path / "run", config(steps=4, harmonize={"mode": "both"}))
    assert all(v.isfinite().all() for v in weights(tmp_path / "run").values() if v.is_floating_point())
    assert read_metrics(tmp_path / "run")[0]["undefined_share"] > 0


def test_non_finite_steps_are_left_out_and_written_down(store_path, tmp_path, monkeypatch):
    from harmonize_cli.data import batches
    from harmonize_cli.errors import HarmonizeError

    original = batches.StoreDataset._cut

    def poisoned(self, index, position, rng):
        item = original(self, index, position, rng)
        if self._ids[index] == "clip010" and "audio" in item.arrays:
            item.arrays["audio"][:] = float("nan")
        return item

    monkeypatch.setattr(batches.StoreDataset, "_cut", poisoned)
    run = tmp_path / "run"
    pretrain(store_path, run, config(steps=8, harmonize={"mode": "realign"}))
    noted = [json.loads(line) for line in (run / "bad_steps.jsonl").read_text().splitlines()]
    assert len(noted) in (1, 2)
    assert all("clip010" in line["ids"] for line in noted)
    assert all(v.isfinite().all() for v in weights(run).values() if v.is_floating_point())
    with pytest.raises(HarmonizeError, match="without a finite gradient"):
        pretrain(store_path, tmp_path / "other", config(steps=20, max_bad_steps=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 80}, "only 72 to train on"),
        ({"data": {"split": "dev"}}, "no split 'dev'"),
        ({"validation": {"split": "dev"}}, "validation.split: .*no split 'dev'"),
        ({"inputs": {"video": {"key": "video/clip"}}}, "no feature 'video/clip'"),
        ({"inputs": {"video": {"use": False}}}, "the losses need va"),
        ({"inputs": {"audio": {"use": False}}, "harmonize": {"mode": "both"}}, "compares two losses"),
        ({"harmonize": {"mode": "realign", "rule": "magic"}}, "'magic'"),
        ({"harmonize": {"mode": "realign", "scope": "trunk"}}, "no trained parameter matches"),
        (
            {"harmonize": {"mode": "realign", "scope": "backbone"}, "model": {"sharing": "specific"}},
            "no parameter is passed by every",
        ),
        ({"device": "cuda:7"}, "cuda:7 not found"),
        ({"device": "tpu0"}, "'tpu0'"),
    ],
)
def test_what_cannot_work_is_named(store_path, tmp_path, change, message):
    with pytest.raises(BadInput, match=message):
        pretrain(store_path, tmp_path / "run", config(**change))


@pytest.mark.parametrize(
    "harmonize", [{"mode": "realign", "rule": "nash"}, {"mode": "both", "gate": {"rejected": "at"}}]
)
def test_what_the_losses_rule_out_is_refused_before_the_folder_is_made(store_path, tmp_path, harmonize):
    loss = {"at": 1} if "rule" in harmonize else {}
    with pytest.raises(BadInput, match=r"for two losses, not 3|a loss: va, vt"):
        pretrain(store_path, tmp_path / "run", config(harmonize=harmonize, loss=loss))
    assert not (tmp_path / "run").exists()


def test_run_folders_are_not_overwritten_and_must_exist_to_resume(store_path, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(BadInput, match="no run to resume"):
        pretrain(store_path, run)
    with pytest.raises(BadInput, match="no such run folder"):
        load_model(run)
    pretrain(store_path, run, config(steps=1))
    with pytest.raises(BadInput, match="holds a run already"):
        pretrain(store_path, run, config(steps=1))
    with pytest.raises(BadInput, match="no checkpoint 'best'; it has step-00000001"):
        load_model(run, "best")
    # a run that failed before its first step leaves nothing that is in the way
    wrong = config(steps=1, harmonize={"mode": "realign", "scope": "trunk"})
    with pytest.raises(BadInput, match="no trained parameter matches"):
        pretrain(store_path, tmp_path / "again", wrong)
    assert pretrain(store_path, tmp_path / "again", config(steps=1)).steps == 1
    # nor does one that was killed while its folder was made
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "versions.json").write_text("{}")
    (killed / "config.yaml.123.tmp").touch()
    assert pretrain(store_path, killed, config(steps=1)).steps == 1
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    with pytest.raises(BadInput, match="is no run folder"):
        pretrain(store_path, other, config())
    with pytest.raises(BadInput, match="no checkpoint in it yet"):
        load_model(other)


def test_a_run_goes_on_with_its_own_store_only(store_path, other_store_path, tmp_path):
    """Rows of another store are other samples: order, ledger and weights of samples would be of strangers."""
    pretrain(store_path, tmp_path / "run", config(steps=1))
    with pytest.raises(BadInput, match=r"other\.h5: holds other samples than the store that .* started with"):
        pretrain(other_store_path, tmp_path / "run")
    assert pretrain(shutil.copy(store_path, tmp_path / "moved.h5"), tmp_path / "run").steps == 1


@pytest.mark.filterwarnings("ignore")  # torch's own, when its compiler is imported
def test_every_stack_is_compiled(store_path, tmp_path):
    store = Store.open(store_path)
    for sharing, stacks in (("agnostic", 1), ("specific", 3)):
        settings = config(compile=True, model={"sharing": sharing})
        model = Run(store, settings, tmp_path).model
        found = {model.stack(m) for m in model.modalities}
        assert len(found) == stacks
        assert all(stack._compiled_call_impl is not None for stack in found)


def test_one_loss_is_enough(store_path, tmp_path):
    pretrain(store_path, tmp_path / "run", config(steps=2, inputs={"text": {"use": False}}))
    loaded = load_model(tmp_path / "run")
    assert list(loaded.specs) == ["video", "audio"]


@pytest.mark.parametrize(
    "more",
    [
        {"data": {"workers": 2}, "augment": {"flip": 0.5, "colour": 0.8}},
        {"checkpoint_activations": True, "model": {"dropout": 0.2}},
        {"chunk": 4},
        {"chunk": 8, "harmonize": {"mode": "both"}},
    ],
    ids=["workers", "activations", "chunks", "chunks-both"],
)
def test_ways_to_compute_do_not_change_the_result(store_path, tmp_path, more):
    """Workers read the same batches; recomputed activations, cached large batches: the same gradients."""
    plain = {key: more.get(key, {}) for key in ("model", "augment", "harmonize")}
    more["optim"] = plain["optim"] = {"lr": 1e-3, "eps": 1e-4}
    pretrain(store_path, tmp_path / "plain", config(steps=5, **plain))
    pretrain(store_path, tmp_path / "other", config(steps=5, **more))
    one, two = weights(tmp_path / "plain"), weights(tmp_path / "other")
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-5)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_a_compiled_backbone_learns_the_same(store_path, tmp_path):
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("torch.compile on a CPU needs a C++ compiler")
    for name, compiled in (("plain", False), ("compiled", True)):
        settings = config(steps=3, compile=compiled, harmonize={"mode": "realign"}, log_every=1)
        pretrain(store_path, tmp_path / name, settings)
    a, b = (read_metrics(tmp_path / name) for name in ("plain", "compiled"))
    assert [x["loss"] for x in a] == pytest.approx([x["loss"] for x in b], rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_stays_near_float32(store_path, tmp_path, precision):
    for name in ("fp32", precision):
        settings = config(steps=6, log_every=1, precision=name, harmonize={"mode": "both"})
        pretrain(store_path, tmp_path / name, settings)
    a, b = (read_metrics(tmp_path / name)[0]["loss"] for name in ("fp32", precision))
    assert a == pytest.approx(b, rel=0.02)
    # fp16's search for a scale may skip steps, but is no bad step
    assert not (tmp_path / precision / "bad_steps.jsonl").exists()
    assert all(v.isfinite().all() for v in weights(tmp_path / precision).values() if v.is_floating_point())


def test_chunks_are_equal_and_small_enough():
    from harmonize_cli.training.step import equal_parts

    for samples in range(1, 40):
        for most in range(1, 12):
            parts = equal_parts(samples, most)
            assert samples % parts == 0
            assert samples // parts <= most
            assert not any(samples % n == 0 and samples // n <= most for n in range(1, parts))


def test_feature_sequences_and_stacks_of_their_own(tmp_path):
    """A store of ready embeddings, read by one stack per modality."""
    specs = [
        FeatureSpec("video/clip", "embedding", "open_clip:x", "float16", (12,), rate=2.0, regular=True),
        FeatureSpec("audio/mfcc", "mfcc", "mfcc", "float32", (6,), rate=20.0, regular=True),
        FeatureSpec("text/clip", "embedding", "open_clip:x", "float16", (12,)),
    ]
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "store.h5", specs) as writer:
        for i in range(24):
            n = int(rng.integers(3, 9))
            features = {
                "video/clip": rng.normal(size=(n, 12)).astype(np.float16),
                "audio/mfcc": rng.normal(size=(10 * n, 6)).astype(np.float32),
                "text/clip": rng.normal(size=(1 + i % 3, 12)).astype(np.float16),
            }
            times = {"video/clip": 0.0, "audio/mfcc": 0.0}
            writer.add(Sample(id=f"s{i}", features=features, times=times))
    model = {**SMALL, "sharing": "specific", "drop_token": 0.3}
    settings = config(batch=8, steps=3, model=model, harmonize={"mode": "both", "scope": "representation"})
    pretrain(tmp_path / "store.h5", tmp_path / "run", settings)
    loaded = load_model(tmp_path / "run")
    assert loaded.specs["text"].candidates == 3
    batch = StoreDataset(Store.open(tmp_path / "store.h5"), loaded.specs).batch(range(4))
    with torch.no_grad():
        out = loaded.model(batch.inputs)
    assert out.embeddings["text_vt"].shape == (4, 3, 16)
    # what lies behind the end of a sequence has no influence
    changed = torch.where(batch.inputs["video_mask"].unsqueeze(-1), batch.inputs["video"], 9.0)
    with torch.no_grad():
        again = loaded.model.encode({**batch.inputs, "video": changed})
    torch.testing.assert_close(again["video"], out.pooled["video"])


def test_a_full_disk_leaves_the_last_whole_checkpoint(store_path, tmp_path):
    """RLIMIT_FSIZE in the place of the disk: the file that does not fit is named, nothing half is left."""
    run = tmp_path / "run"
    pretrain(store_path, run, config(steps=4, checkpoint={"every": 2}))
    before = {path.name for path in list_checkpoints(run)}
    size = (run / "last/weights.safetensors").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, hard))  # the optimiser's state is twice as large
    try:
        (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("steps: 4", "steps: 6"))
        with pytest.raises(OSError, match="File too large") as full:
            pretrain(store_path, run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert full.value.filename.endswith("state.pt")
    assert {path.name for path in list_checkpoints(run)} == before
    assert not list((run / "checkpoints").glob(".*"))
    assert load_model(run).step == 4
    assert pretrain(store_path, run).steps == 6
