"""Scores of some samples, part by part, in this process or several."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from harmonize_cli.curriculum.scorer import BANK_SAMPLES, Scorer, losses_of, make_bank, pick_indicators
from harmonize_cli.curriculum.scores import write_part
from harmonize_cli.data.batches import Batch, StoreDataset
from harmonize_cli.data.windows import check_inputs
from harmonize_cli.models.checkpoint import LoadedModel, load_model
from harmonize_cli.processes import in_processes
from harmonize_cli.store.reader import Store

Rows = NDArray[np.int64]
Make = Callable[[Sequence[int]], Batch]


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """batch: samples that are each other's negatives; default the run's own batch. indicators: None for all.

    part: samples per file, what a kill may cost.
    """

    split: str | None = None
    checkpoint: str = "last"
    batch: int | None = None
    indicators: tuple[str, ...] | None = None
    seed: int = 0
    part: int = 2048
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class PartsTask:
    """What every process of a scoring needs; `settings.batch` is resolved."""

    run: Path
    store: Path
    out: Path
    settings: ScoreSettings
    key: str


def score_parts(task: PartsTask, parts: Sequence[int], jobs: int) -> Iterator[int]:
    """Write `parts` of a scoring; yields how many samples each holds, as they get done."""
    if not parts:
        return
    if jobs == 1 or len(parts) == 1:
        worker = _Worker(task)
        for number in parts:
            yield worker.write(number)
        return
    jobs = min(jobs, len(parts))
    threads = max(1, torch.get_num_threads() // jobs)
    killed = "run the same command again to go on from the parts that are complete, perhaps with fewer --jobs"
    yield from in_processes(partial(_score_part, task, threads), parts, jobs, killed=killed)


def score_rows(scorer: Scorer, make: Make, order: Rows, batch: int, span: range) -> dict[str, np.ndarray]:
    """Columns of `order[span]`, and their `index`. The last batch is filled up with what follows in `order`.

    make: rows of the store -> Batch. A full batch gives every sample the same number of negatives.
    """
    device = next(scorer.model.parameters()).device
    pieces = []
    for first in range(span.start, span.stop, batch):
        wanted = min(batch, span.stop - first)
        chosen = np.take(order, np.arange(first, first + batch), mode="wrap")
        columns = scorer(make([int(i) for i in chosen]).to(device))
        pieces.append({"index": chosen, **columns} if wanted == batch else _cut(chosen, columns, wanted))
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def batch_size(loaded: LoadedModel, wanted: int | None, samples: int) -> int:
    """Samples scored together: as in training, unless the user or a small store says otherwise."""
    return min(wanted or int(loaded.config["batch"]), samples)


def scoring_order(rows: Rows, seed: int) -> Rows:
    """The order in which samples are dealt to batches."""
    return np.random.default_rng([seed, 71]).permutation(rows)


def bank_rows(rows: Rows, seed: int) -> Rows:
    """The samples that neighbours are looked for among."""
    size = min(BANK_SAMPLES, len(rows))
    return np.sort(np.random.default_rng([seed, 72]).choice(rows, size=size, replace=False))


def part_name(number: int) -> str:
    """File of a part."""
    return f"part-{number:05d}.npz"


class _Worker:
    """Model, data and bank of one process."""

    def __init__(self, task: PartsTask) -> None:
        settings = task.settings
        assert settings.batch is not None
        self.task, self.batch = task, settings.batch
        loaded = load_model(task.run, settings.checkpoint, settings.device, verify=False)
        store = Store.open(task.store, verifies=True)
        specs = check_inputs(store, loaded.specs)
        self.dataset, self.ids = StoreDataset(store, specs), store.ids
        rows = store.select(settings.split)
        self.order = scoring_order(rows, settings.seed)
        losses = losses_of(loaded, specs)
        indicators = pick_indicators(settings.indicators, losses)
        bank = None
        if any(indicator.needs == "bank" for indicator in indicators):
            bank = make_bank(loaded, self.dataset, bank_rows(rows, settings.seed), batch=self.batch)
        self.scorer = Scorer(loaded, indicators, losses, bank=bank)

    def write(self, number: int) -> int:
        """Score and write one part; returns its samples."""
        size = self.task.settings.part
        span = range(number * size, min((number + 1) * size, len(self.order)))
        columns = score_rows(self.scorer, self.dataset.batch, self.order, self.batch, span)
        index = columns.pop("index")
        path = self.task.out / part_name(number)
        write_part(path, [self.ids[i] for i in index], index, columns, self.task.key)
        return len(index)


_worker: _Worker | None = None


def _score_part(task: PartsTask, threads: int, number: int) -> int:
    global _worker  # noqa: PLW0603 (what one process of the pool keeps between its parts)
    if _worker is None:
        torch.set_num_threads(threads)
        _worker = _Worker(task)
    return _worker.write(number)


def _cut(index: Rows, columns: dict[str, np.ndarray], wanted: int) -> dict[str, np.ndarray]:
    return {name: column[:wanted] for name, column in {"index": index, **columns}.items()}
