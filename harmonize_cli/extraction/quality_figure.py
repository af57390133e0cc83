"""The report of a data set as one picture."""

from pathlib import Path
from typing import Any

from harmonize_cli.files import atomic_path

_COLOURS = {"ok": "#4c9f70", "silent": "#d9b44a", "missing": "#9aa5b1", "failed": "#c8553d"}


def draw_quality(report: dict[str, Any], path: Path) -> None:
    """Write four panels as PNG: statuses, lengths, drift, silence."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes = figure.subplots(2, 2)
    _statuses(axes[0, 0], report["status"])
    _histogram(axes[0, 1], report["length"], "length of a clip (s)")
    _histogram(axes[1, 0], report["drift"], "sound ends later than the pictures (s)")
    _histogram(axes[1, 1], report["silence"], "silent share of a clip")
    coverage = report["coverage"]
    duplicates = f"{report['duplicate_captions']['samples']} samples share a caption"
    duplicates += f", {report['duplicate_videos']['samples']} a video"
    figure.suptitle(
        f"{report['store']}: {coverage['present']} of {coverage['expected']} samples present; {duplicates}"
    )
    with atomic_path(path) as tmp:
        figure.savefig(tmp, format="png", dpi=110)


def _statuses(axes: Any, statuses: dict[str, dict[str, int]]) -> None:
    names = list(statuses)
    left = [0] * len(names)
    for status, colour in _COLOURS.items():
        counts = [statuses[name][status] for name in names]
        axes.barh(names, counts, left=left, color=colour, label=status)
        left = [a + b for a, b in zip(left, counts, strict=True)]
    axes.set_xlabel("samples")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)


def _histogram(axes: Any, part: dict[str, Any], label: str) -> None:
    axes.set_xlabel(label)
    axes.set_ylabel("samples")
    if not part["samples"]:
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)
        return
    edges, counts = part["histogram"]["edges"], part["histogram"]["counts"]
    axes.stairs(counts, edges, fill=True, color="#5b7db1")
