"""Embeddings of a whole store as a file: Parquet (extra) or .npy."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.data.windows import check_inputs
from harmonize_cli.errors import BadInput, missing_extra
from harmonize_cli.files import atomic_path, write_array, write_json
from harmonize_cli.locks import one_writer
from harmonize_cli.models.checkpoint import LoadedModel
from harmonize_cli.progress import progress
from harmonize_cli.store.reader import Store

Table = dict[str, np.ndarray]


@torch.inference_mode()
def embed_store(loaded: LoadedModel, store: Store, *, batch: int = 64) -> tuple[list[str], Table]:
    """Ids and, per name, float32 [N, D] (text [N, C, D]): pooled features and embeddings of the heads.

    The window lies in the middle of each clip. Rows of missing modalities are NaN.

    Raises:
        BadInput: the store's features are not those of the run.
    """
    dataset = StoreDataset(store, check_inputs(store, loaded.specs))
    device = next(loaded.model.parameters()).device
    parts: dict[str, list[np.ndarray]] = {}
    bar: tqdm[Any] = progress(desc="embed", total=len(store), unit="clip")
    with bar:
        for rows in dataset.batches(np.arange(len(store)), batch):
            moved = rows.to(device)
            out = loaded.model(moved.inputs)
            named = {f"pooled_{m}": z for m, z in out.pooled.items()} | out.embeddings
            for name, z in named.items():
                modality = name.removeprefix("pooled_").split("_")[0]
                real = moved.text_present if modality == "text" else moved.present[modality]
                assert real is not None
                kept = z.float().masked_fill(~real.unsqueeze(-1), float("nan"))
                parts.setdefault(name, []).append(kept.cpu().numpy())
            bar.update(len(rows))
    return list(store.ids), {name: np.concatenate(arrays) for name, arrays in parts.items()}


@one_writer("out")
def write_embeddings(ids: list[str], table: Table, out: Path) -> list[Path]:
    """Write NAME.parquet, or for NAME.npy a file per embedding (NAME.video_va.npy, ...) and NAME.ids.json.

    Raises:
        BadInput: another ending, or the extra is missing.
    """
    if out.suffix == ".parquet":
        return [_write_parquet(ids, table, out)]
    if out.suffix != ".npy":
        raise BadInput(f"{out}: the name must end in .parquet or .npy")
    arrays = {out.with_suffix(f".{name}.npy"): array for name, array in table.items()}
    try:
        for path, array in arrays.items():
            write_array(path, array)
        write_json(out.with_suffix(".ids.json"), ids)
    except BaseException:
        for path in arrays:
            path.unlink(missing_ok=True)
        raise
    return [out.with_suffix(".ids.json"), *arrays]


def _write_parquet(ids: list[str], table: Table, out: Path) -> Path:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise missing_extra("pyarrow", "parquet", "a .parquet file") from None
    columns: dict[str, Any] = {"id": pa.array(ids)}
    for name, array in table.items():
        column = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[-1])
        if array.ndim == 3:
            column = pa.FixedSizeListArray.from_arrays(column, array.shape[1])
        columns[name] = column
    with atomic_path(out) as tmp:
        pq.write_table(pa.table(columns), tmp)
    return out
