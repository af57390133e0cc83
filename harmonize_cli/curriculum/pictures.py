"""Pictures of scores. Drawn without a display."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from harmonize_cli.curriculum.scores import column_values, read_about
from harmonize_cli.files import atomic_path
from harmonize_cli.printing import printable


def draw_histograms(folder: Path, path: Path) -> None:
    """One histogram per indicator of a folder of scores; the cosines' conflict side is red.

    Column by column: millions of samples in all columns at once would be much memory for a picture.
    """
    about = read_about(folder)
    columns = about["columns"] | about.get("added", {})
    names = list(columns)
    across = min(4, max(1, len(names)))
    down = max(1, -(-len(names) // across))
    figure = Figure(figsize=(3.2 * across, 2.3 * down), layout="constrained")
    for place, name in enumerate(names):
        ax = figure.add_subplot(down, across, place + 1)
        column = column_values(folder, name)
        column = column[np.isfinite(column)]
        ax.set_title(name, fontsize=9)
        if not len(column):
            continue
        low, high = np.quantile(column, [0.001, 0.999])
        edges = np.linspace(low, high if high > low else low + 1, 41)
        counts, _ = np.histogram(column, edges)
        colours = ["#c0392b" if name.startswith("cosine") and e < 0 else "#3b6ea5" for e in edges[:-1]]
        ax.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=colours)
        ax.tick_params(labelsize=7)
        ax.set_xlabel(f"{columns[name]['noisy']} = suspect", fontsize=7)
    title = f"{about.get('samples', '?')} samples of {about.get('store', '?')}"
    figure.suptitle(printable(title, lines=False).replace("$", r"\$"), fontsize=9)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as the kind that the suffix names, atomically."""
    with atomic_path(path) as tmp:
        figure.savefig(tmp, format=path.suffix.lstrip(".") or "png", dpi=120)
