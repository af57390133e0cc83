"""`harmonize eval finetune`: train on labels, then measure the test split once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harmonize_cli.data.batches import Augment
from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation.classification import Labels, Predictions, classified
from harmonize_cli.evaluation.embed import Rows
from harmonize_cli.evaluation.finetune import STATE, Labelled, predict, tune
from harmonize_cli.evaluation.finetune_model import FinetuneConfig
from harmonize_cli.evaluation.results import Result
from harmonize_cli.evaluation.sources import RunSource, planned
from harmonize_cli.evaluation.splits import coverage, train_and_test
from harmonize_cli.evaluation.task import Measured
from harmonize_cli.files import sha256_file
from harmonize_cli.models.checkpoint import LoadedModel
from harmonize_cli.store.reader import Store


class Stopped(Exception):
    """Training was asked to stop before its last step: there is nothing to measure yet."""


@dataclass(frozen=True)
class FinetuneTask:
    """Fine-tune into `out` (going on where it stopped) and test.

    Attributes:
        test: test split(s).
        augment: changes frames or audio of a training window.
        stop: asked after each step; True saves and raises `Stopped`.
    """

    loaded: LoadedModel
    store: Store
    out: Path
    config: FinetuneConfig
    test: str = "test"
    augment: Augment | None = None
    stop: Callable[[], bool] = lambda: False

    @property
    def folder(self) -> Path:
        return self.out / "eval"

    @cached_property
    def labels(self) -> Labels:
        return Labels.of(self.store, self.config.label)

    @cached_property
    def chosen(self) -> tuple[Rows, Rows, str]:
        """Training samples, test samples, and the name of the test split."""
        train, test, name = train_and_test(self.store, self.config.train, self.test)
        train, test = train[self.labels.has[train]], test[self.labels.has[test]]
        if not len(train) or not len(test):
            raise BadInput(
                f"{len(train)} training and {len(test)} test samples have label {self.config.label}"
            )
        return train, test, name

    def plan(self) -> Result:
        _, test, name = self.chosen
        return planned(
            "finetune",
            "classification",
            RunSource(self.loaded),
            self.store,
            protocol={
                "name": "kinetics" if self.config == FinetuneConfig() else "kinetics-modified",
                **self.config.model_dump(mode="json"),
                "augmented": self.augment is not None,
            },
            split=name,
            coverage=coverage(self.store, test, [self.config.modality]),
        )

    def run(self) -> Measured:
        train, test, name = self.chosen
        modality = self.config.modality
        classes = self.labels.classes(train)
        truth = self.labels.numbered(classes)
        data = Labelled(train, truth, classes)
        model, dataset, steps = tune(
            self.loaded, self.store, data, self.out, self.config, augment=self.augment, stop=self.stop
        )
        if steps < self.config.steps:
            raise Stopped
        rows = test[dataset.ok[modality][test]]
        if not len(rows):
            raise BadInput(f"split {name}: none of its {len(test)} labelled samples has {modality}")
        found = Predictions(name, rows, truth[rows], predict(model, dataset, rows, self.config))
        queries = classified([found], [classes], self.store.ids, self.store.groups)
        return Measured({modality: queries}, model={"tuned": sha256_file(self.out / STATE)})
