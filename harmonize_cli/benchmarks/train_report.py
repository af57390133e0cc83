"""All of `harmonize bench train`, and its table."""

import platform
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from harmonize_cli.benchmarks.train import Case, bench_steps
from harmonize_cli.benchmarks.train_runs import bench_scaling, bench_waiting, noise_store
from harmonize_cli.heap import keep_freed_memory


def bench_train(
    *, preset: str, batch: int, precision: str, device: torch.device, rounds: int, store: Path | None
) -> dict[str, Any]:
    """Steps, waiting and, on a CPU, scaling. store: to read from; default noise in the demo's shapes."""
    keep_freed_memory()  # as `harmonize pretrain` does
    found = bench_steps(preset, batch, precision, device, rounds)
    found["cases"] = [asdict(case) for case in found["cases"]]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    found |= {"device": name, "threads": torch.get_num_threads(), "preset": preset, "batch": batch}
    found |= {"precision": precision, "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = store or noise_store(folder / "noise.h5")
        found["waiting"] = [
            bench_waiting(source, folder, batch=min(batch, 128), workers=workers, preset="tiny")
            for workers in (0, 2)
        ]
        if device.type == "cpu":
            found["scaling"] = bench_scaling(source, folder, batch=min(batch, 64), preset="tiny")
    return found


def show_bench(found: dict[str, Any]) -> str:
    """A table for people."""
    count = "+".join(str(n) for n in found["tokens"].values())
    lines = [
        f"{found['device']}, {found['threads']} threads, torch {found['torch']}, preset {found['preset']}, "
        f"{found['precision']}, batch {found['batch']}, tokens {count}",
        f"plain step {found['step_gflop']:.1f} GFLOP, matmul rate {found['matmul_tflops']:.3f} TFLOP/s",
        f"{'':<20} {'ms':>8} {'clips/s':>9} {'ratio':>6} {'utilisation':>12} {'peak MB':>9}",
    ]
    for values in found["cases"]:
        case = Case(**values)
        memory = f"{case.peak_mb:.0f}" if case.peak_mb is not None else "-"
        lines.append(
            f"{case.name:<20} {case.ms:>8.1f} {case.clips_per_s:>9.1f} {case.ratio_to_plain:>6.2f} "
            f"{case.utilisation:>11.1%} {memory:>9}"
        )
    for waiting in found["waiting"]:
        lines.append(
            f"waiting for data with {waiting['workers']} workers: {waiting['wait_share']:.1%} "
            f"of the time at {waiting['clips_per_s']:.0f} clips/s"
        )
    if "scaling" in found:
        scaling = found["scaling"]
        lines.append(
            f"1 process {scaling['clips_per_s_1']:.0f} clips/s, 2 processes "
            f"{scaling['clips_per_s_2']:.0f} (one thread each): ratio {scaling['ratio']:.2f}"
        )
    return "\n".join(lines)
