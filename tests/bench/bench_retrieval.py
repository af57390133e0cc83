"""`make bench-retrieval`: exact ranks by blocks against a full matrix in numpy; a large size."""

import json
import resource
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
from harness import Row, interleaved, ratio, row, run, seconds
from numpy.typing import NDArray

from harmonize_cli.evaluation.embed import unit
from harmonize_cli.evaluation.ranks import positive_ranks
from harmonize_cli.evaluation.relevance import Relevance


def bench_retrieval(
    *, rows: int = 10_000, large: int = 100_000, dims: int = 256, rounds: int = 5, device: str = "cpu"
) -> list[Row]:
    """Exact ranks by blocks against a plain full matrix in numpy, and `large` (0: not) with its peak memory.

    The large size is measured once, in a process of its own; its peak is the operating system's figure.
    """
    queries, gallery = _pair(rows, dims)
    ours = partial(positive_ranks, queries, gallery, Relevance.paired(rows), device=device)
    plain = partial(full_matrix_ranks, queries, gallery)
    times = interleaved({"ours": ours, "plain": plain}, rounds=rounds, clock=partial(seconds, device=device))
    a, b = statistics.median(times["ours"]), statistics.median(times["plain"])
    found = [
        row(f"{rows:,} x {rows:,}, exact ranks by blocks", a, "s", ratio(times["ours"], times["plain"])),
        row(f"{rows:,} x {rows:,}, full matrix in numpy, ties not counted", b, "s"),
        row("per million pairs", a / (rows * rows / 1e6) * 1e3, "ms"),
        row("same ranks (1 = yes)", float(np.array_equal(ours(), plain()))),
    ]
    if large:
        command = [sys.executable, __file__, "measure", f"{large}", f"{dims}", device]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        time, peak, bare = json.loads(done.stdout)
        found += [
            row(f"{large:,} x {large:,}, exact ranks by blocks", time, "s"),
            row("per million pairs", time / (large * large / 1e6) * 1e3, "ms"),
            row("peak memory of that process", peak, "MiB"),
            row("of which before the embeddings were made", bare, "MiB"),
        ]
    return found


def full_matrix_ranks(queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> NDArray[np.float64]:
    """What a few lines of numpy do, for one positive per query and no ties."""
    scores = queries @ gallery.T
    return np.asarray(1 + (scores > scores.diagonal()[:, None]).sum(axis=1), dtype=np.float64)


def measure_large(rows: int, dims: int, device: str) -> tuple[float, float, float]:
    """Seconds, peak MiB and MiB before the data of one evaluation."""
    bare = _peak()
    queries, gallery = _pair(rows, dims)
    relevance = Relevance.paired(rows)
    return seconds(lambda: positive_ranks(queries, gallery, relevance, device=device)), _peak(), bare


def _pair(rows: int, dims: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    gallery = unit(rng.standard_normal((rows, dims), dtype=np.float32))
    noise = rng.standard_normal((rows, dims), dtype=np.float32)
    noise *= 0.15
    noise += gallery
    return unit(noise), gallery


def _peak() -> float:
    """MiB. Linux's getrusage would count what the parent held before the new program was loaded."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure_large(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
    else:
        run(bench_retrieval)
