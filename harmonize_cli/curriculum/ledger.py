"""The conflict ledger: what every sample's visit of a pre-training looked like, and scores made from it.

    RUN/ledger/rank-000-00000001-00000100.npz    this rank's visits of steps 1 to 100

Parts are only ever added, one per checkpoint and rank, so a kill costs what the checkpoint costs, and ranks
need not communicate. Columns: index (row of the store), step, epoch, and float32 loss_<name>, cosine,
norm_<name>, kept; NaN where undefined or, with an engine that looks at some steps only, not looked at.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.curriculum.indicators import INDICATORS
from harmonize_cli.curriculum.scores import ABOUT, Scores, part_name, write_about, write_part
from harmonize_cli.data.batches import Batch
from harmonize_cli.errors import BadInput, missing_extra
from harmonize_cli.files import atomic_path, read_arrays, write_arrays
from harmonize_cli.harmony import HarmonyReport
from harmonize_cli.locks import one_writer
from harmonize_cli.objectives.base import LossOutput
from harmonize_cli.ranks import rank, ranks
from harmonize_cli.store.reader import Store
from harmonize_cli.training.run_folder import check_store

FOLDER = "ledger"
DECAY = 0.3  # weight of the newest visit in the moving average
_PART = re.compile(r"rank-(\d{1,9})-(\d{1,18})-(\d{1,18})\.npz")
Visits = dict[str, NDArray[Any]]


class Ledger:
    """A `training.hooks.Recorder` that appends to RUN/ledger."""

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER
        self._visits: list[Visits] = []

    def record(
        self,
        step: int,
        epoch: int,
        batch: Batch,
        terms: Mapping[str, LossOutput],
        report: HarmonyReport | None,
    ) -> None:
        """Keep the visits of a step in memory until the next `flush`."""
        size = len(batch)
        visits: Visits = {
            "index": batch.indices.astype(np.int32),
            "step": np.full(size, step, np.int32),
            "epoch": np.full(size, epoch, np.int32),
        }
        for name, term in terms.items():
            undefined = term.per_sample.detach().float().masked_fill(~term.valid, float("nan"))
            visits[f"loss_{name}"] = undefined.cpu().numpy()
        if report is not None:
            for name, column in report.arrays().items():
                if not name.startswith("weight_") and len(column) == size:
                    visits[name] = column.float().numpy()
        self._visits.append(visits)

    def flush(self, step: int) -> None:
        """Write what came since the last time as one part."""
        if not self._visits:
            return
        self._write(rank(), step, _joined(self._visits))
        self._visits = []

    def rewind(self, step: int) -> None:
        """Forget visits after `step`: they are going to be made again, maybe by fewer ranks than before."""
        self._visits = []
        for path in sorted(self.folder.glob("rank-*.npz")):
            owner, first, last = _span(path)
            if last <= step or owner % ranks() != rank():
                continue
            if first <= step:
                visits = _read(path)
                kept = {name: column[visits["step"] <= step] for name, column in visits.items()}
                self._write(owner, step, kept)
            path.unlink()

    def _write(self, owner: int, step: int, visits: Visits) -> None:
        path = self.folder / f"rank-{owner:03d}-{int(visits['step'][0]):08d}-{step:08d}.npz"
        write_arrays(path, visits)


def read_ledger(run: Path) -> Visits:
    """All visits of all ranks, by step.

    Raises:
        BadInput: the run has no ledger, or a damaged one.
    """
    parts = [_read(path) for path in sorted((run / FOLDER).glob("rank-*.npz"))]
    if not parts:
        raise BadInput(
            f"{run}: has no ledger; it was trained with --no-ledger, or no checkpoint was written yet"
        )
    visits = _joined(parts)
    order = np.lexsort((visits["index"], visits["step"]))
    return {name: column[order] for name, column in visits.items()}


def _joined(parts: list[Visits]) -> Visits:
    """Parts one after another; a column that one lacks is NaN there."""
    names = dict.fromkeys(name for part in parts for name in part)
    sizes = [len(part["index"]) for part in parts]
    return {
        name: np.concatenate(
            [part.get(name, np.full(n, np.nan, np.float32)) for part, n in zip(parts, sizes, strict=True)]
        )
        for name in names
    }


def _span(path: Path) -> tuple[int, int, int]:
    """Rank, first and last step of a part."""
    match = _PART.fullmatch(path.name)
    if match is None:
        raise BadInput(f"{path}: is not a part of a ledger; remove it")
    return int(match[1]), int(match[2]), int(match[3])


def _read(path: Path) -> Visits:
    part = read_arrays(path, hint="remove it to go on without its steps").columns("index", "step", "epoch")
    if not len(part["step"]):
        raise part.damaged("no visits")
    if part["index"].min() < 0 or any(part[name].dtype.kind == "U" for name in part):
        raise part.damaged("a row or a number is none")
    return part


def dynamics(visits: Visits) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float32]], dict[str, str]]:
    """Rows of the store that were visited, their columns, and which end of each is noisy.

    Averaging helps: one visit's conflict or loss depends on the batch that it was met in.

    Per logged value x: x_mean (for a loss: the area under it), x_ema, x_q10, x_q90; for losses also
    x_forgotten, how often it rose by more than a tenth from one visit to the next; and `visits`.
    """
    order = np.lexsort((visits["step"], visits["index"]))
    index, starts, counts = np.unique(visits["index"][order], return_index=True, return_counts=True)
    columns: dict[str, NDArray[np.float32]] = {"visits": counts.astype(np.float32)}
    noisy = {"visits": "high"}
    for name, values in visits.items():
        kind = INDICATORS.get(name.partition("_")[0])
        if kind is None:
            continue
        series = np.split(values[order].astype(np.float64), starts[1:])
        found = [x[np.isfinite(x)] for x in series]
        made = {
            f"{name}_mean": [x.mean() if len(x) else np.nan for x in found],
            f"{name}_ema": [_ema(x) for x in found],
            f"{name}_q10": [np.quantile(x, 0.1) if len(x) else np.nan for x in found],
            f"{name}_q90": [np.quantile(x, 0.9) if len(x) else np.nan for x in found],
        }
        if kind.name == "loss":
            made[f"{name}_forgotten"] = [
                float((np.diff(x) > 0.1 * x[:-1]).sum()) if len(x) else np.nan for x in found
            ]
        columns |= {column: np.array(x, np.float32) for column, x in made.items()}
        noisy |= dict.fromkeys(made, kind.noisy)
    return index.astype(np.int64), columns, noisy


@one_writer("out")
def write_dynamics(run: Path, store_path: Path, out: Path, *, overwrite: bool = False) -> Scores:
    """A run's ledger as a folder of scores, which `curriculum plan` and `report` take.

    Raises:
        BadInput: no ledger, no store, or not the one that the run was trained on; or scores are there and
            `overwrite` is false.
    """
    if not overwrite and ((out / ABOUT).exists() or any(out.glob("part-*.npz"))):
        raise BadInput(f"{out}: holds scores already; give another -o, or --overwrite to replace them")
    index, columns, noisy = dynamics(read_ledger(run))
    store = Store.open(store_path)
    check_store(run, store)
    ids = [store.ids[i] for i in index]
    write_part(out / part_name(0), ids, index, columns, store.content_hash)
    about = {
        "key": store.content_hash,
        "run": str(run),
        "store": str(store_path.resolve()),
        "store_hash": store.content_hash,
        "samples": len(ids),
        "parts": [part_name(0)],
        "columns": {name: {"noisy": end, "about": f"ledger of {run.name}"} for name, end in noisy.items()},
    }
    write_about(out, about)
    return Scores(np.array(ids), index, columns, noisy, about)


def write_table(scores: Scores, path: Path) -> None:
    """Scores as Parquet or CSV, one row per sample, to be joined with a manifest by `id`.

    Raises:
        BadInput: another suffix, or Parquet without pyarrow.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise BadInput(f"{path}: choose a name that ends in .parquet or .csv")
    try:
        import pyarrow as pa
        import pyarrow.csv as pa_csv
        import pyarrow.parquet as pa_parquet
    except ImportError:
        raise missing_extra("pyarrow", "parquet", f"writing {path.suffix} tables") from None
    table = pa.table({"id": scores.ids.tolist(), **scores.columns})
    with atomic_path(path) as tmp:
        if path.suffix == ".parquet":
            pa_parquet.write_table(table, tmp)
        else:
            pa_csv.write_csv(table, tmp)


def _ema(x: NDArray[np.float64]) -> float:
    value = float("nan")
    for new in x:
        value = new if np.isnan(value) else DECAY * new + (1 - DECAY) * value
    return float(value)
