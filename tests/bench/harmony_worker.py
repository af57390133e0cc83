"""One variant in a process of its own, so that peaks of memory don't mix: prints one JSON line.

python tests/bench/harmony_worker.py NAME PRESET DEVICE SECONDS THREADS GRAM_FILE
"""

import json
import math
import statistics
import sys
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harmony_model import PRESETS, make_batch, make_model
from harmony_variants import Run, check_seconds, make_run
from harness import interleaved, ratio
from harness import seconds as seconds_of
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from harmonize_cli.heap import keep_freed_memory


def measure(name: str, preset: str, device_name: str, seconds: float, gram_file: str) -> dict[str, Any]:
    """ms of the variant and of the plain step beside it, their ratio, peak memory, counted operations."""
    device = torch.device(device_name)
    size = PRESETS[preset]
    bf16 = device.type == "cuda"
    model, batch = make_model(size, device), make_batch(size, device)
    run = make_run(name, model, batch, bf16=bf16)
    before = _memory_mark(device)
    run()
    gram = run()
    peak = _memory_peak(device) - before
    if gram is not None:
        torch.save(gram.double().cpu(), gram_file)
    # a model of its own: an engine's hooks must not slow the plain step down
    plain = make_run("plain", make_model(size, device), batch, bf16=bf16)
    check = check_seconds(name, make_model(size, device), batch, bf16=bf16)
    counted = not name.startswith("gram ") or name == "gram ours"
    flops = _operations(run) / _operations(plain) if counted else None
    times = interleaved(
        {"own": run, "plain": plain},
        rounds=3,
        budget=seconds,
        warm=2,
        clock=partial(seconds_of, device=device),
    )
    return {
        "name": name,
        "ms": 1000 * statistics.median(times["own"]),
        "plain_ms": 1000 * statistics.median(times["plain"]),
        "ratio_to_plain": ratio(times["own"], times["plain"]),
        "peak_mb": peak / 2**20,
        "flop_ratio": flops,
        "check_ms": None if check is None else 1000 * check,
        "runs": len(times["own"]),
    }


def _memory_mark(device: torch.device) -> int:
    """Bytes in use now; the peak starts from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with suppress(OSError):  # Linux: let VmHWM start anew
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _memory_peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes; 0 where there is none."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def _operations(run: Run) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return int(counter.get_total_flops())


def _register_counts() -> None:
    """What FlopCounterMode does not know: in-place products, and attention on the CPU."""
    aten = torch.ops.aten

    @register_flop_formula(aten.addmm_)
    def _addmm(_: Any, a: Any, b: Any, **__: Any) -> int:
        return int(2 * math.prod(a) * b[-1])

    @register_flop_formula(aten.baddbmm_)
    def _baddbmm(_: Any, a: Any, b: Any, **__: Any) -> int:
        return int(2 * math.prod(a) * b[-1])

    @register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu)
    def _forward(q: Any, k: Any, *_: Any, **__: Any) -> int:
        return int(4 * math.prod(q) * k[-2])

    @register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu_backward)
    def _backward(_: Any, q: Any, k: Any, *__: Any, **___: Any) -> int:
        # the scores again, then the gradients of scores, q, k and v
        return int(10 * math.prod(q) * k[-2])


if __name__ == "__main__":
    _register_counts()
    keep_freed_memory()  # as `harmonize pretrain` does
    # attention is taken apart sample by sample by the engines compared with; that is their measured time
    warnings.filterwarnings("ignore", "There is a performance drop")
    variant, preset_name, on, budget, threads, file = sys.argv[1:]
    torch.set_num_threads(int(threads))
    print(json.dumps(measure(variant, preset_name, on, float(budget), file)))
