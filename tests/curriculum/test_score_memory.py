"""Scoring keeps little of a sample: numbers and the letters of its id, no objects."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from planted import train

from harmonize_cli.curriculum.score import ScoreSettings, score
from harmonize_cli.curriculum.scores import draw_histograms
from harmonize_cli.store.schema import FeatureSpec, Sample
from harmonize_cli.store.writer import ShardWriter

FEATURES = [
    FeatureSpec("video/vector", "embedding", "made", "float16", (8,), rate=1.0, regular=True),
    FeatureSpec("text/vector", "embedding", "made", "float16", (8,)),
]


def _store(path: Path, samples: int) -> Path:
    vectors = np.random.default_rng(0).normal(size=(samples, 2, 1, 8)).astype(np.float16)
    with ShardWriter(path, FEATURES) as shard:
        for i, (video, text) in enumerate(vectors):
            name = f"video{i // 10:06d}"
            features = {"video/vector": video, "text/vector": text}
            times = {"video/vector": 0.0}
            shard.add(Sample(id=f"{name}_{i:06d}", group=name, split="train", features=features, times=times))
    return path


def _peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_scoring_takes_some_bytes_a_sample(tmp_path: Path) -> None:
    few, many = 3000, 9000
    small = _store(tmp_path / "few.h5", few)
    run = train(small, tmp_path / "run", steps=1)
    settings = ScoreSettings(split="train", batch=256, part=512, indicators=("loss_vt", "similarity_vt"))
    peaks = {}
    for name, store in {"warm-up": small, "few": small, "many": _store(tmp_path / "many.h5", many)}.items():
        out = tmp_path / name
        scoring = _peak(lambda store=store, out=out: score(run, store, out, settings))
        drawing = _peak(lambda out=out: draw_histograms(out, out / "histogram.png"))
        peaks[name] = np.array([scoring, drawing])
    per_sample = (peaks["many"] - peaks["few"]) / (many - few)
    assert (per_sample < 200).all(), f"bytes a sample, scoring and drawing: {per_sample}"
