"""`harmonize eval probe`: from a model and a store to a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation import probe as probing
from harmonize_cli.evaluation.classifiers.base import Classifier
from harmonize_cli.evaluation.classifiers.knn import Neighbours
from harmonize_cli.evaluation.classifiers.logistic import Logistic
from harmonize_cli.evaluation.classifiers.lowrank import LowRank
from harmonize_cli.evaluation.classifiers.svm import Svm
from harmonize_cli.evaluation.confusion import confusion, draw_matrices
from harmonize_cli.evaluation.protocols import ProbeProtocol
from harmonize_cli.evaluation.results import Result, intervals
from harmonize_cli.evaluation.sources import Source
from harmonize_cli.evaluation.splits import coverage, label_column, official_parts, parts_of
from harmonize_cli.evaluation.stage import Options, Queries, finish, place, provenance
from harmonize_cli.evaluation.statistics import Interval
from harmonize_cli.files import sha256_json
from harmonize_cli.store.reader import Store


def evaluate_probe(
    source: Source,
    store: Store,
    protocol: ProbeProtocol,
    *,
    modalities: Sequence[str] = (),
    label: int = 0,
    train: str = "train",
    test: str = "test",
    official: Mapping[str, Mapping[str, str]] | None = None,
    options: Options | None = None,
) -> tuple[Result, Path]:
    """A classifier on the run's features before the heads, for each of `modalities`.

    Args:
        modalities: "video", "audio" or "text"; by default video where the run reads it, else audio.
        label: which of a sample's labels.
        train, test: splits, where the store has no folds.
        official: divisions to average over, name -> id -> "train" or "test"; see `official_parts`.

    Raises:
        BadInput: labels, splits or modalities that the store or the run lacks.
    """
    options = options or Options()
    known = source.modalities(store)
    wanted = tuple(modalities) or tuple(m for m in ("video", "audio", "text") if m in known)[:1]
    for modality in wanted:
        if modality not in known:
            raise BadInput(f"--modality {modality}: run and store share {', '.join(known)}")
    names = label_column(store, label)
    labelled = np.asarray([name is not None for name in names])
    if official:
        parts, split_name = official_parts(store, official, labelled), ", ".join(official)
    else:
        parts, split_name = parts_of(store, labelled, train=train, test=test)
    expected = {i for division in (official or {}).values() for i, side in division.items() if side == "test"}
    judged = np.unique(np.concatenate([part.test for part in parts]))
    result = Result(
        task="probe",
        protocol={
            **protocol.model_dump(mode="json"),
            "modalities": list(wanted),
            "label": label,
            "train": train,
            **({"lists": sha256_json({n: dict(d) for n, d in official.items()})} if official else {}),
            "interval": options.as_dict(),
        },
        split=split_name,
        coverage=coverage(store, judged, wanted, expected),
        metrics={},
        chance={},
        **provenance(source, store),
    )

    def work() -> tuple[Result, Queries]:
        metrics: dict[str, Interval] = {}
        chance: dict[str, float] = {}
        queries: dict[str, NDArray[np.generic]] = {}
        notes: list[str] = []
        ids, groups = store.ids, store.groups
        number = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
        everything = np.unique(np.concatenate([np.concatenate([p.train, p.test]) for p in parts]))
        for modality in wanted:
            train_side, test_side = (
                source.windows(store, everything, modality, windows)
                for windows in (protocol.train_windows, protocol.test_windows)
            )
            found, class_names = [], []
            for part in parts:
                labels, known_names = probing.number_labels(names, part.train)
                class_names.append(known_names)
                found.append(
                    probing.run_part(
                        build_classifier(protocol, source.device),
                        part,
                        labels,
                        train=train_side,
                        test=test_side,
                        groups=number,
                    )
                )
                notes.append(f"{modality}, {part.name}: {_facts(found[-1].facts)}")
            classes = max(map(len, class_names))
            matrix, all_names = confusion(found, class_names)
            queries[f"{modality}/confusion"], queries[f"{modality}/classes"] = matrix, np.asarray(all_names)
            values, per_query = probing.metrics_of(
                found,
                classes,
                clusters=groups if options.clusters else None,
                draws=options.draws,
                seed=options.seed,
            )
            metrics.update({f"{modality}/{name}": value for name, value in values.items()})
            chance.update({f"{modality}/top-1": 1 / classes, f"{modality}/mean per class": 1 / classes})
            rows = per_query.pop("row")
            queries[f"{modality}/id"] = np.asarray([ids[i] for i in rows])
            queries.update({f"{modality}/{name}": value for name, value in per_query.items()})
        return replace(result, metrics=intervals(metrics), chance=chance, notes=notes), queries

    done, path = finish(result, work, place(source, options, result), overwrite=options.overwrite)
    draw_matrices(done, path)
    return done, path


def build_classifier(protocol: ProbeProtocol, device: str = "cpu") -> Classifier:
    """The classifier that `protocol` names, unfitted."""
    if protocol.classifier == "svm":
        return Svm(protocol.c, folds=protocol.inner_folds, scaling=protocol.scaling)
    if protocol.classifier == "low-rank":
        return LowRank(steps=protocol.steps, scaling=protocol.scaling, seed=protocol.seed, device=device)
    if protocol.classifier == "neighbours":
        return Neighbours(protocol.neighbours, tau=protocol.tau, device=device)
    return Logistic(
        protocol.c,
        folds=protocol.inner_folds,
        scaling=protocol.scaling,
        solver=protocol.solver,
        device=device,
    )


def _facts(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items() if v)
