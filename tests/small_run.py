"""A small store and a short real run on it, for tests of what surrounds them."""

from pathlib import Path

import numpy as np

from harmonize_cli.config import validate
from harmonize_cli.curriculum.ledger import Ledger
from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.store.schema import FeatureSpec, Sample
from harmonize_cli.store.writer import ShardWriter
from harmonize_cli.training.config import PretrainConfig

FEATURES = [
    FeatureSpec("video/frames", "frames", "raw", "uint8", (8, 8, 1), rate=5.0, regular=True),
    FeatureSpec("audio/logmel", "logmel", "logmel", "float32", (8,), rate=20.0, regular=True),
    FeatureSpec("text/tokens", "tokens", "tokens", "int32", (4,), params={"vocab_size": 40, "pad_id": 0}),
]
SETTINGS = {
    "model": {"preset": "tiny", "layers": 1, "width": 16, "heads": 1, "feedforward": 16, "word_dim": 8},
    "batch": 8,
    "steps": 6,
    "log_every": 1,
    "device": "cpu",
    "checkpoint": {"every": 3},
    "validation": {"every": 3},
}


def small_store(path: Path, samples: int = 40) -> Path:
    """Samples of four classes; three quarters to train on, the rest splits val and test."""
    rng = np.random.default_rng(0)
    with ShardWriter(path, FEATURES, vocab=["<pad>", "<unk>", *(f"w{i}" for i in range(38))]) as shard:
        for i in range(samples):
            words = np.zeros((1, 4), np.int32)
            words[:, :2] = 2 + i % 4, 10 + i % 20
            shard.add(
                Sample(
                    id=f"s{i:03d}",
                    group=f"g{i // 2}",
                    split={6: "val", 7: "test"}.get(i % 8, "train"),
                    labels=(f"class {i % 4}",),
                    texts=(f"w{i % 4}",),
                    source=f"v{i // 2}.mp4",
                    features={
                        "video/frames": rng.integers(0, 256, (4, 8, 8, 1)).astype(np.uint8),
                        "audio/logmel": rng.normal(i % 4, 1, (16, 8)).astype(np.float32),
                        "text/tokens": words,
                    },
                    times={"video/frames": 0.0, "audio/logmel": 0.0},
                )
            )
    return path


def small_run(run: Path, store: Path, **changes: object) -> Path:
    """A pre-training of six steps with its ledger."""
    settings = validate(PretrainConfig, {**SETTINGS, **changes}, source="test")
    pretrain(store, run, settings, recorders=[Ledger(run)])
    return run
