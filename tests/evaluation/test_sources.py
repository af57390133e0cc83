"""Baselines without a run: the store's own embeddings, statistics of spectra, untrained weights."""

import numpy as np
import pytest
from small_world import make_run, make_store

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.probe import ProbeTask
from harmonize_cli.evaluation.protocols import PROBES, PROTOCOLS
from harmonize_cli.evaluation.retrieval import RetrievalTask
from harmonize_cli.evaluation.sources import PlainSource, RunSource, untrained
from harmonize_cli.evaluation.task import Options, evaluate
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec, Sample
from harmonize_cli.store.writer import ShardWriter

QUICK = Options(draws=50)
CLIP = "open_clip:tiny/test"


@pytest.fixture
def clip_store(tmp_path):
    """Captions point where the mean of unit frames points; one loud frame would mislead a raw mean."""
    rng = np.random.default_rng(0)
    features = [
        FeatureSpec("video/open_clip", "embedding", CLIP, "float16", (16,), rate=1.0, weights_hash="w1"),
        FeatureSpec("text/open_clip", "embedding", CLIP, "float16", (16,), weights_hash="w1"),
    ]
    with ShardWriter(tmp_path / "clip.h5", features) as shard:
        for i in range(30):
            frames = rng.normal(size=(5, 16))
            frames /= np.linalg.norm(frames, axis=1, keepdims=True)
            text = frames.mean(axis=0)
            frames[0] *= 50
            video, captions = frames.astype(np.float16), np.stack([text, -text]).astype(np.float16)
            shard.add(
                Sample(
                    id=f"c{i}",
                    split="test",
                    texts=("words", "more words"),
                    features={"text/open_clip": captions} | ({"video/open_clip": video} if i else {}),
                    times={"video/open_clip": np.arange(5.0)} if i else {},
                )
            )
    return Store.open(tmp_path / "clip.h5")


def test_mean_pooled_clip_features_are_a_row_without_any_run(clip_store):
    result, path = evaluate(RetrievalTask(PlainSource(clip_store), clip_store, PROTOCOLS["clip"]), QUICK)
    assert result.metrics["text-to-video/R@1"]["value"] == 1
    assert result.coverage["pools"]["text-to-video"] == {"queries": 29, "gallery": 29}
    assert result.coverage["pools"]["video-to-text"] == {"queries": 29, "gallery": 30}
    assert result.model["run"] == "video/open_clip + text/open_clip"
    assert result.model["encoder"] == CLIP
    assert result.model_hash == "w1"
    assert path.parent == clip_store.path.parent / "eval-clip"
    raw, _ = evaluate(RetrievalTask(PlainSource(clip_store), clip_store, PROTOCOLS["vatt"]), QUICK)
    assert raw.metrics["text-to-video/MeanR"]["value"] > 1


def test_captions_policies_of_plain_embeddings(clip_store):
    rows = np.arange(30)
    everything = PROTOCOLS["clip"].model_copy(update={"captions": "all"})
    assert len(PlainSource(clip_store).pool(clip_store, rows, everything).captions) == 60
    mean = PROTOCOLS["clip"].model_copy(update={"captions": "mean"})
    assert PlainSource(clip_store).pool(clip_store, rows, mean).captions == pytest.approx(0, abs=1e-3)


def test_other_features_of_a_store_are_another_result(tmp_path):
    """Neither comes from a network, so no hash of weights tells them apart."""
    kinds = ("logmel", "mfcc")
    specs = [FeatureSpec(f"audio/{k}", k, k, "float32", (4,), rate=10.0, regular=True) for k in kinds]
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "s.h5", specs) as shard:
        for i in range(16):
            x = rng.normal(size=(5, 4)).astype(np.float32)
            features = {"audio/logmel": x + 9 * (i % 2), "audio/mfcc": x}
            times = dict.fromkeys(features, 0.0)
            shard.add(Sample(id=f"s{i}", fold=i // 8, labels=(str(i % 2),), features=features, times=times))
    store = Store.open(tmp_path / "s.h5")
    probe = PROBES["logistic"].model_copy(update={"c": (1.0,)})
    one, two = (evaluate(ProbeTask(PlainSource(store, (f"audio/{k}",)), store, probe), QUICK) for k in kinds)
    assert one[1] != two[1]
    assert one[0].metrics["audio/top-1"]["value"] == 1 > two[0].metrics["audio/top-1"]["value"]


def test_a_pool_without_any_caption_still_has_pictures_and_no_text(tmp_path):
    specs = [
        FeatureSpec(f"{m}/e", "embedding", CLIP, "float32", (4,), weights_hash="w") for m in ("video", "text")
    ]
    with ShardWriter(tmp_path / "s.h5", specs) as shard:
        for i in range(3):
            video = np.ones((1, 4), np.float32)
            shard.add(Sample(id=f"s{i}", features={"video/e": video}, times={"video/e": np.zeros(1)}))
    store = Store.open(tmp_path / "s.h5")
    with pytest.raises(BadInput, match="no direction has a query: of 3 samples have video: 3, text: 0"):
        evaluate(RetrievalTask(PlainSource(store), store, PROTOCOLS["clip"]), QUICK)


def test_spectrum_statistics_are_features(tmp_path):
    store = make_store(tmp_path / "s.h5", folds=True)
    source = PlainSource(store, ("audio/logmel",))
    x, of = source.windows(store, np.arange(24), "audio", 4)
    spectrum = store.read("audio/logmel", 7)
    assert x[7] == pytest.approx(np.r_[spectrum.mean(0), spectrum.std(0)], rel=1e-5)
    assert of.tolist() == list(range(24))
    probe = PROBES["logistic"].model_copy(update={"c": (1.0,)})
    result, _ = evaluate(ProbeTask(source, store, probe), QUICK)
    assert result.metrics["audio/top-1"]["value"] == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [(("video/frames",), "embeddings or log-mel are needed"), (("video/none",), "has video/frames")],
)
def test_what_cannot_serve_is_said(keys, message, small_store):
    with pytest.raises(BadInput, match=message):
        PlainSource(small_store, keys).modalities(small_store)


def test_retrieval_needs_two_modalities_of_one_encoder(small_store):
    with pytest.raises(BadInput, match=r"audio/logmel \(logmel\)"):
        evaluate(RetrievalTask(PlainSource(small_store), small_store, PROTOCOLS["clip"]), QUICK)


def test_untrained_weights_depend_on_their_seed_alone(small_store, small_run, tmp_path):
    loaded = load_model(small_run)
    one, again, other = untrained(loaded, 1), untrained(loaded, 1), untrained(loaded, 2)
    assert one.weights_hash == again.weights_hash != other.weights_hash
    assert loaded.weights_hash not in (one.weights_hash, other.weights_hash)
    same = make_run(tmp_path / "elsewhere", small_store, seed=5)
    assert untrained(load_model(same), 1).weights_hash == one.weights_hash
    x, _ = RunSource(one).windows(small_store, np.arange(4), "video", 1)
    y, _ = RunSource(other).windows(small_store, np.arange(4), "video", 1)
    assert not np.allclose(x, y)


def test_untrained_weights_see_the_inputs_as_the_run_does(small_store, small_run):
    """Standardised inputs are no training: without them the baseline would be held down."""
    loaded = load_model(small_run)
    for name, buffer in loaded.model.named_buffers():
        if ".standardise." in name:
            buffer.fill_(0.25)
    fresh = dict(untrained(loaded, 1).model.named_buffers())
    statistics = [x for name, x in fresh.items() if ".standardise." in name]
    assert len(statistics) == 4
    assert all((x == 0.25).all() for x in statistics)
