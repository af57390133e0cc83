"""What runs there are, how far they got, and their last figures."""

import time
from dataclasses import dataclass
from pathlib import Path

from harmonize_cli.config import read_yaml
from harmonize_cli.errors import BadInput
from harmonize_cli.files import shaped
from harmonize_cli.models.checkpoint_folders import list_checkpoints, step_of
from harmonize_cli.training.run_folder import CONFIG, METRICS, VERSIONS, read_metrics, read_versions

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


@dataclass(frozen=True, slots=True)
class _Versions:
    planned_steps: int | None = None


def find_runs(places: list[Path]) -> list[RunInfo]:
    """Run folders among and below `places`, by path."""
    found = {
        file.parent for place in places for file in place.rglob(CONFIG) if (file.parent / VERSIONS).is_file()
    }
    return [read_run(path) for path in sorted(found)]


def read_run(path: Path) -> RunInfo:
    """One run's state: done, running, stopped (resumable), no checkpoint (yet), or damaged."""
    checkpoints = list_checkpoints(path)
    step = step_of(checkpoints[-1]) if checkpoints else 0
    try:
        mode = str(read_yaml(path / CONFIG).get("harmonize", {}).get("mode", "?"))
        planned = shaped(_Versions, read_versions(path), f"{path / VERSIONS}").planned_steps
        lines = read_metrics(path)
        shaped(
            dict[str, float | None], {k: v for line in lines for k, v in line.items()}, f"{path / METRICS}"
        )
    except (BadInput, AttributeError):  # one damaged run of many
        return RunInfo(path, "?", step, None, "damaged", None, {})
    last: dict[str, float] = {}
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
        path, mode, step, planned, state, last.get("seconds"), {k: last[k] for k in SHOWN if k in last}
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
