"""Batches cut from a store: windows, masks, randomness, cache, workers' pickling."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harmonize_cli.data.batches import Draw, StoreDataset
from harmonize_cli.data.windows import InputsConfig, check_inputs, cut, resolve_inputs
from harmonize_cli.errors import BadInput
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec, Sample
from harmonize_cli.store.writer import ShardWriter


@pytest.fixture
def ramp(tmp_path: Path) -> Store:
    """Samples of 4, 10 and 7 rows whose value is the row's number."""
    specs = [
        FeatureSpec("video/clip", "embedding", "raw", "float32", (2,), rate=2.0, regular=True),
        FeatureSpec("audio/waveform", "waveform", "waveform", "int16", (), rate=10.0, regular=True),
        FeatureSpec("video/frames", "frames", "raw", "uint8", (4, 4, 1), rate=2.0, regular=True),
    ]
    with ShardWriter(tmp_path / "ramp.h5", specs) as writer:
        for n in (4, 10, 7):
            rows = np.arange(n)
            writer.add(
                Sample(
                    id=f"s{n}",
                    features={
                        "video/clip": np.stack([rows, rows], 1).astype(np.float32),
                        "audio/waveform": (rows * 1000).astype(np.int16),
                        "video/frames": np.tile(rows[:, None, None, None], (1, 4, 4, 1)).astype(np.uint8),
                    },
                    times={"video/clip": 0.0, "audio/waveform": 0.0, "video/frames": 0.0},
                )
            )
    return Store.open(tmp_path / "ramp.h5")


def specs_of(store, **config):
    return resolve_inputs(store, InputsConfig.model_validate(config))


def test_windows_lie_where_asked_and_short_samples_are_filled(ramp):
    specs = specs_of(ramp, video={"key": "video/clip", "rows": 3, "stride": 2}, audio={"rows": 6})
    video, audio = specs["video"], specs["audio"]
    assert [cut(ramp, video, 1, p)[0][:, 0].tolist() for p in (0, 0.5, 1)] == [
        [0, 2, 4],
        [2, 4, 6],
        [5, 7, 9],
    ]
    rows, real = cut(ramp, video, 0, 1.0)
    assert (rows[:, 0].tolist(), real) == ([0, 2, 0], 2)
    rows, real = cut(ramp, audio, 0, 0.3)
    np.testing.assert_allclose(rows, np.array([0, 1000, 2000, 3000, 0, 0]) / 32768)
    frames = specs_of(ramp, video={"key": "video/frames", "rows": 6})["video"]
    rows, real = cut(ramp, frames, 0, 0.0)
    assert (rows[:, 0, 0, 0].tolist(), real) == ([0, 1, 2, 3, 3, 3], 4)


def test_defaults_follow_from_the_store(ramp, store_path):
    assert specs_of(ramp, video={"key": "video/clip"})["video"].rows == 7
    store = Store.open(store_path)
    specs = specs_of(store)
    assert (specs["text"].rows, specs["text"].candidates, specs["text"].vocabulary) == (5, 2, 40)
    assert specs["audio"].row_shape == (8,)
    assert "audio" not in specs_of(store, audio={"use": False})


def test_ambiguous_and_unknown_features_are_named(ramp):
    with pytest.raises(BadInput, match=r"2 features of this modality \(video/clip, video/frames\)"):
        specs_of(ramp)
    with pytest.raises(BadInput, match="no feature 'video/x'"):
        specs_of(ramp, video={"key": "video/x"})


def test_a_run_refuses_another_stores_features(ramp, store_path):
    specs = specs_of(Store.open(store_path))
    with pytest.raises(BadInput, match=r"video/frames: row shape is \(4, 4, 1\), the run was trained with"):
        check_inputs(ramp, specs)
    with pytest.raises(BadInput, match="the run reads text/tokens"):
        check_inputs(ramp, {"text": specs["text"]})
    assert check_inputs(Store.open(store_path), specs) == specs


def test_missing_modalities_are_masked(store_path):
    store = Store.open(store_path)
    dataset = StoreDataset(store, specs_of(store))
    batch = dataset.batch(list(range(20)))
    for i, (audio, text) in enumerate(zip(batch.present["audio"], batch.present["text"], strict=True)):
        assert bool(audio) == (i % 7 != 3)
        assert bool(text) == (i % 9 != 4)
        count = 0 if i % 9 == 4 else 2 if i % 2 else 1
        assert int(batch.text_present[i].sum()) == count
    assert not batch.inputs["audio"][3].any()
    assert batch.ids[5] == "clip005"
    # text is trimmed to the longest caption of the batch
    assert batch.inputs["text"].shape == (20, 2, 3)
    # equal captions and groups have equal numbers, others differ
    assert batch.texts[1, 1] == batch.texts[17, 1] != batch.texts[3, 1]
    assert batch.groups[0] == batch.groups[2] != batch.groups[3]


def test_draws_depend_on_seed_epoch_and_id_alone(store_path):
    store = Store.open(store_path)
    specs = specs_of(store, video={"rows": 3}, audio={"rows": 5})

    def noise(_kind, rows, rng):
        return rows + rng.random(rows.shape).astype(rows.dtype) if rows.dtype != np.uint8 else rows

    def read(seed, epoch, order):
        dataset = StoreDataset(store, specs, seed=seed, augment=noise, cache_bytes=10**6)
        items = {i: dataset[Draw(i, epoch)] for i in order}
        return np.concatenate([items[i].arrays["audio"].ravel() for i in sorted(items)])

    same = read(1, 2, [0, 5, 9])
    assert (same == read(1, 2, [9, 0, 5])).all()
    assert (same != read(1, 3, [0, 5, 9])).any()
    assert (same != read(2, 2, [0, 5, 9])).any()


def test_the_cache_changes_nothing_and_the_dataset_survives_pickling(store_path):
    store = Store.open(store_path)
    specs = specs_of(store, audio={"rows": 5})
    plain = StoreDataset(store, specs).batch(list(range(8)))
    cached = StoreDataset(store, specs, cache_bytes=10**7)
    cached.batch(list(range(8)))
    copy = pickle.loads(pickle.dumps(cached))
    for batch in (cached.batch(list(range(8))), copy.batch(list(range(8)))):
        for name, tensor in plain.inputs.items():
            assert torch.equal(tensor, batch.inputs[name])


def test_a_sample_that_does_not_fit_the_cache_is_read_no_further_than_its_window(ramp):
    read = []

    class Counting(Store):
        def read(self, key, i):
            read.append(i)
            return super().read(key, i)

    store = Counting.open(ramp.path)
    specs = specs_of(store, video={"key": "video/clip", "rows": 3}, audio={"use": False})
    # rows of 8 bytes: samples 0 (4 rows) and 2 (7) fit together, 1 (10) does not beside them
    dataset = StoreDataset(store, specs, cache_bytes=100)
    for _ in range(2):
        assert dataset.batch([0, 2, 1]).inputs["video"].shape == (3, 3, 2)
    assert read == [0, 2]


def test_a_store_of_shorter_captions_can_be_read(tmp_path):
    """A run's captions have five words here; another store's have three, and one sample has none at all."""
    spec = FeatureSpec("text/tokens", "tokens", "raw", "int32", (3,), params={"vocab_size": 9})
    with ShardWriter(tmp_path / "s.h5", [spec]) as writer:
        writer.add(Sample(id="a", features={spec.key: np.array([[4, 5, 0]], np.int32)}))
        writer.add(Sample(id="b"))
    store = Store.open(tmp_path / "s.h5")
    wider = replace(specs_of(store)["text"], rows=5, candidates=2)
    batch = StoreDataset(store, check_inputs(store, {"text": wider})).batch([0, 1])
    assert batch.inputs["text"].tolist() == [[[4, 5], [0, 0]], [[0, 0], [0, 0]]]
    assert batch.text_present.tolist() == [[True, False], [False, False]]


def test_batches_iterates_everything_in_order(store_path):
    store = Store.open(store_path)
    dataset = StoreDataset(store, specs_of(store))
    ids = [i for batch in dataset.batches(np.arange(10), 4) for i in batch.ids]
    assert ids == store.ids[:10]
