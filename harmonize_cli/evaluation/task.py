"""What every evaluation is, and the one way to make it: plan, run, bootstrap, save.

A task says what it is going to measure (`plan`, whose hash names the result) and measures it (`run`, values
of every query). `evaluate` does the rest: the result that is there already, intervals, the files.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.evaluation.confusion import draw_matrices
from harmonize_cli.evaluation.metrics import Kind, Ranking, columns_of, metrics_of, query_columns
from harmonize_cli.evaluation.results import Result, existing, versions, write_result
from harmonize_cli.evaluation.statistics import (
    DRAWS,
    Column,
    Interval,
    Values,
    bootstrap,
    cluster_numbers,
    points,
)
from harmonize_cli.files import sha256_file, write_arrays
from harmonize_cli.locks import one_writer


@dataclass(frozen=True, slots=True)
class Queries:
    """Values of the queries of one direction ("text-to-video") or modality ("audio").

    Attributes:
        kind: of evaluation; it decides which metrics these values serve.
        ids: of the samples that ask, [Q]; of the classes in multi-label classification.
        groups: the source group of each, which may be resampled whole; None where there are none.
        columns: values [Q] by the name of the metrics' column.
        chance: what guessing gives, by metric.
        kept: further arrays for the file beside the result.
    """

    kind: Kind
    ids: Sequence[str]
    groups: Sequence[str] | None
    columns: Mapping[str, Values]
    chance: Mapping[str, float]
    kept: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def ranked(
        cls, kind: Kind, ranking: Ranking, ids: Sequence[str], groups: Sequence[str] | None = None
    ) -> "Queries":
        """From the ranks of right answers."""
        return cls(kind, ids, groups, columns_of(kind, ranking), chance_of(kind, ranking))

    @property
    def metrics(self) -> dict[str, Column]:
        """What each query contributes to each metric."""
        return query_columns(self.kind, self.columns)

    def points(self) -> dict[str, float]:
        """The metrics without intervals."""
        return points(self.metrics)


def chance_of(kind: Kind, measured: Ranking | int) -> dict[str, float]:
    """What guessing gives, where that is known; for classification `measured` is the number of classes."""
    found = {metric.name: metric.chance(measured) for metric in metrics_of(kind)}
    return {name: level for name, level in found.items() if level is not None}


@dataclass(frozen=True, slots=True)
class Measured:
    """Queries by direction or modality, and what the result says besides: additions to `coverage` and
    `model`, and notes."""

    queries: Mapping[str, Queries]
    coverage: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Task(Protocol):
    """One evaluation of one model on one store."""

    @property
    def folder(self) -> Path:
        """Where the result goes by default."""

    def plan(self) -> Result:
        """The result without numbers: its identity is all that the numbers depend on.

        Raises:
            BadInput: what cannot be measured, before anything is computed.
        """

    def run(self) -> Measured:
        """The values of every query."""


@dataclass(frozen=True, slots=True)
class Options:
    """What every evaluation takes beside its task.

    Attributes:
        draws, seed: of the bootstrap.
        clusters: resample source groups (clips of one video) instead of single queries.
        out: the result file; None chooses a name beside the model.
        overwrite: replace another result at that place.
    """

    draws: int = DRAWS
    seed: int = 0
    clusters: bool = False
    out: Path | None = None
    overwrite: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The part that numbers depend on."""
        return {"draws": self.draws, "level": 0.95, "seed": self.seed, "clusters": self.clusters}


def evaluate(task: Task, options: Options | None = None) -> tuple[Result, Path]:
    """Measure `task`, unless the same evaluation's result is there already; the result and its file.

    Raises:
        BadInput: as the task's plan, or another result is in the way.
    """
    options = options or Options()
    planned = task.plan()
    planned = replace(planned, protocol={**planned.protocol, "interval": options.as_dict()})
    path = options.out or task.folder / f"{planned.name}.json"
    result = _made(task, planned, options, path)
    draw_matrices(result, path)
    return result, path


@one_writer("path")
def _made(task: Task, planned: Result, options: Options, path: Path) -> Result:
    """The values of every query are written first, the JSON that vouches for them last."""
    if (old := existing(path, planned.identity, overwrite=options.overwrite)) is not None:
        return old
    started = time.perf_counter()
    measured = task.run()
    arrays: dict[str, NDArray[Any]] = {}
    for name, queries in measured.queries.items():
        own = {"id": np.asarray(queries.ids), **queries.columns, **queries.kept}
        if options.clusters and queries.groups is not None:
            own["group"] = np.asarray(queries.groups)
        arrays.update({f"{name}/{key}": value for key, value in own.items()})
    metrics = {name: interval.as_dict() for name, interval in intervals(measured.queries, options).items()}
    file = path.with_suffix(".queries.npz")
    write_arrays(file, arrays, compressed=True)
    result = replace(
        planned,
        coverage={**planned.coverage, **measured.coverage},
        metrics=metrics,
        chance={f"{k}/{m}": v for k, q in measured.queries.items() for m, v in q.chance.items()},
        model={**planned.model, **measured.model},
        notes=list(measured.notes),
        seconds=round(time.perf_counter() - started, 3),
        queries={"file": file.name, "sha256": sha256_file(file)},
        versions={**versions(), **planned.versions},
    )
    write_result(result, path)
    return result


def intervals(queries: Mapping[str, Queries], options: Options) -> dict[str, Interval]:
    """Every metric with its interval, by full name; what asks the same queries shares their resamples."""
    shared: dict[bytes, dict[str, Column]] = {}
    keys: dict[bytes, Sequence[str] | None] = {}
    for group, asked in queries.items():
        clusters = asked.groups if options.clusters else None
        same = cluster_numbers(clusters, len(asked.ids)).tobytes()
        keys[same] = clusters
        columns = shared.setdefault(same, {})
        columns.update({f"{group}/{name}": column for name, column in asked.metrics.items()})
    found: dict[str, Interval] = {}
    for same, columns in shared.items():
        found |= bootstrap(columns, clusters=keys[same], draws=options.draws, seed=options.seed)
    return {f"{group}/{name}": found[f"{group}/{name}"] for group, q in queries.items() for name in q.metrics}
