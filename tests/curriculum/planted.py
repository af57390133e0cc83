"""A store whose noise is known, and a run trained on it for some seconds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harmonize_cli.curriculum.pretrain import pretrain
from harmonize_cli.models.config import ModelConfig
from harmonize_cli.store.schema import FeatureSpec, Sample, Status
from harmonize_cli.store.writer import ShardWriter
from harmonize_cli.training.config import OptimConfig, PretrainConfig


@dataclass(frozen=True)
class World:
    """store with known `marked` ids (wrong captions), and a run trained on it."""

    store: Path
    run: Path
    marked: set[str]


KINDS = 24
FEATURES = [
    FeatureSpec("video/frames", "frames", "raw", "uint8", (8, 8, 1), rate=5.0, regular=True),
    FeatureSpec("audio/logmel", "logmel", "logmel", "float32", (8,), rate=20.0, regular=True),
    FeatureSpec("text/tokens", "tokens", "tokens", "int32", (4,), params={"vocab_size": 40, "pad_id": 0}),
]


def make_store(path: Path, samples: int = 240, *, wrong: float = 0.3, lacking: bool = True) -> set[str]:
    """Samples of 24 kinds in files of 8; returns the ids whose caption names another kind.

    The last quarter is split `val` and clean. Some samples lack their sound or caption.
    """
    rng = np.random.default_rng(5)
    patterns = rng.integers(0, 200, (KINDS, 8, 8, 1))
    sounds = rng.normal(0, 1.5, (KINDS, 8))
    marked = set()
    with ShardWriter(path, FEATURES, vocab=["<pad>", "<unk>", *(f"w{i}" for i in range(2, 40))]) as shard:
        for i in range(samples):
            kind = int(rng.integers(KINDS))
            split = "train" if i < 0.75 * samples else "val"
            said = kind
            if split == "train" and rng.random() < wrong:
                said = (kind + int(rng.integers(1, KINDS))) % KINDS
                marked.add(f"s{i:04d}")
            frames = np.clip(patterns[kind] + rng.normal(0, 20, (4, 8, 8, 1)), 0, 255).astype(np.uint8)
            sound = (sounds[kind] + rng.normal(0, 0.2, (16, 8))).astype(np.float32)
            words = np.array([[2 + said, 30 + said % 5, 0, 0]], np.int32)
            features = {"video/frames": frames, "audio/logmel": sound, "text/tokens": words}
            status = {}
            if lacking and i % 31 == 7:
                del features["audio/logmel"]
                status["audio"] = Status.SILENT
            if lacking and i % 37 == 11:
                del features["text/tokens"]
                status["text"] = Status.MISSING
            shard.add(
                Sample(
                    id=f"s{i:04d}",
                    group=f"file{i // 8}",
                    split=split,
                    labels=(f"kind {kind}",),
                    texts=(f"w{2 + said} w{30 + said % 5}",) if "text/tokens" in features else (),
                    source=f"videos/file{i // 8}.mp4",
                    start=float(i % 8),
                    end=float(i % 8) + 0.8,
                    features=features,
                    times={"video/frames": 0.0, "audio/logmel": 0.0},
                    status=status,
                    facts={"silence": 0.0},
                )
            )
    return marked


CONFIG = PretrainConfig(
    model=ModelConfig.model_validate(
        {"preset": "tiny", "layers": 1, "width": 32, "heads": 2, "feedforward": 64, "word_dim": 16}
    ),
    optim=OptimConfig(lr=3e-3),
    batch=32,
    steps=90,
)


def train(store: Path, run: Path, **changes: object) -> Path:
    """A short real pre-training."""
    pretrain(store, run, CONFIG.model_copy(update=changes))
    return run
