"""`harmonize eval finetune`: train on labels, then measure the test split once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.classification import Labels, Predictions, classified
from harmonize_cli.evaluation.embed import Rows
from harmonize_cli.evaluation.results import Result
from harmonize_cli.evaluation.sources import RunSource, planned
from harmonize_cli.evaluation.splits import coverage, train_and_test
from harmonize_cli.evaluation.task import Measured
from harmonize_cli.files import sha256_file
from harmonize_cli.models.checkpoint import LoadedModel
from harmonize_cli.store.reader import Store


class Stopped(Exception):
    """Training was asked to stop before its last step: there is nothing to measure yet."""


class Tuner(Protocol):
    """What trains, such as `training.finetune.Tuner`; `train` names the training split(s), `label` which of a
    sample's labels is learned."""

    loaded: LoadedModel
    store: Store
    out: Path
    modality: str
    label: int
    train: str

    @property
    def state(self) -> Path:
        """The file of the trained weights."""

    def protocol(self) -> dict[str, Any]:
        """The settings, for a result."""

    def fit(self, rows: Rows, labels: NDArray[np.int64], classes: Sequence[str]) -> bool:
        """Train on samples; labels: the class number of every sample of the store. False: it was stopped."""

    def usable(self, rows: Rows) -> Rows:
        """The samples among `rows` that have the modality."""

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """Logits [N, C]."""


@dataclass(frozen=True)
class FinetuneTask:
    """Fine-tune (going on where it stopped) and test.

    Attributes:
        test: test split(s).
    """

    tuner: Tuner
    test: str = "test"

    @property
    def folder(self) -> Path:
        return self.tuner.out / "eval"

    @cached_property
    def labels(self) -> Labels:
        return Labels.of(self.tuner.store, self.tuner.label)

    @cached_property
    def chosen(self) -> tuple[Rows, Rows, str]:
        """Training samples, test samples, and the name of the test split."""
        train, test, name = train_and_test(self.tuner.store, self.tuner.train, self.test)
        train, test = train[self.labels.has[train]], test[self.labels.has[test]]
        if not len(train) or not len(test):
            raise BadInput(
                f"{len(train)} training and {len(test)} test samples have label {self.tuner.label}"
            )
        return train, test, name

    def plan(self) -> Result:
        _, test, name = self.chosen
        return planned(
            "finetune",
            "classification",
            RunSource(self.tuner.loaded),
            self.tuner.store,
            protocol=self.tuner.protocol(),
            split=name,
            coverage=coverage(self.tuner.store, test, [self.tuner.modality]),
        )

    def run(self) -> Measured:
        train, test, name = self.chosen
        modality = self.tuner.modality
        classes = self.labels.classes(train)
        truth = self.labels.numbered(classes)
        if not self.tuner.fit(train, truth, classes):
            raise Stopped
        rows = self.tuner.usable(test)
        if not len(rows):
            raise BadInput(f"split {name}: none of its {len(test)} labelled samples has {modality}")
        found = Predictions(name, rows, truth[rows], self.tuner.predict(rows))
        queries = classified([found], [classes], self.tuner.store.ids, self.tuner.store.groups)
        return Measured({modality: queries}, model={"tuned": sha256_file(self.tuner.state)})
