"""Results that answer the same question: same task, protocol, split and store, another model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.metrics import METRICS, metric_of
from harmonize_cli.evaluation.results import Result, find_results, query_arrays
from harmonize_cli.evaluation.statistics import Statistic, Values
from harmonize_cli.files import sha256_json

Entry = tuple[Path, Result]


class MetricValues(NamedTuple):
    """One metric of several entries: values [seeds, Q] of every query, what sums them up, and the group of
    each query where all entries were evaluated by group."""

    values: Values
    statistic: Statistic
    groups: list[str] | None


@dataclass(frozen=True, slots=True)
class Question:
    """What a result answers, whoever the model is."""

    key: str
    title: str

    @classmethod
    def of(cls, result: Result) -> "Question":
        """The bootstrap's settings belong to the answer, not to the question."""
        protocol = {k: v for k, v in result.protocol.items() if k != "interval"}
        parts = (result.task, protocol, result.split, result.store_hash)
        store = Path(result.store).name or "store"
        name = f"{result.task}, {protocol.get('name', 'custom')} protocol, split {result.split} of {store}"
        name += ", all labels" if protocol.get("label") == "all" else ""
        name += ", by class" if protocol.get("relevance") == "label" else ""
        return cls(sha256_json(json.loads(json.dumps(parts))), name)


def by_question(places: Sequence[Path]) -> dict[Question, list[Entry]]:
    """Results found at `places`, one per model and question (the same file twice counts once).

    Of two that differ in their bootstrap alone, the one by group is taken: its groups can be resampled again.

    Raises:
        BadInput: for a place without results.
    """
    found: dict[Question, dict[str, Entry]] = {}
    for path, result in find_results(places):
        models = found.setdefault(Question.of(result), {})
        model = f"{result.model_hash} {result.model.get('run')}"
        if model not in models or (_by_group(result) and not _by_group(models[model][1])):
            models[model] = (path, result)
    return {question: list(models.values()) for question, models in found.items()}


def spread(place: str) -> list[Path]:
    """Paths of one side of a comparison: one path, or several with commas."""
    return [Path(part) for part in place.split(",") if part]


def query_values(entries: Sequence[Entry], names: Sequence[str]) -> Mapping[str, MetricValues]:
    """Values of every query for each metric, queries in the same order for all entries.

    Raises:
        BadInput: where the files beside the results are missing, have other queries, or were computed by
            different versions of a metric.
    """
    loaded = [query_arrays(path, result) for path, result in entries]
    by_group = all(_by_group(result) for _, result in entries)
    found: dict[str, MetricValues] = {}
    for name in names:
        group, _, leaf = name.rpartition("/")
        metric = metric_of(name)
        rows: list[Values] = []
        first: NDArray[np.generic] | None = None
        groups: list[str] | None = None
        for (path, result), arrays in zip(entries, loaded, strict=True):
            version, wanted = (r.metric_versions.get(leaf, "1") for r in (result, entries[0][1]))
            if version != wanted:
                raise BadInput(
                    f"{path}: {name} was computed by version {version} of its code, in {entries[0][0]} by "
                    f"version {wanted}: evaluate again"
                )
            column = f"{group}/{metric.column or metric.name}"
            if column not in arrays:
                raise BadInput(f"{path}: metrics: {name}: unknown; known: {', '.join(METRICS)}")
            values = metric.value(arrays[column])
            ids: NDArray[np.generic] = arrays[f"{group}/id"]
            order = np.argsort(ids, kind="stable")  # several captions of one clip keep their order
            ids, values = ids[order], values[order]
            if first is not None and not np.array_equal(first, ids):
                raise BadInput(f"{path}: has other queries than {entries[0][0]} in {group}")
            first = ids
            rows.append(np.asarray(values, dtype=np.float64))
            if by_group and f"{group}/group" in arrays:
                groups = arrays[f"{group}/group"][order].tolist()
        found[name] = MetricValues(np.stack(rows), metric.statistic, groups)
    return found


def _by_group(result: Result) -> bool:
    interval = result.protocol.get("interval")
    return isinstance(interval, dict) and bool(interval.get("clusters"))
