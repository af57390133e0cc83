"""Which class is taken for which."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.evaluation.results import Result, verified_sidecar
from harmonize_cli.files import atomic_path

MOST_NAMES = 60


def confusion(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[Any]]], names: Sequence[Sequence[str]]
) -> tuple[NDArray[np.int64], list[str]]:
    """Counts [C, C] of true class (row) and predicted class (column), over all parts.

    Args:
        parts: true class numbers [N] and scores [N, C] of each.
        names: class names of each part, by its class numbers; parts may know different classes.
    """
    known = sorted({name for part in names for name in part})
    place = {name: i for i, name in enumerate(known)}
    counts = np.zeros((len(known), len(known)), dtype=np.int64)
    for (truth, scores), own in zip(parts, names, strict=True):
        where = np.asarray([place[name] for name in own])
        inside = truth >= 0  # a class that training never saw has no row
        np.add.at(counts, (where[truth[inside]], where[scores[inside].argmax(axis=1)]), 1)
    return counts, known


def draw_matrices(result: Result, path: Path) -> None:
    """Images of the confusion matrices beside a result, from the values kept with it."""
    file = verified_sidecar(path, result)
    if file is None:
        return
    with np.load(file, allow_pickle=False) as queries:
        for name in queries.files:
            modality, _, what = name.rpartition("/")
            if what == "confusion":
                draw_confusion(
                    queries[name],
                    queries[f"{modality}/classes"].tolist(),
                    path.with_suffix(f".{modality}.png"),
                    title=f"{modality}, {result.protocol['name']}, {result.split}",
                )


def draw_confusion(counts: NDArray[np.int64], names: Sequence[str], file: Path, *, title: str) -> None:
    """An image of the shares of each true class, with names where they can be read."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.28 * len(names) + 2.5, 4, 16))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    if len(names) <= MOST_NAMES:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    with atomic_path(file) as tmp:
        figure.savefig(tmp, format="png", dpi=120)
