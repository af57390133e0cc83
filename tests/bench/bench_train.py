"""`make bench-train`: speed of pre-training steps, as ratios to the plain one in the same run."""

import platform
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from harness import interleaved, ratio, run, seconds
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from train_runs import bench_scaling, bench_waiting, noise_store

from harmonize_cli.data.batches import Batch
from harmonize_cli.heap import keep_freed_memory
from harmonize_cli.models.config import ModelConfig
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.models.stem import Stem
from harmonize_cli.ranks import pick_device
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.step import TrainStep

Preset = Literal["tiny", "small", "base", "medium", "large"]

CASES: dict[str, dict[str, Any]] = {
    "plain": {"mode": "none"},
    "representation": {"mode": "realign", "scope": "representation"},
    "backbone": {"mode": "realign", "scope": "backbone"},
    "backbone, sketch:32": {"mode": "realign", "scope": "backbone", "gram": "sketch:32"},
    "all": {"mode": "realign", "scope": "all"},
}


def specs_for(preset: str) -> dict[str, InputSpec]:
    """Inputs of the published sizes (784 + 600 + 16 tokens after DropToken), or of the demo's for `tiny`."""
    if preset == "tiny":
        return {
            "video": InputSpec("video", "video/frames", "frames", 24, (32, 32, 1)),
            "audio": InputSpec("audio", "audio/logmel", "logmel", 100, (40,)),
            "text": InputSpec("text", "text/tokens", "tokens", 16, (), candidates=1, vocabulary=1000),
        }
    return {
        "video": InputSpec("video", "video/frames", "frames", 32, (224, 224, 3)),
        "audio": InputSpec("audio", "audio/waveform", "waveform", 153_600, ()),
        "text": InputSpec("text", "text/tokens", "tokens", 16, (), candidates=1, vocabulary=2**16),
    }


def random_batch(specs: Mapping[str, InputSpec], size: int, device: torch.device) -> Batch:
    """A batch of noise in which every modality is there."""
    video, audio, text = specs["video"], specs["audio"], specs["text"]
    words = (size, text.candidates, text.rows)
    return Batch(
        torch.arange(size).numpy(),
        [str(i) for i in range(size)],
        {
            "video": torch.randint(
                256, (size, video.rows, *video.row_shape), dtype=torch.uint8, device=device
            ),
            "audio": torch.randn(size, audio.rows, *audio.row_shape, device=device),
            "text": torch.randint(2, text.vocabulary, words, device=device),
        },
        {m: torch.ones(size, dtype=torch.bool, device=device) for m in specs},
        torch.ones(words[:2], dtype=torch.bool, device=device),
        torch.arange(size, device=device),
        torch.arange(size * text.candidates, device=device).view(words[:2]),
    )


@dataclass(frozen=True, slots=True)
class Case:
    """One way to make a step. utilisation: FLOPs of the plain step over time, over the matmul rate."""

    name: str
    ms: float
    clips_per_s: float
    ratio_to_plain: float
    utilisation: float
    peak_mb: float | None


def bench_steps(preset: str, batch: int, precision: str, device: torch.device, rounds: int) -> dict[str, Any]:
    """Time whole steps (forward, gradients, optimiser) of all cases, interleaved, medians over `rounds`."""
    specs = specs_for(preset)
    values = {"model": {"preset": preset}, "precision": precision, "batch": batch}
    config = PretrainConfig.model_validate(values)
    data = random_batch(specs, batch, device)
    peak = matmul_rate(device, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    states: dict[str, TrainStep] = {}
    for name, section in CASES.items():
        settings = PretrainConfig.model_validate({**values, "harmonize": section})
        states[name] = TrainStep.build(specs, settings, device, steps=1000)
    flops = count_flops(states["plain"], data)
    memory: dict[str, float | None] = dict.fromkeys(states)

    def measured(name: str) -> None:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        states[name](data, 0)
        states[name].update(1e-5)
        if device.type == "cuda":
            memory[name] = torch.cuda.max_memory_allocated(device) / 1e6

    ways = {name: partial(measured, name) for name in states}
    times = interleaved(ways, rounds=rounds, warm=1, clock=partial(seconds, device=device))
    cases = []
    for name, each in times.items():
        s = statistics.median(each)
        share = flops / s / peak
        cases.append(Case(name, s * 1e3, batch / s, ratio(each, times["plain"]), share, memory[name]))
    return {
        "matmul_tflops": peak / 1e12,
        "step_gflop": flops / 1e9,
        "tokens": tokens(specs, config),
        "cases": cases,
    }


def count_flops(state: TrainStep, batch: Batch) -> float:
    """FLOPs of the matrix products of a plain step, forward and backward (2 per multiply-add)."""
    counter = FlopCounterMode(display=False)
    # attention as plain products: the CPU's fused kernel isn't known to the counter
    with sdpa_kernel(SDPBackend.MATH), counter:
        state(batch, 0)
    return float(counter.get_total_flops())


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of a large square matrix product on this machine: the ceiling."""
    n = 8192 if device.type == "cuda" else 1536
    a, b, out = (torch.randn(n, n, device=device).to(dtype) for _ in range(3))
    times = [seconds(lambda: torch.mm(a, b, out=out), device) for _ in range(10)]
    return 2 * n**3 / statistics.median(times[3:])


def tokens(specs: Mapping[str, InputSpec], config: PretrainConfig) -> dict[str, int]:
    """Tokens that the transformer sees per modality in training, without AGG."""
    with torch.device("meta"):
        assert isinstance(config.model, ModelConfig)
        return {m: Stem(m, spec, config.model).kept_tokens for m, spec in specs.items()}


def bench_train(
    *,
    preset: Preset = "tiny",
    batch: int = 128,
    precision: Literal["fp32", "bf16"] = "fp32",
    device: str = "auto",
    rounds: int = 8,
    store: Path | None = None,
) -> dict[str, Any]:
    """Whole training steps: clips/s, utilisation, plain against harmonized, waiting for data, scaling.

    `store` is read for the waiting and the scaling; without one, noise in the demo's shapes.
    """
    where = pick_device(device)
    keep_freed_memory()  # as `harmonize pretrain` does
    found = bench_steps(preset, batch, precision, where, rounds)
    found["cases"] = [asdict(case) for case in found["cases"]]
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else platform.processor() or "CPU"
    found |= {"device": name, "threads": torch.get_num_threads(), "preset": preset, "batch": batch}
    found |= {"precision": precision, "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = store or noise_store(folder / "noise.h5")
        found["waiting"] = [
            bench_waiting(source, folder, batch=min(batch, 128), workers=workers, preset="tiny")
            for workers in (0, 2)
        ]
        if where.type == "cpu":
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


def _show(found: dict[str, Any]) -> dict[str, Any]:
    print(show_bench(found))
    return found


if __name__ == "__main__":
    run(bench_train, show=_show)
