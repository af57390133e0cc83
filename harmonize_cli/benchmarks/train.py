"""`harmonize bench train`: speed of pre-training steps, as ratios to the plain one in the same run."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harmonize_cli.data.batches import Batch
from harmonize_cli.models.config import ModelConfig
from harmonize_cli.models.inputs import InputSpec
from harmonize_cli.models.stem import Stem
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.harmonize import build_harmonizer
from harmonize_cli.training.loop import update
from harmonize_cli.training.setup import Parts, build_model, start_state
from harmonize_cli.training.state import TrainingState

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
    """Time whole steps (forward, gradients, optimiser) of all cases, in turns, medians over `rounds`."""
    specs = specs_for(preset)
    values = {"model": {"preset": preset}, "precision": precision, "batch": batch}
    config = PretrainConfig.model_validate(values)
    data = random_batch(specs, batch, device)
    peak = matmul_rate(device, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    states: dict[str, TrainingState] = {}
    for name, section in CASES.items():
        settings = PretrainConfig.model_validate({**values, "harmonize": section})
        model, loss = build_model(specs, settings, device)
        parts = Parts(model, loss, build_harmonizer(model, loss, settings, 1000), specs)
        states[name] = start_state(parts, settings)
    flops = count_flops(states["plain"], data)
    times: dict[str, list[float]] = {name: [] for name in states}
    memory: dict[str, float | None] = dict.fromkeys(states)
    for _ in range(rounds + 1):  # the first round warms up
        for name, state in states.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            times[name].append(timed(partial(step, state, data), device))
            if device.type == "cuda":
                memory[name] = torch.cuda.max_memory_allocated(device) / 1e6
    plain = statistics.median(times["plain"][1:])
    cases = []
    for name, each in times.items():
        seconds = statistics.median(each[1:])
        cases.append(
            Case(name, seconds * 1e3, batch / seconds, seconds / plain, flops / seconds / peak, memory[name])
        )
    return {
        "matmul_tflops": peak / 1e12,
        "step_gflop": flops / 1e9,
        "tokens": tokens(specs, config),
        "cases": cases,
    }


def step(state: TrainingState, batch: Batch) -> None:
    """One training step."""
    state.optimiser.zero_grad(set_to_none=True)
    state.gradients(batch, 0)
    update(state, 1e-5, 0.0)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes, with the device's queue empty before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def count_flops(state: TrainingState, batch: Batch) -> float:
    """FLOPs of the matrix products of a plain step, forward and backward (2 per multiply-add)."""
    counter = FlopCounterMode(display=False)
    # attention as plain products: the CPU's fused kernel isn't known to the counter
    with sdpa_kernel(SDPBackend.MATH), counter:
        state.gradients(batch, 0)
    return float(counter.get_total_flops())


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of a large square matrix product on this machine: the ceiling."""
    n = 8192 if device.type == "cuda" else 1536
    a, b, out = (torch.randn(n, n, device=device).to(dtype) for _ in range(3))
    seconds = [timed(lambda: torch.mm(a, b, out=out), device) for _ in range(10)]
    return 2 * n**3 / statistics.median(seconds[3:])


def tokens(specs: Mapping[str, InputSpec], config: PretrainConfig) -> dict[str, int]:
    """Tokens that the transformer sees per modality in training, without AGG."""
    with torch.device("meta"):
        assert isinstance(config.model, ModelConfig)
        return {m: Stem(m, spec, config.model).kept_tokens for m, spec in specs.items()}
