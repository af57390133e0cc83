"""Six directions on one pool."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small_world import retrieve

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.embed import Embedded, unit
from harmonize_cli.evaluation.protocols import PROTOCOLS, adjusted
from harmonize_cli.evaluation.results import read_result
from harmonize_cli.evaluation.retrieval import DIRECTIONS, RetrievalTask
from harmonize_cli.evaluation.sources import RunSource
from harmonize_cli.evaluation.tables import summary
from harmonize_cli.evaluation.task import Options, evaluate
from harmonize_cli.models.checkpoint import load_model

VATT = PROTOCOLS["vatt"]
QUICK = Options(draws=50)


def pool_of(n=40, d=16, *, noise=0.0, seed=0, present=None, texts=None):
    """All modalities carry the same vector, up to noise and length."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))

    def view():
        return ((x + noise * rng.normal(size=x.shape)) * rng.uniform(0.5, 2, (n, 1))).astype(np.float32)

    has = {m: np.ones(n, bool) for m in ("video", "audio", "text")} | (present or {})
    caption_of = np.flatnonzero(has["text"])
    return Embedded(
        [f"s{i}" for i in range(n)],
        texts or [(f"text {i}",) for i in range(n)],
        has,
        {space: view() for space in ("video_va", "video_vt", "audio_va", "audio_vt")},
        view()[caption_of],
        caption_of,
    )


def test_same_vectors_are_found_in_all_six_directions():
    outcome = retrieve(pool_of(), VATT, draws=50)
    assert set(outcome.pools) == {d.name for d in DIRECTIONS}
    assert len(outcome.pools) == 6
    for direction in DIRECTIONS:
        assert outcome.metrics[f"{direction.name}/R@1"].value == 1
        assert outcome.chance[f"{direction.name}/R@1"] == 1 / 40


def test_lengths_matter_for_mil_nce_and_not_for_vatt():
    noisy = pool_of(n=200, noise=0.8)
    stretched = Embedded(
        noisy.ids,
        noisy.texts,
        noisy.present,
        {k: v * np.linspace(0.1, 10, 200, dtype=np.float32)[:, None] for k, v in noisy.vectors.items()},
        noisy.captions,
        noisy.caption_of,
    )

    def mean_rank(pool, name):
        return retrieve(pool, PROTOCOLS[name], draws=50).metrics["text-to-video/MeanR"].value

    assert mean_rank(noisy, "vatt") == pytest.approx(mean_rank(stretched, "vatt"))
    assert mean_rank(noisy, "mil-nce") != pytest.approx(mean_rank(stretched, "mil-nce"))


def test_complete_pool_is_one_pool_and_all_is_every_sample_with_what_it_takes():
    audio = np.ones(40, bool)
    audio[:10] = False
    pool = pool_of(present={"audio": audio})
    complete = retrieve(pool, VATT, draws=50)
    assert {(p["queries"], p["gallery"]) for p in complete.pools.values()} == {(30, 30)}
    everything = retrieve(pool, VATT.model_copy(update={"pool": "all"}), draws=50)
    assert everything.pools["text-to-video"] == {"queries": 40, "gallery": 40}
    assert everything.pools["audio-to-video"] == {"queries": 30, "gallery": 40}
    assert everything.pools["video-to-audio"] == {"queries": 30, "gallery": 30}


def test_a_sample_without_sound_is_no_distractor_among_sounds():
    """Its audio vector would win everything if it were let in."""
    pool = pool_of()
    pool.present["audio"][0] = False
    pool.vectors["audio_va"][0] = unit(pool.vectors["video_va"]).mean(0)
    loud = {k: (np.nan_to_num(v) if k != "audio_va" else v) for k, v in pool.vectors.items()}
    loud["audio_va"][0] = np.nan  # and a NaN in a masked row is nobody's business
    outcome = retrieve(
        Embedded(pool.ids, pool.texts, pool.present, loud, pool.captions, pool.caption_of), VATT, draws=50
    )
    assert outcome.metrics["video-to-audio/R@1"].value == 1
    assert "s0" not in outcome.queries["video-to-audio/id"]


def test_repeated_captions_share_the_rank_or_are_all_right():
    texts = [("the same",)] * 4 + [(f"text {i}",) for i in range(36)]
    pool = pool_of(texts=texts)
    pool.captions[:4] = pool.captions[0]
    distinct = retrieve(pool, VATT, draws=50)
    assert distinct.queries["video-to-text/rank"][0] == 2.5
    shared = retrieve(pool, VATT.model_copy(update={"same_text": "shared"}), draws=50)
    assert shared.queries["video-to-text/rank"][0] == 1
    assert shared.queries["video-to-text/ap"][0] == pytest.approx(1)
    assert "video-to-text/R@1" not in shared.chance  # several positives: no closed form is claimed
    assert shared.metrics["video-to-audio/R@1"] == distinct.metrics["video-to-audio/R@1"]


def test_unpaired_noise_is_chance_in_every_direction():
    rng = np.random.default_rng(3)
    pool = pool_of(n=400)
    scrambled = {k: v[rng.permutation(400)] for k, v in pool.vectors.items()}
    outcome = retrieve(
        Embedded(pool.ids, pool.texts, pool.present, scrambled, pool.captions, pool.caption_of),
        VATT,
        draws=200,
    )
    for direction in DIRECTIONS:
        interval = outcome.metrics[f"{direction.name}/MeanR"]
        assert interval.low - 15 < outcome.chance[f"{direction.name}/MeanR"] < interval.high + 15


def test_nothing_to_ask_names_the_counts():
    empty = pool_of(n=4, present={"audio": np.zeros(4, bool)})
    with pytest.raises(BadInput, match=r"video: 4, audio: 0.*pool=all"):
        retrieve(empty, VATT)


def test_a_store_and_a_run_end_in_a_result_file(small_store, small_run):
    result, path = evaluate(RetrievalTask(RunSource(load_model(small_run)), small_store, VATT), QUICK)
    assert path.parent == small_run / "eval"
    assert read_result(path) == result
    assert (result.split, result.coverage["expected"], result.coverage["present"]) == ("test", 12, 11)
    assert result.coverage["modalities"]["audio"]["silent"] == 1
    assert result.coverage["pools"]["audio-to-text"] == {"queries": 11, "gallery": 11}
    assert result.model == {"run": "run", "step": 1, "seed": 0, "harmonize": {"mode": "none"}}
    assert len(result.metrics) == 6 * 8
    for name, values in result.metrics.items():
        assert values["low"] <= values["value"] <= values["high"], name
    with np.load(path.parent / result.queries["file"]) as queries:
        hits = queries["text-to-video/rank"] <= 5
        assert hits.mean() == result.metrics["text-to-video/R@5"]["value"]
        assert queries["text-to-video/id"][0] == "s012"


def test_again_is_the_same_file_and_another_result_is_not_overwritten(small_store, small_run, tmp_path):
    loaded = load_model(small_run)
    out = tmp_path / "mine.json"
    first, _ = evaluate(RetrievalTask(RunSource(loaded), small_store, VATT), Options(draws=50, out=out))
    before = out.stat().st_mtime_ns
    again, _ = evaluate(RetrievalTask(RunSource(loaded), small_store, VATT), Options(draws=50, out=out))
    assert (again, out.stat().st_mtime_ns) == (first, before)
    with pytest.raises(BadInput, match="--overwrite"):
        evaluate(
            RetrievalTask(RunSource(loaded), small_store, VATT, split="train"), Options(draws=50, out=out)
        )
    assert json.loads(out.read_text())["split"] == "test"
    evaluate(
        RetrievalTask(RunSource(loaded), small_store, VATT, split="train"),
        Options(draws=50, out=out, overwrite=True),
    )
    assert json.loads(out.read_text())["split"] == "train"


def test_unknown_split_names_the_known_ones(small_store, small_run):
    with pytest.raises(BadInput, match="the store has test, train"):
        evaluate(RetrievalTask(RunSource(load_model(small_run)), small_store, VATT, split="valid"))


def test_groups_are_resampled_whole_on_request(small_store, small_run):
    loaded = load_model(small_run)
    single, _ = evaluate(RetrievalTask(RunSource(loaded), small_store, VATT), QUICK)
    grouped, path = evaluate(
        RetrievalTask(RunSource(loaded), small_store, VATT), Options(draws=50, clusters=True)
    )
    assert grouped.metrics["text-to-video/MeanR"]["value"] == single.metrics["text-to-video/MeanR"]["value"]
    assert grouped.metrics != single.metrics
    assert grouped.protocol["interval"]["clusters"]
    assert path.name != single.name


def test_a_list_makes_another_question(small_store, small_run):
    """The result without a list is there already, under the same split: it must not be taken for this one."""
    source = RunSource(load_model(small_run))
    plain, _ = evaluate(RetrievalTask(source, small_store, VATT), QUICK)
    listed, _ = evaluate(RetrievalTask(source, small_store, VATT, expected=["s012", "s013", "s015"]), QUICK)
    assert listed.coverage["pools"]["text-to-video"] == {"queries": 3, "gallery": 3}
    assert listed.name != plain.name
    with pytest.raises(
        BadInput, match="none of the 1 ids of the list is in the store; ids there look like 'x'"
    ):
        evaluate(RetrievalTask(source, small_store, VATT, expected=["x"]), QUICK)


def test_settings_change_the_name_of_the_protocol():
    assert adjusted(PROTOCOLS, "vatt") is VATT
    changed = adjusted(PROTOCOLS, "mil-nce", None, ["windows=10"])
    assert (changed.name, changed.windows, changed.pooling) == ("mil-nce-modified", 10, "mean-raw")
    with pytest.raises(BadInput, match="unknown key"):
        adjusted(PROTOCOLS, "vatt", None, ["window=10"])
    with pytest.raises(BadInput, match="known are vatt, mil-nce"):
        adjusted(PROTOCOLS, "blip")


def test_shared_captions_are_counted_and_said(small_store, small_run):
    pool = pool_of(texts=[(f"text {i % 4}",) for i in range(40)])
    assert retrieve(pool, VATT).captions == {"count": 40, "distinct": 4}
    assert retrieve(pool_of(), VATT).captions == {"count": 40, "distinct": 40}
    result, path = evaluate(RetrievalTask(RunSource(load_model(small_run)), small_store, VATT), QUICK)
    assert result.coverage["captions"] == {"count": 12, "distinct": 12}
    assert not result.notes
    said = replace(result, notes=["4 of 40 captions are distinct"])
    assert "note: 4 of 40 captions are distinct" in summary(said, path)


def test_class_level_retrieval_takes_a_whole_class_as_right():
    """Clips of four classes lie at four places: pairs are beyond finding, classes are not."""
    pool = pool_of(d=4)
    kinds = np.arange(40) % 4
    spaces = {name: np.eye(4, dtype=np.float32)[kinds] for name in pool.vectors}
    texts = [(f"class {k}",) for k in kinds]
    pool = replace(pool, vectors=spaces, captions=np.eye(4, dtype=np.float32)[kinds], texts=texts)
    pairs = retrieve(pool, VATT)
    assert pairs.metrics["text-to-video/R@1"].value == 0
    by_class = retrieve(
        replace(pool, classes=[f"class {k}" for k in kinds]),
        adjusted(PROTOCOLS, "vatt", None, ["relevance=label"]),
    )
    assert {name.split("/")[1] for name in by_class.metrics} == {"mAP", "P@1", "P@5", "P@10"}
    for name, interval in by_class.metrics.items():
        assert interval.value == pytest.approx(1), name
    assert by_class.chance["text-to-video/P@5"] == 0.25


def test_class_level_retrieval_of_a_store_is_another_question(small_store, small_run):
    source = RunSource(load_model(small_run))
    protocol = adjusted(PROTOCOLS, "vatt", None, ["relevance=label"])
    plain, _ = evaluate(RetrievalTask(source, small_store, VATT), QUICK)
    result, _ = evaluate(RetrievalTask(source, small_store, protocol), QUICK)
    assert "relevance" not in plain.protocol
    assert (result.protocol["relevance"], result.protocol["label"]) == ("label", 0)
    assert result.chance["text-to-video/P@1"] == pytest.approx(1 / 3, abs=0.05)
    assert plain.name != result.name
    with pytest.raises(BadInput, match="at most 2 label"):
        evaluate(
            RetrievalTask(
                source, small_store, adjusted(PROTOCOLS, "vatt", None, ["relevance=label", "label=4"])
            )
        )
