"""A small learnable store: sixteen classes that picture, sound and words agree on."""

from pathlib import Path

import numpy as np
import pytest

from harmonize_cli.store.schema import FeatureSpec, Sample, Status
from harmonize_cli.store.writer import ShardWriter

CLASSES = 16
FEATURES = [
    FeatureSpec("video/frames", "frames", "raw", "uint8", (16, 16, 1), rate=8.0, regular=True),
    FeatureSpec("audio/logmel", "logmel", "logmel", "float16", (8,), rate=25.0, regular=True),
    FeatureSpec("text/tokens", "tokens", "tokens", "int32", (5,), params={"vocab_size": 40, "pad_id": 0}),
]


def make_sample(i: int, rng: np.random.Generator, *, bare: bool) -> Sample:
    """Sample i of class i % 16; a bare one may lack its sound or its text."""
    k = i % CLASSES
    frames = rng.integers(0, 80, (int(rng.integers(6, 9)), 16, 16, 1))
    frames[:, 4 * (k // 4) : 4 * (k // 4) + 4, 4 * (k % 4) : 4 * (k % 4) + 4] += 150
    mel = rng.normal(0, 0.3, (20, 8))
    mel[:, k % 8] += 2 + 2 * (k // 8)
    words = np.array([[2 + k, 20 + k // 4, int(rng.integers(30, 38)), 0, 0]], np.int32)
    if i % 2:
        words = np.concatenate([words, [[2 + k, 0, 0, 0, 0]]]).astype(np.int32)
    features = {
        "video/frames": frames.astype(np.uint8),
        "audio/logmel": mel.astype(np.float16),
        "text/tokens": words,
    }
    status = {}
    if bare and i % 7 == 3:
        del features["audio/logmel"]
        status["audio"] = Status.MISSING
    if bare and i % 9 == 4:
        del features["text/tokens"]
        status["text"] = Status.MISSING
    return Sample(
        id=f"clip{i:03d}",
        group=f"video{i // 3}",
        split="test" if (i + i // CLASSES) % 4 == 3 else "train",
        labels=(str(k),),
        texts=tuple(f"word {k}" for _ in features.get("text/tokens", ())),
        features=features,
        times={"video/frames": 0.0, "audio/logmel": 0.0},
        status=status,
    )


def make_store(
    path: Path, samples: int = 96, *, bare: bool = True, features: list[str] | None = None
) -> Path:
    """Write the store; `features` keeps only some of them."""
    rng = np.random.default_rng(0)
    specs = [spec for spec in FEATURES if features is None or spec.key in features]
    keys = {spec.key for spec in specs}
    vocab = ["<pad>", "<unk>", *(f"w{n}" for n in range(2, 40))]
    with ShardWriter(path, specs, attrs={}, vocab=vocab) as writer:
        for i in range(samples):
            sample = make_sample(i, rng, bare=bare)
            sample.features = {k: v for k, v in sample.features.items() if k in keys}
            sample.times = {k: v for k, v in sample.times.items() if k in sample.features}
            writer.add(sample)
    return path


@pytest.fixture(scope="session")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 samples (72 to train on), some without sound or text."""
    return make_store(tmp_path_factory.mktemp("store") / "store.h5")


@pytest.fixture(scope="session")
def other_store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same but for some samples."""
    return make_store(tmp_path_factory.mktemp("store") / "other.h5", samples=90)
