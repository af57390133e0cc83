"""The charts of a report. Their colors can be read on a light and on a dark page."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harmonize_cli.files import atomic_path
from harmonize_cli.reporting.collect import Run, comparable

INK = "#808890"
QUANTILES = (5, 25, 50, 75, 95)
Draw = Callable[[Sequence[Run]], Figure | None]


def plot_lines(ax: Axes, title: str, series: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> None:
    """Lines from 0 up: run -> steps and values; runs without any are left out."""
    for k, (name, (steps, values)) in enumerate(series.items()):
        if steps:
            ax.plot(steps, values, label=name, color=f"C{k}", lw=1.8)
    ax.set_ylim(bottom=0)
    finish(ax, title)


def plot_bars(
    ax: Axes,
    title: str,
    found: Mapping[str, Mapping[str, Mapping[str, float]]],
    names: Mapping[str, str],
    chance: Mapping[str, float] | None = None,
) -> None:
    """Groups of bars with intervals: run -> metric -> value, low, high; names: metric -> its label."""
    wide = 0.8 / len(found)
    for k, (run, metrics) in enumerate(found.items()):
        have = [(place, metrics[name]) for place, name in enumerate(names) if name in metrics]
        at, values = [place + k * wide for place, _ in have], [m["value"] for _, m in have]
        spread = [
            [max(0, m["value"] - m["low"]) for _, m in have],
            [max(0, m["high"] - m["value"]) for _, m in have],
        ]
        ax.bar(at, values, wide * 0.9, yerr=spread, color=f"C{k}", label=run, ecolor=INK, capsize=2)
    for place, name in enumerate(names):
        if name in (chance or {}):
            span = [place - wide / 2, place + 0.8 - wide / 2]
            ax.plot(span, [chance[name]] * 2, "--", color=INK, lw=1, label="" if place else "chance")  # type: ignore[index]
    ax.set_xticks([place + 0.4 - wide / 2 for place in range(len(names))])
    ax.set_xticklabels(list(names.values()), fontsize=7)
    ax.set_ylim(0, 1.2)  # space for the legend
    finish(ax, title, x="")


def lines_of(key: str, title: str) -> Draw:
    """A chart of one metric over steps, one line a run; None where no run has it."""

    def draw(runs: Sequence[Run]) -> Figure | None:
        series = {run.name: run.series(key) for run in runs}
        if not any(steps for steps, _ in series.values()):
            return None
        figure, ax = _figure()
        plot_lines(ax, title, series)
        return figure

    return draw


def cosine_bands(runs: Sequence[Run]) -> Figure | None:
    """The distribution of the per-sample cosine over training: median, quartiles, 5% and 95%."""
    shown = [run for run in runs if run.series("cosine_q50")[0]]
    if not shown:
        return None
    figure, ax = _figure()
    for k, run in enumerate(shown):
        steps = run.series("cosine_q50")[0]
        q = {level: run.series(f"cosine_q{level:02d}")[1] for level in QUANTILES}
        ax.fill_between(steps, q[5], q[95], color=f"C{k}", alpha=0.15, lw=0)
        ax.fill_between(steps, q[25], q[75], color=f"C{k}", alpha=0.3, lw=0)
        ax.plot(steps, q[50], color=f"C{k}", lw=1.8, label=run.name)
    ax.axhline(0, color=INK, lw=0.8, ls="--")
    finish(ax, "cosine of the losses' gradients: median, quartiles, 5% to 95%")
    return figure


def result_bars(runs: Sequence[Run]) -> Figure | None:
    """R@10 of each direction with its interval."""
    found = {run.name: metrics for run, metrics in zip(runs, comparable(runs), strict=True)}
    names = sorted({name for metrics in found.values() for name in metrics if name.endswith("/R@10")})
    if not names:
        return None
    figure, ax = _figure(width=7)
    labels = {name: name.removesuffix("/R@10").replace("-to-", " to\n") for name in names}
    plot_bars(ax, "recall at 10, with 95% intervals", found, labels)
    return figure


CHARTS: dict[str, Draw] = {
    "results": result_bars,
    "loss": lines_of("loss", "training loss"),
    "conflict": lines_of("conflict_share", "share of samples in gradient conflict"),
    "cosine": cosine_bands,
    "norm-ratio": lines_of("norm_ratio", "squared norm of the first loss over the second"),
    "gated": lines_of("gated_share", "share of samples gated"),
    "speed": lines_of("clips_per_s", "clips a second"),
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


def finish(ax: Axes, title: str, *, x: str = "step") -> None:
    """Title, labels and colors."""
    ax.set_title(title, fontsize=9, color=INK)
    ax.set_xlabel(x, fontsize=8, color=INK)
    ax.tick_params(labelsize=7, colors=INK)
    for side in ax.spines.values():
        side.set_color(INK)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7, labelcolor=INK, frameon=False)


def _figure(*, width: float = 4.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 2.7), layout="constrained")
    return figure, figure.add_subplot()
