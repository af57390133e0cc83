"""`harmonize eval finetune`: train on labels, then judge the test split once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from harmonize_cli.data.batches import Augment
from harmonize_cli.errors import BadInput
from harmonize_cli.evaluation import probe as probing
from harmonize_cli.evaluation.finetune import STATE, Labelled, predict, tune
from harmonize_cli.evaluation.finetune_model import FinetuneConfig
from harmonize_cli.evaluation.results import Result, existing, intervals
from harmonize_cli.evaluation.sources import RunSource
from harmonize_cli.evaluation.splits import coverage, label_column, train_and_test
from harmonize_cli.evaluation.stage import Options, Queries, finish, provenance
from harmonize_cli.files import sha256_file
from harmonize_cli.locks import one_writer
from harmonize_cli.models.checkpoint import LoadedModel
from harmonize_cli.store.reader import Store


@one_writer("out")
def evaluate_finetune(
    loaded: LoadedModel,
    store: Store,
    out: Path,
    config: FinetuneConfig,
    *,
    test: str = "test",
    augment: Augment | None = None,
    stop: Callable[[], bool] = lambda: False,
    options: Options | None = None,
) -> tuple[Result | None, Path]:
    """Fine-tune into `out` (going on where it stopped) and evaluate.

    Returns:
        The result and its file; None where it was stopped before the last step.

    Raises:
        BadInput: labels or splits that the store lacks, or a folder of other settings.
    """
    options = options or Options()
    names = label_column(store, config.label)
    inside, outside, test_name = train_and_test(store, config.train, test)
    inside, outside = (
        np.asarray([i for i in rows if names[i] is not None], dtype=np.int64) for rows in (inside, outside)
    )
    if not len(inside) or not len(outside):
        raise BadInput(f"{len(inside)} training and {len(outside)} test samples have label {config.label}")
    labels, classes = probing.number_labels(names, inside)
    source = RunSource(loaded)
    result = Result(
        task="finetune",
        protocol={
            "name": "kinetics" if config == FinetuneConfig() else "kinetics-modified",
            **config.model_dump(mode="json"),
            "augmented": augment is not None,
            "interval": options.as_dict(),
        },
        split=test_name,
        coverage=coverage(store, outside, [config.modality]),
        metrics={},
        chance={f"{config.modality}/top-1": 1 / len(classes)},
        **provenance(source, store),
    )
    path = options.out or out / "eval" / f"{result.name}.json"
    if (old := existing(path, result.identity, overwrite=options.overwrite)) is not None:
        return old, path
    model, dataset, steps = tune(
        loaded, store, Labelled(inside, labels, classes), out, config, augment=augment, stop=stop
    )
    if steps < config.steps:
        return None, path

    def work() -> tuple[Result, Queries]:
        rows = outside[dataset.ok[config.modality][outside]]
        judged = probing.Judged(test_name, rows, labels[rows], predict(model, dataset, rows, config))
        values, per_query = probing.metrics_of(
            [judged],
            len(classes),
            clusters=store.groups if options.clusters else None,
            draws=options.draws,
            seed=options.seed,
        )
        ids = store.ids
        queries = {f"{config.modality}/id": np.asarray([ids[i] for i in per_query.pop("row")])}
        queries.update({f"{config.modality}/{name}": v for name, v in per_query.items()})
        metrics = {f"{config.modality}/{name}": value for name, value in values.items()}
        about = {**result.model, "tuned": sha256_file(out / STATE)}
        return replace(result, metrics=intervals(metrics), model=about), queries

    return finish(result, work, path, overwrite=options.overwrite)
