"""Pictures of scores. Drawn without a display."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from harmonize_cli.curriculum.scores import Scores
from harmonize_cli.files import atomic_path


def draw_histograms(scores: Scores, path: Path) -> None:
    """One histogram per indicator; the cosines' conflict side is red."""
    names = [name for name, column in scores.columns.items() if np.isfinite(column).any()]
    across = min(4, max(1, len(names)))
    down = max(1, -(-len(names) // across))
    figure = Figure(figsize=(3.2 * across, 2.3 * down), layout="constrained")
    for place, name in enumerate(names):
        ax = figure.add_subplot(down, across, place + 1)
        column = scores.columns[name]
        column = column[np.isfinite(column)]
        low, high = np.quantile(column, [0.001, 0.999])
        edges = np.linspace(low, high if high > low else low + 1, 41)
        counts, _ = np.histogram(column, edges)
        colours = ["#c0392b" if name.startswith("cosine") and e < 0 else "#3b6ea5" for e in edges[:-1]]
        ax.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=colours)
        ax.set_title(name, fontsize=9)
        ax.tick_params(labelsize=7)
        ax.set_xlabel(f"{scores.noisy.get(name, 'high')} = suspect", fontsize=7)
    figure.suptitle(f"{len(scores)} samples of {scores.about.get('store', '')}", fontsize=9)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as the kind that the suffix names, atomically."""
    with atomic_path(path) as tmp:
        figure.savefig(tmp, format=path.suffix.lstrip(".") or "png", dpi=120)
