"""Before a run: `harmonize plan`, what it will cost, and `--verify`, whether its gradients are exact."""

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harmonize_cli.harmony import Verification, verify
from harmonize_cli.store.reader import Store
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.run import Run

SAMPLES = 16
"""Samples of the batch that are looped over one by one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes in GB (1e9 bytes). seconds_per_step: median of the probe steps, on this machine."""

    steps: int
    clips: int
    epochs: float
    parameters: int
    seconds_per_step: float
    hours: float
    peak_memory_gb: float
    checkpoint_gb: float
    disk_gb: float
    read_gb: float
    device: str
    probe_steps: int


def make_plan(store_path: Path, config: PretrainConfig, probe_steps: int = 5) -> Plan:
    """Make `probe_steps` real steps (after two to warm up) and extrapolate; nothing is kept.

    Peak memory is the GPU's, or on a CPU this process's. Validation and checkpoints are not in the hours.

    Raises:
        BadInput: as `pretrain`.
    """
    store = Store.open(store_path)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(store, config, Path(folder))
        device, samples, steps = run.device, run.rows, run.steps
        batches = run.batches(max(steps, probe_steps + 2))
        took = []
        for step in range(probe_steps + 2):
            began = time.perf_counter()
            run.step(step, next(batches))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            took.append(time.perf_counter() - began)
        checkpoint = _checkpoint_bytes(run.save(0))
    size = sum(path.stat().st_size for path in store.shards) * len(samples) / max(1, len(store))
    per_step = statistics.median(took[2:])
    epochs = steps * config.batch / len(samples)
    return Plan(
        steps=steps,
        clips=steps * config.batch,
        epochs=epochs,
        parameters=sum(p.numel() for p in run.train_step.parameters()),
        seconds_per_step=per_step,
        hours=per_step * steps / 3600,
        peak_memory_gb=_peak_bytes(device) / 1e9,
        checkpoint_gb=checkpoint / 1e9,
        disk_gb=checkpoint * (config.checkpoint.keep + 2) / 1e9,
        read_gb=size * max(1.0, epochs) / 1e9,
        device=str(device),
        probe_steps=probe_steps,
    )


def show_plan(plan: Plan) -> str:
    """For people."""
    rows = {
        "steps": f"{plan.steps:,} ({plan.clips:,} clips, {plan.epochs:.1f} epochs)",
        "parameters": f"{plan.parameters / 1e6:.1f} M",
        "time": f"{plan.hours:.2f} h on {plan.device} "
        f"({plan.seconds_per_step * 1e3:.0f} ms a step, from {plan.probe_steps} steps)",
        "peak memory": f"{plan.peak_memory_gb:.2f} GB",
        "disk": f"{plan.disk_gb:.2f} GB for checkpoints of {plan.checkpoint_gb:.2f} GB",
        "store read": f"{plan.read_gb:.2f} GB (less where samples fit into data.cache_gb)",
    }
    return "\n".join(f"{name:<12} {value}" for name, value in rows.items())


def verify_gradients(store_path: Path, config: PretrainConfig) -> Verification:
    """Compare the first batch's harmonized step with a loop of single-sample backward passes.

    With mode none, rule and scope of the config are checked all the same.

    Raises:
        BadInput: as `pretrain`.
    """
    if config.harmonize.mode == "none":
        section = config.harmonize.model_copy(update={"mode": "realign"})
        config = config.model_copy(update={"harmonize": section})
    run = Run(Store.open(store_path), config, Path())
    batch = run.dataset.batch(run.schedule.draws(0)).to(run.device)
    assert run.train_step.harmonizer is not None

    def forward() -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        pooled, terms = run.train_step.forward(batch, 0)
        return {name: term.value for name, term in terms.items()}, pooled

    return verify(run.train_step.harmonizer, forward, units=min(SAMPLES, config.batch))


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _checkpoint_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
