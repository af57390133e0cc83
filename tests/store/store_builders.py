"""Samples and stores for the store's tests."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harmonize_cli.store.schema import FeatureSpec, Sample, Status
from harmonize_cli.store.writer import ShardWriter

FRAMES = FeatureSpec("video/frames", "frames", "raw", "uint8", (4, 6, 3), rate=10.0, params={"size": 4})
WAVE = FeatureSpec("audio/waveform", "waveform", "raw", "float16", (), rate=100.0, regular=True)
TOKENS = FeatureSpec("text/tokens", "tokens", "raw", "int32", (5,), params={"vocab_size": 9, "pad_id": 0})
FEATURES = [FRAMES, WAVE, TOKENS]


def make_sample(name: str, seed: int = 0, *, rows: int = 7, **changes: Any) -> Sample:
    """A sample with all three modalities, all content from `seed`."""
    rng = np.random.default_rng(seed)
    sample = Sample(
        id=name,
        group=f"video-{seed % 3}",
        split="train" if seed % 2 else "test",
        fold=seed % 4 or None,
        labels=("dog",),
        texts=("a dog barks", "naïve"),
        source="clips/v 1.mp4",
        start=1.5,
        end=2.25,
        features={
            "video/frames": rng.integers(0, 256, (rows, 4, 6, 3), dtype=np.uint8),
            "audio/waveform": rng.normal(size=rows * 10).astype(np.float16),
            "text/tokens": rng.integers(0, 9, (2, 5), dtype=np.int32),
        },
        times={"video/frames": 1.5 + np.arange(rows) / 10, "audio/waveform": 1.5},
        facts={"drift": 0.01, "seed": seed},
    )
    for field, value in changes.items():
        setattr(sample, field, value)
    return sample


def write_shard(
    path: Path, samples: Iterable[Sample], features: Sequence[FeatureSpec] = FEATURES, **options: Any
) -> Path:
    """Write samples to one shard."""
    with ShardWriter(path, features, **options) as shard:
        for sample in samples:
            shard.add(sample)
    return path


def assert_same(found: Sample, expected: Sample) -> None:
    """Equal in every field; statuses as the writer fills them in."""
    plain = ("id", "group", "split", "fold", "labels", "texts", "source", "start", "end", "facts")
    for name in plain:
        assert getattr(found, name) == getattr(expected, name), name
    filled = {key: rows for key, rows in expected.features.items() if len(rows)}
    assert found.features.keys() == filled.keys()
    for key, rows in filled.items():
        if isinstance(rows, list):
            assert found.features[key] == rows, key
        else:  # bit by bit: NaN and -0.0 count
            assert np.asarray(found.features[key]).tobytes() == np.asarray(rows).tobytes(), key
        if key in expected.times:
            assert np.array_equal(found.times[key], expected.times[key], equal_nan=True), key
    for modality, status in found.status.items():
        has_rows = any(key.startswith(modality + "/") for key in filled)
        default = Status.OK if has_rows else Status.MISSING
        assert status == expected.status.get(modality, default)
    assert found.reason == {m: text for m, text in expected.reason.items() if text}
