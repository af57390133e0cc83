"""From a ledger to scores: averages over visits, and how a sample's loss moved during training.

Averaging helps: one visit's conflict or loss depends on the batch that it was met in.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harmonize_cli.curriculum.ledger import Visits, read_ledger
from harmonize_cli.curriculum.scores import ABOUT, Scores, write_about, write_part
from harmonize_cli.errors import BadInput
from harmonize_cli.locks import one_writer
from harmonize_cli.store.reader import Store
from harmonize_cli.training.run_folder import check_store

DECAY = 0.3  # weight of the newest visit in the moving average
NOISY = {"loss": "high", "cosine": "low", "norm": "high"}
Floats = NDArray[np.float32]


def dynamics(visits: Visits) -> tuple[NDArray[np.int64], dict[str, Floats], dict[str, str]]:
    """Rows of the store that were visited, their columns, and which end of each is noisy.

    Per logged value x: x_mean (for a loss: the area under it), x_ema, x_q10, x_q90; for losses also
    x_forgotten, how often it rose by more than a tenth from one visit to the next; and `visits`.
    """
    order = np.lexsort((visits["step"], visits["index"]))
    index, starts, counts = np.unique(visits["index"][order], return_index=True, return_counts=True)
    columns: dict[str, Floats] = {"visits": counts.astype(np.float32)}
    noisy = {"visits": "high"}
    for name, values in visits.items():
        kind = name.partition("_")[0]
        if kind not in NOISY:
            continue
        series = np.split(values[order].astype(np.float64), starts[1:])
        found = [x[np.isfinite(x)] for x in series]
        made = {
            f"{name}_mean": [x.mean() if len(x) else np.nan for x in found],
            f"{name}_ema": [_ema(x) for x in found],
            f"{name}_q10": [np.quantile(x, 0.1) if len(x) else np.nan for x in found],
            f"{name}_q90": [np.quantile(x, 0.9) if len(x) else np.nan for x in found],
        }
        if kind == "loss":
            made[f"{name}_forgotten"] = [
                float((np.diff(x) > 0.1 * x[:-1]).sum()) if len(x) else np.nan for x in found
            ]
        columns |= {column: np.array(x, np.float32) for column, x in made.items()}
        noisy |= dict.fromkeys(made, NOISY[kind])
    return index.astype(np.int64), columns, noisy


@one_writer("out")
def write_dynamics(run: Path, store_path: Path, out: Path, *, overwrite: bool = False) -> Scores:
    """A run's ledger as a folder of scores, which `curriculum plan` and `report` take.

    Raises:
        BadInput: no ledger, no store, or not the one that the run was trained on; or scores are there and
            `overwrite` was not said.
    """
    if not overwrite and ((out / ABOUT).exists() or any(out.glob("part-*.npz"))):
        raise BadInput(f"{out}: holds scores already; give another -o, or --overwrite to replace them")
    index, columns, noisy = dynamics(read_ledger(run))
    store = Store.open(store_path)
    check_store(run, store)
    ids = [store.ids[i] for i in index]
    write_part(out / "part-00000.npz", ids, index, columns, store.content_hash)
    about = {
        "key": store.content_hash,
        "run": str(run),
        "store": str(store_path),
        "store_hash": store.content_hash,
        "samples": len(ids),
        "parts": ["part-00000.npz"],
        "columns": {name: {"noisy": end, "about": f"ledger of {run.name}"} for name, end in noisy.items()},
    }
    write_about(out, about)
    return Scores(np.array(ids), index, columns, noisy, about)


def write_table(scores: Scores, path: Path) -> None:
    """Scores as Parquet or CSV, one row per sample, to be joined with a manifest by `id`.

    Raises:
        BadInput: another suffix, or Parquet without pyarrow.
    """
    from harmonize_cli.errors import missing_extra
    from harmonize_cli.files import atomic_path

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
