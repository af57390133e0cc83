"""A small real store and a small real run."""

from types import SimpleNamespace

import numpy as np
import torch

from harmonize_cli.data.windows import InputsConfig, resolve_inputs
from harmonize_cli.evaluation.retrieval import measure
from harmonize_cli.evaluation.task import Options, intervals
from harmonize_cli.models.checkpoint import write_checkpoint
from harmonize_cli.models.config import ModelConfig
from harmonize_cli.models.vatt import Vatt
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec, Sample, Status
from harmonize_cli.store.writer import ShardWriter

FEATURES = [
    FeatureSpec("video/frames", "frames", "raw", "uint8", (8, 8, 1), rate=5.0),
    FeatureSpec("audio/logmel", "logmel", "logmel", "float32", (8,), rate=20.0, regular=True),
    FeatureSpec("text/tokens", "tokens", "tokens", "int32", (6,), params={"vocab_size": 30, "pad_id": 0}),
]
MODEL = {"preset": "tiny", "layers": 1, "width": 16, "heads": 2, "feedforward": 16, "word_dim": 8}


def make_store(path, n=24, *, folds=False, long=(), silent=(), seed=0):
    """Samples of 3 classes that all three modalities show; `long` ones have three windows of rows."""
    rng = np.random.default_rng(seed)
    with ShardWriter(path, FEATURES, vocab=[f"w{i}" for i in range(30)]) as shard:
        for i in range(n):
            kind, times = i % 3, 3 if i in long else 1
            frames = np.clip(60 * kind + rng.normal(60, 10, (4 * times, 8, 8, 1)), 0, 255).astype(np.uint8)
            sound = (2.0 * np.eye(8)[kind] + rng.normal(0, 0.1, (16 * times, 8))).astype(np.float32)
            words = np.zeros((2, 6), np.int32)
            words[:, :3] = [2 + kind, 5 + i % 20, 3]
            words[1, 3] = 7
            shard.add(
                Sample(
                    id=f"s{i:03d}",
                    group=f"g{i // 2}",
                    split="" if folds else ("train" if i < n // 2 else "test"),
                    fold=i % 4 if folds else None,
                    labels=(f"class {kind}", f"half {i % 2}"),
                    texts=(f"caption {i}", f"other {i}"),
                    features={"video/frames": frames, "audio/logmel": sound, "text/tokens": words},
                    times={"video/frames": np.arange(len(frames)) / 5, "audio/logmel": 0.0},
                    status={"audio": Status.SILENT} if i in silent else {},
                )
            )
    return Store.open(path)


def make_run(path, store, *, seed=0, step=1):
    """An untrained model in a real run folder."""
    torch.manual_seed(seed)
    specs = resolve_inputs(store, InputsConfig())
    config = ModelConfig.model_validate(MODEL)
    model = Vatt(config, specs)
    for module in model.modules():  # running statistics that differ from the start, as training leaves them
        if hasattr(module, "running_mean"):
            module.running_mean.normal_(0, 0.01)
    about = {
        "config": {"model": config.model_dump(mode="json"), "seed": seed, "harmonize": {"mode": "none"}},
        "inputs": {m: spec.to_dict() for m, spec in specs.items()},
    }
    write_checkpoint(path, step, model.state_dict(), {}, about)
    return path


def retrieve(pool, protocol, draws=50):
    """Metrics with intervals, chance, pools and the values of every query, by full name."""
    found = measure(pool, protocol)
    return SimpleNamespace(
        metrics=intervals(found.queries, Options(draws=draws)),
        chance={f"{way}/{name}": x for way, q in found.queries.items() for name, x in q.chance.items()},
        pools=found.coverage["pools"],
        queries={
            f"{way}/{k}": x
            for way, q in found.queries.items()
            for k, x in (*q.columns.items(), ("id", q.ids))
        },
        captions=found.coverage.get("captions"),
    )
