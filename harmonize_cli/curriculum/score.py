"""`harmonize curriculum score`: every sample of a store through every indicator.

Samples are assigned to batches at random (a function of the seed), because the samples of a batch are each
other's negatives: in the store's order neighbouring segments of one video would be. Parts of some batches are
scored by several processes; a part that exists is not scored again.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from harmonize_cli.curriculum.scorer import Rows, Scorer
from harmonize_cli.curriculum.scores import (
    ABOUT,
    part_key,
    part_name,
    read_about,
    write_about,
    write_part,
)
from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.data.windows import check_inputs
from harmonize_cli.errors import BadInput
from harmonize_cli.files import sha256_json
from harmonize_cli.locks import one_writer
from harmonize_cli.models.checkpoint import LoadedModel, load_model
from harmonize_cli.processes import in_processes
from harmonize_cli.progress import progress
from harmonize_cli.ranks import pick_device
from harmonize_cli.store.reader import Store


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
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """samples scored in all; `scored` of them now, in `seconds`."""

    samples: int
    scored: int
    seconds: float
    columns: list[str]


@one_writer("out")
def score(run: Path, store_path: Path, out: Path, settings: ScoreSettings, *, jobs: int = 1) -> ScoreReport:
    """Score a store into the folder `out`.

    Raises:
        BadInput: no run, no store, inputs that do not fit, or `out` holds other scores or is being written.
    """
    started = time.perf_counter()
    loaded = load_model(run, settings.checkpoint)
    store = Store.open(store_path)
    columns = Scorer(loaded, check_inputs(store, loaded.specs), settings.indicators).columns
    names = [column.name for column in columns]
    rows = store.select(settings.split)
    batch = batch_size(loaded, settings.batch, len(rows))
    part, device = -(-settings.part // batch) * batch, str(pick_device(settings.device))
    settings = replace(settings, batch=batch, part=part, device=device)
    key = sha256_json([loaded.weights_hash, store.content_hash, names, settings.split, batch, settings.seed])
    sizes = [min(settings.part, len(rows) - start) for start in range(0, len(rows), settings.part)]
    added = _claim(out, key, len(sizes))
    missing = [k for k in range(len(sizes)) if not (out / part_name(k)).exists()]
    there = sum(sizes) - sum(sizes[k] for k in missing)
    task = _Task(run, store_path, out, settings, key)
    bar: tqdm[object] = progress(desc="score", total=len(rows), initial=there, unit="clip")
    with bar:
        if jobs == 1 or len(missing) < 2:
            worker = _Worker(task) if missing else None
            for number in missing:
                assert worker is not None
                bar.update(worker.write(number))
        else:
            threads = max(1, torch.get_num_threads() // min(jobs, len(missing)))
            killed = "the same command goes on from the complete parts, perhaps with fewer --workers"
            for size in in_processes(partial(_score_part, task, threads), missing, jobs, killed=killed):
                bar.update(size)
    write_about(
        out,
        {
            "key": key,
            "run": str(run),
            "checkpoint": loaded.checkpoint.name,
            "step": loaded.step,
            "weights_hash": loaded.weights_hash,
            "store": str(store_path.resolve()),
            "store_hash": store.content_hash,
            "split": settings.split,
            "batch": batch,
            "seed": settings.seed,
            "samples": len(rows),
            "parts": [part_name(k) for k in range(len(sizes))],
            "columns": {c.name: {"noisy": c.noisy, "about": c.about} for c in columns},
            **({"added": added} if added else {}),
        },
    )
    return ScoreReport(len(rows), len(rows) - there, time.perf_counter() - started, names)


def batch_size(loaded: LoadedModel, wanted: int | None, samples: int) -> int:
    """Samples scored together: as in training, unless the user or a small store says otherwise."""
    return min(wanted or int(loaded.config["batch"]), samples)


def scoring_order(rows: Rows, seed: int) -> Rows:
    """The order in which samples are assigned to batches."""
    return np.random.default_rng([seed, 71]).permutation(rows)


def _claim(out: Path, key: str, parts: int) -> dict[str, Any]:
    """Make `out` ours; returns what was added to the same scores before."""
    if (out / ABOUT).exists():
        about = read_about(out)
        if about["key"] != key:
            raise BadInput(f"{out}: holds scores of another run, store or settings; choose another folder")
        return dict(about.get("added", {}))
    known = {part_name(k) for k in range(parts)}
    for part in sorted(out.glob("part-*.npz")):
        if part.name not in known or part_key(part) != key:
            raise BadInput(
                f"{part}: belongs to scores of another run, store or settings; choose another folder"
            )
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out}: is a file; scores need a folder")
    out.mkdir(parents=True, exist_ok=True)
    return {}


@dataclass(frozen=True, slots=True)
class _Task:
    """What every process of a scoring needs; batch and device in `settings` are resolved."""

    run: Path
    store: Path
    out: Path
    settings: ScoreSettings
    key: str


class _Worker:
    """Model, data and bank of one process."""

    def __init__(self, task: _Task) -> None:
        settings = task.settings
        assert settings.batch is not None
        self.task, self.batch = task, settings.batch
        loaded = load_model(task.run, settings.checkpoint, settings.device, verify=False)
        store = Store.open(task.store, verifies=True)
        specs = check_inputs(store, loaded.specs)
        self.dataset, self.ids = StoreDataset(store, specs), store.ids
        rows = store.select(settings.split)
        self.order = scoring_order(rows, settings.seed)
        self.scorer = Scorer(loaded, specs, settings.indicators)
        self.scorer.fill_bank(self.dataset, rows, batch=self.batch, seed=settings.seed)

    def write(self, number: int) -> int:
        """Score and write one part; returns its samples."""
        size = self.task.settings.part
        span = range(number * size, min((number + 1) * size, len(self.order)))
        index, columns = self.scorer.rows(self.dataset.batch, self.order, self.batch, span)
        path = self.task.out / part_name(number)
        write_part(path, [self.ids[i] for i in index], index, columns, self.task.key)
        return len(index)


_worker: _Worker | None = None


def _score_part(task: _Task, threads: int, number: int) -> int:
    global _worker  # noqa: PLW0603 (what one process of the pool keeps between its parts)
    if _worker is None:
        torch.set_num_threads(threads)
        _worker = _Worker(task)
    return _worker.write(number)
