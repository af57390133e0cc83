"""Embedding a store: windows, captions, masks, and a cache that can't serve stale features."""

import numpy as np
import pytest
import torch
from small_world import make_run, make_store

from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.evaluation import embed
from harmonize_cli.evaluation.protocols import PROTOCOLS
from harmonize_cli.models.checkpoint import load_model

VATT = PROTOCOLS["vatt"]


def test_equals_one_forward_pass_by_hand(small_store, small_run):
    loaded = load_model(small_run)
    rows = np.array([0, 5, 2])
    pool = embed.embed_pool(loaded, small_store, rows, VATT, batch_size=2, cache=False)
    batch = StoreDataset(small_store, loaded.specs).batch(rows.tolist())
    with torch.inference_mode():
        out = loaded.model(batch.inputs).embeddings
    for space in ("video_va", "video_vt", "audio_va", "audio_vt"):
        assert pool.vectors[space] == pytest.approx(out[space].numpy(), abs=1e-5)
    assert pool.captions == pytest.approx(out["text_vt"][:, 0].numpy(), abs=1e-5)
    assert pool.caption_of.tolist() == [0, 1, 2]
    assert pool.ids == ["s000", "s005", "s002"]


def test_batch_size_changes_nothing(small_store, small_run):
    loaded, rows = load_model(small_run), np.arange(24)
    one = embed.embed_pool(loaded, small_store, rows, VATT, batch_size=1, cache=False)
    many = embed.embed_pool(loaded, small_store, rows, VATT, batch_size=24, cache=False)
    for space, x in one.vectors.items():
        assert many.vectors[space] == pytest.approx(x, abs=1e-5)


def test_windows_of_a_long_clip_are_averaged_raw_or_as_unit_vectors(small_store, small_run):
    loaded, rows = load_model(small_run), np.array([13])
    dataset = StoreDataset(small_store, loaded.specs)
    each = []
    for position in (0, 1 / 3, 2 / 3, 1):
        dataset.position = position
        with torch.inference_mode():
            each.append(loaded.model(dataset.batch([13]).inputs).embeddings["video_va"].numpy())
    assert not np.allclose(each[0], each[3])
    pool = embed.embed_pool(loaded, small_store, rows, VATT, cache=False)
    assert pool.vectors["video_va"] == pytest.approx(np.mean(each, 0), abs=1e-5)
    unit = VATT.model_copy(update={"pooling": "mean-of-similarities"})
    pool = embed.embed_pool(loaded, small_store, rows, unit, cache=False)
    expected = np.mean([x / np.linalg.norm(x) for x in each], 0)
    assert pool.vectors["video_va"] == pytest.approx(expected, abs=1e-5)


def test_a_silent_clip_has_no_audio(small_store, small_run):
    loaded = load_model(small_run)
    pool = embed.embed_pool(loaded, small_store, np.arange(12, 24), VATT, cache=False)
    assert np.flatnonzero(~pool.present["audio"]).tolist() == [2]
    assert pool.present["video"].all()
    _, of = embed.window_features(loaded, small_store, np.arange(12, 24), "audio", windows=1, cache=False)
    assert 14 not in of


@pytest.mark.parametrize(("policy", "rows"), [("first", 3), ("all", 6), ("mean", 3)])
def test_captions_policies(policy, rows, small_store, small_run):
    loaded = load_model(small_run)
    protocol = VATT.model_copy(update={"captions": policy})
    pool = embed.embed_pool(loaded, small_store, np.arange(3), protocol, cache=False)
    assert len(pool.captions) == rows
    both = VATT.model_copy(update={"captions": "all"})
    both = embed.embed_pool(loaded, small_store, np.arange(3), both, cache=False).captions.reshape(3, 2, -1)
    expected = {"first": both[:, 0], "all": both.reshape(6, -1), "mean": both.mean(1)}[policy]
    assert pool.captions == pytest.approx(expected, abs=1e-6)


def test_text_truncation(small_store, small_run):
    loaded = load_model(small_run)
    second = VATT.model_copy(update={"captions": "all", "text_words": 3})
    x = embed.embed_pool(loaded, small_store, np.arange(1), second, cache=False).captions
    assert x[0] == pytest.approx(x[1], abs=1e-6)  # the captions differ in their fourth word


def test_features_have_one_row_per_window(small_store, small_run):
    loaded = load_model(small_run)
    x, of = embed.window_features(loaded, small_store, np.array([0, 13]), "video", windows=3, cache=False)
    assert of.tolist() == [0, 13, 13, 13]  # no longer than a window: one
    assert x.shape == (4, 16)
    alone, of = embed.window_features(
        loaded, small_store, np.array([0, 13]), "video", windows=3, batch_size=1, cache=False
    )
    assert of.tolist() == [0, 13, 13, 13]  # whoever stands beside it
    assert alone == pytest.approx(x, abs=1e-5)


def test_a_changed_checkpoint_under_the_same_name_never_serves_stale_features(
    tmp_path, small_store, small_run
):
    rows = np.arange(24)
    before = embed.embed_pool(load_model(small_run), small_store, rows, VATT)
    make_run(small_run, small_store, seed=1)  # the same folder, step and names
    after = embed.embed_pool(load_model(small_run), small_store, rows, VATT)
    fresh = embed.embed_pool(load_model(small_run), small_store, rows, VATT, cache=False)
    assert not np.allclose(before.vectors["video_va"], after.vectors["video_va"])
    assert after.vectors["video_va"].tolist() == fresh.vectors["video_va"].tolist()


def test_another_store_or_other_settings_never_serve_stale_features(tmp_path, small_store, small_run):
    loaded, rows = load_model(small_run), np.arange(24)
    first = embed.embed_pool(loaded, small_store, rows, VATT)
    other = make_store(tmp_path / "other.h5", seed=5)
    assert not np.allclose(
        first.vectors["audio_va"], embed.embed_pool(loaded, other, rows, VATT).vectors["audio_va"]
    )
    one = VATT.model_copy(update={"windows": 1})
    again = embed.embed_pool(loaded, small_store, rows, one)
    assert not np.allclose(first.vectors["video_va"][13], again.vectors["video_va"][13])


def test_second_time_comes_from_the_cache(small_store, small_run, monkeypatch):
    loaded, rows = load_model(small_run), np.arange(24)
    first = embed.embed_pool(loaded, small_store, rows, VATT)
    monkeypatch.setattr(embed, "_embed", None)
    again = embed.embed_pool(loaded, small_store, rows, VATT)
    assert again.vectors["video_va"].tolist() == first.vectors["video_va"].tolist()


def test_after_a_kill_only_missing_or_damaged_parts_are_computed(tmp_path):
    seen = []

    def compute(rows, die_at=None):
        if die_at in rows:
            raise KeyboardInterrupt
        seen.append(rows.tolist())
        return {"x": rows * 2.0}

    def run(die_at=None):
        return embed.in_parts(
            np.arange(10), lambda r: compute(r, die_at), folder=tmp_path, key={"k": 1}, size=4, desc="test"
        )

    with pytest.raises(KeyboardInterrupt):
        run(die_at=9)
    assert run()["x"].tolist() == [2.0 * i for i in range(10)]
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    next(tmp_path.glob("*/part-00001.npz")).write_bytes(b"PK torn")
    seen.clear()
    assert run()["x"].tolist() == [2.0 * i for i in range(10)]
    assert seen == [[4, 5, 6, 7]]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_that_cannot_be_written_costs_the_cache_only(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(embed, "write_arrays", refuse)
    got = embed.in_parts(np.arange(5), lambda r: {"x": r}, folder=tmp_path, key={}, size=2, desc="test")
    assert got["x"].tolist() == [0, 1, 2, 3, 4]
