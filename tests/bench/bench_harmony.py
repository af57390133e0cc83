"""`make bench-harmony`: what harmonization costs, against the plain step and against other engines.

Every variant runs in a process of its own (peaks of memory don't mix) and is interleaved with the plain
step there, so that a slow spell of the machine meets both.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from harmony_model import PRESETS
from harmony_variants import NAMES
from harness import Row, run

from harmonize_cli.errors import BadInput, HarmonizeError
from harmonize_cli.progress import progress


def bench_harmony(
    *, preset: str = "default", device: str = "cpu", seconds: float = 10.0, threads: int = 2
) -> list[Row]:
    """What harmonization costs: each way to harmonize, and other engines, against the plain step.

    One row per variant: name, ms, ratio_to_plain, peak_mb, flop_ratio (None where not counted), and
    cosine_rms and gram_error against the exact engine (None where there is no Gram of the same thing).

    Raises:
        BadInput: an unknown preset. HarmonizeError: a variant failed; the message has its last lines.
    """
    if preset not in PRESETS:
        raise BadInput(f"--preset {preset}: choose one of {', '.join(PRESETS)}")
    names = [name for name in NAMES if name != "gram torchjd" or find_spec("torchjd") is not None]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        grams = {name: Path(folder) / f"{i}.pt" for i, name in enumerate(names)}
        for name in progress(names, desc="bench"):
            rows.append(_run(name, preset, device, f"{seconds}", f"{threads}", f"{grams[name]}"))
        exact = grams.get("exact")
        for row in rows:
            row |= {"gram_error": None, "cosine_rms": None}
            file = grams[row["name"]]
            comparable = row["name"].startswith(("gram", "sketch")) and exact is not None and exact.exists()
            if comparable and file.exists() and exact is not None:
                row.update(_errors(torch.load(file), torch.load(exact)))
    return rows


def show_harmony(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| variant | ms | plain = 1 | counted operations | peak MB | check, ms | worst Gram error | "
        "rms cosine error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row["name"],
            f"{row['ms']:.0f}",
            f"{row['ratio_to_plain']:.2f}",
            _number(row["flop_ratio"], ".2f"),
            f"{row['peak_mb']:.0f}",
            _number(row["check_ms"], ".0f"),
            _number(row["gram_error"], ".0e"),
            _number(row["cosine_rms"], ".3f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _run(name: str, *options: str) -> Row:
    command = [sys.executable, f"{Path(__file__).with_name('harmony_worker.py')}", name, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-3:])
        raise HarmonizeError(f"bench: {name} failed\n{tail}")
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def _errors(got: torch.Tensor, want: torch.Tensor) -> Row:
    """Worst entry against the product of the lengths, and the rms difference of the cosines."""
    length = want.diagonal(dim1=1, dim2=2).sqrt()
    error = (got - want).abs() / (length[:, :, None] * length[:, None, :])
    cosines = [g[:, 0, 1] / (g[:, 0, 0] * g[:, 1, 1]).sqrt() for g in (got, want)]
    rms = (cosines[0] - cosines[1]).square().mean().sqrt()
    return {"gram_error": error.max().item(), "cosine_rms": rms.item()}


def _show(rows: list[Row]) -> list[Row]:
    print(show_harmony(rows))
    return rows


if __name__ == "__main__":
    run(bench_harmony, show=_show)
