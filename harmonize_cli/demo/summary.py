"""The demo's result as JSON, as a figure and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from harmonize_cli.files import atomic_path, read_json, write_json
from harmonize_cli.reporting.charts import plot_bars, plot_lines

SHOWN = {
    "text-to-video/R@1": "text-to-video R@1",
    "text-to-video/R@10": "text-to-video R@10",
    "audio-to-video/R@10": "audio-to-video R@10",
    "video/top-1": "digit probe (video)",
}
MAIN = "text-to-video/R@10"


@dataclass(frozen=True, slots=True)
class Row:
    """One run. metrics: name -> {"value", "low", "high"}; chance by the same names; seconds of training."""

    run: str
    metrics: Mapping[str, Mapping[str, float]]
    chance: Mapping[str, float]
    seconds: float


def read_row(run: str, results: Sequence[Path], seconds: float) -> Row:
    """Put a run's results together."""
    metrics: dict[str, Mapping[str, float]] = {}
    chance: dict[str, float] = {}
    for path in results:
        result = read_json(path, dict[str, Any])
        metrics |= result["metrics"]
        chance |= result["chance"]
    return Row(run, metrics, chance, seconds)


def write_summary(out: Path, rows: Sequence[Row], curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Write summary.json and summary.png under `out`; returns the table."""
    write_json(
        out / "summary.json",
        [{"run": row.run, "metrics": row.metrics, "seconds": row.seconds} for row in rows],
    )
    _draw(out / "summary.png", rows, curves)
    return table(rows)


def table(rows: Sequence[Row]) -> str:
    """Fixed-width table with intervals, and whether the first row was beaten."""
    names = [name for name in SHOWN if all(name in row.metrics for row in rows)]
    width = max(len("chance"), *(len(row.run) for row in rows))
    lines = ["  ".join([" " * width, *(f"{SHOWN[name]:>21}" for name in names), f"{'training':>9}"])]
    for row in rows:
        cells = [_cell(row.metrics[name]) for name in names]
        lines.append(
            "  ".join([f"{row.run:<{width}}", *(f"{c:>21}" for c in cells), f"{row.seconds:7.0f} s"])
        )
    guess = [f"{rows[0].chance[name]:.3f}" if name in rows[0].chance else "" for name in names]
    lines.append("  ".join([f"{'chance':<{width}}", *(f"{c:>21}" for c in guess)]).rstrip())
    return "\n".join([*lines, *(verdict(rows[0], row) for row in rows[1:])])


def verdict(base: Row, other: Row) -> str:
    """One honest line on the main metric."""
    a, b = base.metrics[MAIN], other.metrics[MAIN]
    gain = b["value"] - a["value"]
    what = f"{other.run} against {base.run}, {SHOWN[MAIN]}: {gain:+.3f}"
    if gain <= 0:
        return f"{what}: {other.run} is NOT better than {base.run} here"
    if b["low"] <= a["high"]:
        return f"{what}: better in this run, but the intervals overlap; one seed proves nothing"
    return f"{what}: better, and the intervals are apart"


def _cell(metric: Mapping[str, float]) -> str:
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def _draw(path: Path, rows: Sequence[Row], curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    names = {
        n: label.replace(" ", "\n", 1) for n, label in SHOWN.items() if all(n in r.metrics for r in rows)
    }
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    bars, losses, conflict = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    title = "unseen numbers in unseen handwriting"
    plot_bars(bars, title, {row.run: row.metrics for row in rows}, names, rows[0].chance)
    charts = {"loss": (losses, "training loss"), "conflict_share": (conflict, "share of clips in conflict")}
    for key, (ax, title) in charts.items():
        points = {
            name: [(line["step"], line[key]) for line in lines if line.get(key) is not None]
            for name, lines in curves.items()
        }
        plot_lines(
            ax, title, {n: ([s for s, _ in found], [v for _, v in found]) for n, found in points.items()}
        )
    with atomic_path(path) as tmp:
        figure.savefig(tmp, format="png", dpi=130)
