"""The charts of a report. Colours and text read on light and on dark ground."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harmonize_cli.files import atomic_path
from harmonize_cli.reporting.collect import Run, comparable

INK = "#808890"
QUANTILES = (5, 25, 50, 75, 95)
Draw = Callable[[Sequence[Run]], Figure | None]


def lines_of(key: str, title: str, *, low: float | None = None) -> Draw:
    """A chart of one metric over steps, one line a run; None where no run has it."""

    def draw(runs: Sequence[Run]) -> Figure | None:
        series = {run.name: run.series(key) for run in runs}
        if not any(steps for steps, _ in series.values()):
            return None
        figure, ax = _axes(title)
        for k, (name, (steps, values)) in enumerate(series.items()):
            if steps:
                ax.plot(steps, values, label=name, color=f"C{k}", lw=1.8)
        if low is not None:
            ax.set_ylim(bottom=low)
        _finish(ax)
        return figure

    return draw


def cosine_bands(runs: Sequence[Run]) -> Figure | None:
    """The distribution of the per-sample cosine over training: median, quartiles, 5% and 95%."""
    shown = [run for run in runs if run.series("cosine_q50")[0]]
    if not shown:
        return None
    figure, ax = _axes("cosine of the two gradients: median, quartiles, 5% to 95%")
    for k, run in enumerate(shown):
        steps = run.series("cosine_q50")[0]
        q = {level: run.series(f"cosine_q{level:02d}")[1] for level in QUANTILES}
        ax.fill_between(steps, q[5], q[95], color=f"C{k}", alpha=0.15, lw=0)
        ax.fill_between(steps, q[25], q[75], color=f"C{k}", alpha=0.3, lw=0)
        ax.plot(steps, q[50], color=f"C{k}", lw=1.8, label=run.name)
    ax.axhline(0, color=INK, lw=0.8, ls="--")
    _finish(ax)
    return figure


def result_bars(runs: Sequence[Run]) -> Figure | None:
    """R@10 of each direction with its interval, and chance."""
    found = {run.name: metrics for run, metrics in zip(runs, comparable(runs), strict=True)}
    names = sorted({name for metrics in found.values() for name in metrics if name.endswith("/R@10")})
    if not names:
        return None
    figure, ax = _axes("recall at 10, with 95% intervals", width=7)
    wide = 0.8 / len(runs)
    for k, (run, metrics) in enumerate(found.items()):
        have = [(place, metrics[name]) for place, name in enumerate(names) if name in metrics]
        at = [place + k * wide for place, _ in have]
        values = [m["value"] for _, m in have]
        below = [max(0, m["value"] - m["low"]) for _, m in have]
        above = [max(0, m["high"] - m["value"]) for _, m in have]
        ax.bar(at, values, wide * 0.9, yerr=[below, above], color=f"C{k}", label=run, ecolor=INK, capsize=2)
    ax.set_xticks([place + wide * (len(runs) - 1) / 2 for place in range(len(names))])
    ax.set_xticklabels([name.removesuffix("/R@10").replace("-to-", " to\n") for name in names], fontsize=7)
    ax.set_ylim(0, 1.2)  # room for the legend
    _finish(ax, x="")
    return figure


CHARTS: dict[str, Draw] = {
    "results": result_bars,
    "loss": lines_of("loss", "training loss", low=0),
    "conflict": lines_of("conflict_share", "share of samples in gradient conflict", low=0),
    "cosine": cosine_bands,
    "norm-ratio": lines_of("norm_ratio", "squared norm of the first loss over the second", low=0),
    "gated": lines_of("gated_share", "share of samples gated", low=0),
    "speed": lines_of("clips_per_s", "clips a second", low=0),
}


def svg(figure: Figure) -> str:
    """A figure as SVG; the same figure gives the same bytes."""
    with mpl.rc_context({"svg.hashsalt": "harmonize", "svg.fonttype": "none"}):
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return out.getvalue()


def write_figures(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Every chart as PNG and SVG."""
    written = []
    for name, draw in CHARTS.items():
        figure = draw(runs)
        for kind in ("png", "svg") if figure is not None else ():
            path = folder / f"{name}.{kind}"
            with atomic_path(path) as tmp:
                figure.savefig(tmp, format=kind, dpi=200)  # type: ignore[union-attr]
            written.append(path)
    return written


def _axes(title: str, *, width: float = 4.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 2.7), layout="constrained")
    ax = figure.add_subplot()
    ax.set_title(title, fontsize=9, color=INK)
    return figure, ax


def _finish(ax: Axes, *, x: str = "step") -> None:
    ax.set_xlabel(x, fontsize=8, color=INK)
    ax.tick_params(labelsize=7, colors=INK)
    for side in ax.spines.values():
        side.set_color(INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=7, labelcolor=INK, frameon=False)
