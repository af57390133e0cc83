"""`harmonize bench retrieval`: exact ranks by blocks against a full matrix in numpy; a large size."""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.evaluation.embed import unit
from harmonize_cli.evaluation.ranks import positive_ranks
from harmonize_cli.evaluation.relevance import Relevance

Floats = NDArray[np.float32]


def bench_retrieval(
    *, rows: int = 10_000, large: int = 100_000, dims: int = 256, rounds: int = 5, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Rows of figures: {"name", "value", "unit", "ratio"}.

    The small size is measured in turns (ours, numpy's) in this process, medians of `rounds`; the large one
    once, in a process of its own, whose peak memory is the operating system's figure.
    """
    queries, gallery = _pair(rows, dims)
    relevance = Relevance.paired(rows)
    ours, plain = [], []
    for _ in range(rounds):
        ours.append(_seconds(lambda: positive_ranks(queries, gallery, relevance, device=device)))
        plain.append(_seconds(lambda: full_matrix_ranks(queries, gallery)))
    same = np.array_equal(
        positive_ranks(queries, gallery, relevance, device=device), full_matrix_ranks(queries, gallery)
    )
    a, b = statistics.median(ours), statistics.median(plain)
    million = rows * rows / 1e6
    found: list[dict[str, Any]] = [
        _line(f"{rows:,} x {rows:,}, exact ranks by blocks", a, "s", a / b),
        _line(f"{rows:,} x {rows:,}, full matrix in numpy, ties not counted", b, "s", None),
        _line("per million pairs", a / million * 1e3, "ms", None),
        _line("same ranks (1 = yes)", float(same), "", None),
    ]
    if large:
        call = f"measure_large({large}, {dims}, {device!r})"
        code = f"from harmonize_cli.benchmarks.retrieval import measure_large; {call}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, peak, bare = json.loads(done.stdout)
        found += [
            _line(f"{large:,} x {large:,}, exact ranks by blocks", seconds, "s", None),
            _line("per million pairs", seconds / (large * large / 1e6) * 1e3, "ms", None),
            _line("peak memory of that process", peak, "MiB", None),
            _line("of which before the embeddings were made", bare, "MiB", None),
        ]
    return found


def full_matrix_ranks(queries: Floats, gallery: Floats) -> NDArray[np.float64]:
    """What a few lines of numpy do, for one positive per query and no ties."""
    scores = queries @ gallery.T
    return np.asarray(1 + (scores > scores.diagonal()[:, None]).sum(axis=1), dtype=np.float64)


def measure_large(rows: int, dims: int, device: str) -> None:
    """Print [seconds, peak MiB, MiB before the data] of one evaluation, as JSON."""
    bare = _peak()
    queries, gallery = _pair(rows, dims)
    relevance = Relevance.paired(rows)
    seconds = _seconds(lambda: positive_ranks(queries, gallery, relevance, device=device))
    sys.stdout.write(json.dumps([seconds, _peak(), bare]))


def _pair(rows: int, dims: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(0)
    gallery = unit(rng.standard_normal((rows, dims), dtype=np.float32))
    noise = rng.standard_normal((rows, dims), dtype=np.float32)
    noise *= 0.15
    noise += gallery
    return unit(noise), gallery


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _peak() -> float:
    """MiB. Linux's getrusage would count what the parent held before the new program was loaded."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _line(name: str, value: float, unit_name: str, ratio: float | None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit_name, "ratio": ratio}
