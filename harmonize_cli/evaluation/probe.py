"""`harmonize eval probe`: a classifier on frozen features, tested on samples it never met."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.classification import (
    Label,
    Labels,
    Predictions,
    check_finite,
    classified,
    multi_labelled,
)
from harmonize_cli.evaluation.classifiers import build_classifier, fit_classifier
from harmonize_cli.evaluation.embed import Floats, Rows
from harmonize_cli.evaluation.protocols import ProbeProtocol
from harmonize_cli.evaluation.results import Result
from harmonize_cli.evaluation.sources import Source, chosen_modalities, planned
from harmonize_cli.evaluation.splits import Part, coverage, official_parts, parts_of
from harmonize_cli.evaluation.task import Measured, Queries
from harmonize_cli.files import sha256_json
from harmonize_cli.store.reader import Store


@dataclass(frozen=True)
class ProbeTask:
    """A classifier on the run's features before the heads, for each of `modalities`.

    Attributes:
        modalities: "video", "audio" or "text"; by default video where the run reads it, else audio.
        label: which of a sample's labels, or "all" where samples have several.
        train, test: splits, where the store has no folds.
        official: divisions to average over, name -> id -> "train" or "test"; see `official_parts`.
    """

    source: Source
    store: Store
    protocol: ProbeProtocol
    modalities: Sequence[str] = ()
    label: Label = 0
    train: str = "train"
    test: str = "test"
    official: Mapping[str, Mapping[str, str]] | None = None

    @property
    def folder(self) -> Path:
        return self.source.folder

    @cached_property
    def wanted(self) -> tuple[str, ...]:
        known = self.source.modalities(self.store)
        usual = [m for m in ("video", "audio", "text") if m in known][:1]
        return chosen_modalities(self.modalities, known) if self.modalities else tuple(usual)

    @cached_property
    def labels(self) -> Labels:
        return Labels.of(self.store, self.label)

    @cached_property
    def parts(self) -> tuple[list[Part], str]:
        """How samples are split, and its name."""
        if self.official:
            return official_parts(self.store, self.official, self.labels.has), ", ".join(self.official)
        return parts_of(self.store, self.labels.has, train=self.train, test=self.test)

    def plan(self) -> Result:
        wanted, (parts, split) = self.wanted, self.parts
        build_classifier(
            self.protocol, several=self.labels.several
        )  # one that can't take them is refused now
        lists = {name: dict(division) for name, division in (self.official or {}).items()}
        expected = {i for division in lists.values() for i, side in division.items() if side == "test"}
        tested = np.unique(np.concatenate([part.test for part in parts]))
        return planned(
            "probe",
            "multi-label" if self.labels.several else "classification",
            self.source,
            self.store,
            protocol={
                **self.protocol.model_dump(mode="json"),
                "modalities": list(wanted),
                "label": self.label,
                "train": self.train,
                **({"lists": sha256_json(lists)} if lists else {}),
            },
            split=split,
            coverage=coverage(self.store, tested, wanted, expected),
        )

    def run(self) -> Measured:
        queries: dict[str, Queries] = {}
        notes: list[str] = []
        parts, _ = self.parts
        ids, groups = self.store.ids, self.store.groups
        number = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
        everything = np.unique(np.concatenate([np.concatenate([p.train, p.test]) for p in parts]))
        for modality in self.wanted:
            train, test = (
                self.source.windows(self.store, everything, modality, windows)
                for windows in (self.protocol.train_windows, self.protocol.test_windows)
            )
            # with several labels one set of classes for all parts; with one each part has its own
            shared = self.labels.classes(everything) if self.labels.several else None
            classes = [shared or self.labels.classes(part.train) for part in parts]
            found = []
            for part, known in zip(parts, classes, strict=True):
                found.append(
                    run_part(
                        self.protocol,
                        part,
                        self.labels.numbered(known),
                        train=train,
                        test=test,
                        groups=number,
                        device=self.source.device,
                    )
                )
                notes.append(f"{modality}, {part.name}: {_facts(found[-1].facts)}")
            if shared is None:
                queries[modality] = classified(found, classes, ids, groups)
            else:
                queries[modality], without = multi_labelled(found, shared)
                if without:
                    notes.append(f"{modality}: no test sample of {len(without)} of {len(shared)} classes")
        return Measured(queries, notes=notes)


def run_part(
    protocol: ProbeProtocol,
    part: Part,
    labels: NDArray[Any],
    *,
    train: tuple[Floats, Rows],
    test: tuple[Floats, Rows],
    groups: Rows,
    device: str = "cpu",
) -> Predictions:
    """Fit on the training rows, score the test rows.

    The classifier gets the windows, labels and groups of training rows alone; test windows come one call
    later, and test labels never.

    Args:
        labels, groups: of every row, [N]. Labels are class numbers, -1 for a class without training rows, or
            bool [N, C].
        train: windows [W, D] and the row of each [W]; every window of a training row is one example.
        test: the same for testing; scores are averaged over a row's windows.

    Raises:
        BadInput: a side without features, or a training side of one class.
        HarmonizeError: features that are no numbers.
    """
    x, of = _side(train, part.train, f"{part.name}: no training sample has the features of this probe")
    if len(np.unique(labels[of], axis=0)) < 2 or labels.shape[1:] == (1,):
        raise BadInput(f"{part.name}: all training samples with these features are of one class")
    check_finite(f"{part.name}: features", x, of)
    fitted = fit_classifier(protocol, x, labels[of], groups[of], device)
    x, of = _side(test, part.test, f"{part.name}: no test sample has the features of this probe")
    check_finite(f"{part.name}: features", x, of)
    scores = fitted.scores(x)
    rows, where = np.unique(of, return_inverse=True)
    total = np.zeros((len(rows), scores.shape[1]))
    np.add.at(total, where, scores)
    mean = total / np.bincount(where)[:, None]
    return Predictions(part.name, rows.astype(np.int64), labels[rows], mean, fitted.facts)


def _side(windows: tuple[Floats, Rows], wanted: Rows, empty: str) -> tuple[Floats, Rows]:
    """The windows of `wanted` rows, and the row of each."""
    x, of = windows
    inside = np.isin(of, wanted)
    if not inside.any():
        raise BadInput(empty)
    return x[inside], of[inside]


def _facts(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items() if v)
