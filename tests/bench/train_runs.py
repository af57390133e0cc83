"""Whole short runs for `make bench-train`: time spent waiting for data, and scaling over processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from harmonize_cli.errors import HarmonizeError
from harmonize_cli.store.schema import FeatureSpec, Sample
from harmonize_cli.store.writer import ShardWriter
from harmonize_cli.training.run_folder import read_metrics

STEPS = 24


def noise_store(path: Path, samples: int = 512) -> Path:
    """A store of the demo's shapes: 24 grey frames of 32x32, 100 log-mel rows, a caption of 16 words."""
    specs = [
        FeatureSpec("video/frames", "frames", "raw", "uint8", (32, 32, 1), rate=8.0, regular=True),
        FeatureSpec("audio/logmel", "logmel", "logmel", "float16", (40,), rate=33.0, regular=True),
        FeatureSpec("text/tokens", "tokens", "tokens", "int32", (16,), params={"vocab_size": 1000}),
    ]
    rng = np.random.default_rng(0)
    with ShardWriter(path, specs) as writer:
        for i in range(samples):
            writer.add(
                Sample(
                    id=f"clip{i}",
                    features={
                        "video/frames": rng.integers(0, 256, (24, 32, 32, 1)).astype(np.uint8),
                        "audio/logmel": rng.normal(size=(100, 40)).astype(np.float16),
                        "text/tokens": rng.integers(2, 1000, (1, 16)).astype(np.int32),
                    },
                    times={"video/frames": 0.0, "audio/logmel": 0.0},
                )
            )
    return path


def bench_waiting(store: Path, folder: Path, *, batch: int, workers: int, preset: str) -> dict[str, Any]:
    """Share of the time that a run spends waiting for batches, and its clips per second."""
    values = {"batch": batch, "model.preset": preset, "data.workers": workers, "data.cache_gb": 0}
    figures = short_run(store, folder / f"workers{workers}", values)
    return {"workers": workers, "wait_share": figures["wait_share"], "clips_per_s": figures["clips_per_s"]}


def bench_scaling(store: Path, folder: Path, *, batch: int, preset: str) -> dict[str, float]:
    """Clips per second of one process and of two on the CPU, one thread each, and their ratio."""
    speed = {}
    for processes in (1, 2):
        values = {"batch": batch * processes, "model.preset": preset, "device": "cpu"}
        run = folder / f"processes{processes}"
        speed[processes] = short_run(store, run, values, processes=processes, threads=1)["clips_per_s"]
    return {
        "clips_per_s_1": speed[1],
        "clips_per_s_2": speed[2],
        "ratio": speed[2] / speed[1],
    }


def short_run(
    store: Path, run: Path, values: dict[str, Any], *, processes: int = 1, threads: int | None = None
) -> dict[str, float]:
    """Figures of the second half of a run of `STEPS` steps, by the real command in processes of its own.

    Raises:
        HarmonizeError: the run failed.
    """
    values = {**values, "steps": STEPS, "log_every": STEPS // 2, "validation.every": 0}
    settings = [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    env = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    with TemporaryDirectory(prefix="harmonize-bench-") as logs:
        launcher = [sys.executable, "-m"]
        if processes > 1:
            launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            # without --log-dir it leaves a folder of its own among the temporary ones
            launcher += ["--log-dir", logs, "-m"]
        done = subprocess.run(
            [*launcher, "harmonize_cli", "pretrain", str(store), "-o", str(run), *settings],
            capture_output=True,
            text=True,
            env=env,
            check=False,
        )
    if done.returncode:
        raise HarmonizeError(f"the probe run failed: {done.stderr.strip().splitlines()[-1:]}")
    figures: dict[str, float] = read_metrics(run)[-1]
    return figures
