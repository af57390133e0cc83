"""Any store whose features are sequences: grids of vectors a frame, a sequence of vectors a caption."""

import runpy

import numpy as np
import pytest
import torch

from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.errors import BadInput
from harmonize_cli.models.checkpoint import load_model
from harmonize_cli.models.export import export_encoder
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec, Sample, Status
from harmonize_cli.store.writer import ShardWriter
from harmonize_cli.training.config import PretrainConfig


def make_store(path, text_shape):
    specs = [
        FeatureSpec("video/grid", "embedding", "cnn", "float16", (2, 3, 5), rate=2.0, regular=True),
        FeatureSpec("audio/speech", "embedding", "wav2vec", "float32", (6,), rate=5.0, regular=True),
        FeatureSpec("text/words", "embedding", "bert", "float16", text_shape),
    ]
    rng = np.random.default_rng(0)
    with ShardWriter(path, specs) as writer:
        for i in range(24):
            n = int(rng.integers(3, 9))
            features = {
                "video/grid": rng.normal(size=(n, 2, 3, 5)).astype(np.float16),
                "audio/speech": rng.normal(size=(2 * n, 6)).astype(np.float32),
                "text/words": rng.normal(size=(1 + i % 3, *text_shape)).astype(np.float16),
            }
            sample = Sample(id=f"s{i}", features=features, times={"video/grid": 0.0, "audio/speech": 0.0})
            if i % 5 == 4:
                del features["text/words"]
                sample.status["text"] = Status.MISSING
            writer.add(sample)
    return path


def settings():
    model = {"width": 32, "heads": 2, "layers": 1}
    return PretrainConfig.model_validate(
        {"batch": 8, "steps": 2, "model": model, "harmonize": {"mode": "both"}}
    )


def test_grids_and_sequences_are_read(tmp_path):
    store = make_store(tmp_path / "s.h5", (4, 7))
    pretrain(store, tmp_path / "run", settings())
    loaded = load_model(tmp_path / "run")
    assert (loaded.specs["text"].rows, loaded.specs["text"].row_shape) == (4, (4, 7))
    inputs = StoreDataset(Store.open(store), loaded.specs).batch(range(6)).inputs
    assert inputs["text"].shape == (6, 3, 4, 7)
    with torch.no_grad():
        pooled = loaded.model.encode(inputs)
        other = inputs["text"].clone()
        other[0, 0, 3, 6] += 1  # the last number of the last vector of a caption counts
        again = loaded.model.encode({"text": other})["text"]
        grid = inputs["video"].clone()
        grid[0, 0, 1, 2, 4] += 1
        seen = loaded.model.encode({"video": grid, "video_mask": inputs["video_mask"]})["video"]
    assert pooled["text"].shape == (6, 3, 32)
    assert not torch.equal(again[0, 0], pooled["text"][0, 0])
    torch.testing.assert_close(again[1:], pooled["text"][1:])
    assert not torch.equal(seen[0], pooled["video"][0])
    export_encoder(loaded, tmp_path / "encoder", heads=False, vocab=None)
    runpy.run_path(str(tmp_path / "encoder" / "example.py"))


def test_more_than_a_sequence_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"text/words: rows of shape \(2, 3, 4\)"):
        pretrain(make_store(tmp_path / "s.h5", (2, 3, 4)), tmp_path / "run", settings())
