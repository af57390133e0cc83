"""What runs there are, how far they got, and their last figures."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonize_cli.models.checkpoint import list_checkpoints
from harmonize_cli.training.run_folder import CONFIG, METRICS, VERSIONS, read_metrics

SHOWN = ("loss", "conflict_share", "val/text-to-video/R@10", "val/audio-to-video/R@10")
ALIVE = 120.0
"""Seconds since the last line of the log for which a run counts as still going on."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One run folder. step: of the newest checkpoint; planned: None where unknown."""

    path: Path
    mode: str
    step: int
    planned: int | None
    state: str
    seconds: float | None
    metrics: dict[str, float]


def find_runs(places: list[Path]) -> list[RunInfo]:
    """Run folders among and below `places`, by path."""
    found = {
        file.parent for place in places for file in place.rglob(CONFIG) if (file.parent / VERSIONS).is_file()
    }
    return [read_run(path) for path in sorted(found)]


def read_run(path: Path) -> RunInfo:
    """One run's state: done, running, stopped (resumable), or not started (no checkpoint yet)."""
    about = _json(path / VERSIONS)
    lines = read_metrics(path)
    checkpoints = list_checkpoints(path)
    step = int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else 0
    planned = about.get("planned_steps")
    last: dict[str, Any] = {}
    for line in lines:
        last |= {key: value for key, value in line.items() if value is not None}
    log = path / METRICS
    fresh = log.exists() and time.time() - log.stat().st_mtime < ALIVE
    if planned is not None and step >= planned:
        state = "done"
    elif fresh:
        state = "running"
    else:
        state = "stopped" if checkpoints else "no checkpoint"
    return RunInfo(
        path, _mode(path), step, planned, state, last.get("seconds"), {k: last[k] for k in SHOWN if k in last}
    )


def show_runs(runs: list[RunInfo]) -> str:
    """A table for people."""
    head = ["run", "harmonize", "state", "step", "time", *SHOWN]
    rows = [head]
    for run in runs:
        steps = f"{run.step}/{run.planned}" if run.planned else str(run.step)
        spent = f"{run.seconds:.0f} s" if run.seconds is not None else "-"
        figures = [f"{run.metrics[k]:.3f}" if k in run.metrics else "-" for k in SHOWN]
        rows.append([str(run.path), run.mode, run.state, steps, spent, *figures])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _mode(path: Path) -> str:
    for line in (path / CONFIG).read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("mode:"):
            return line.partition(":")[2].strip()
    return "?"


def _json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values
