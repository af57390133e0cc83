"""Embeddings of every sample of a store, as one table."""

from harmonize_cli.cli.exporters import EXPORTERS
from harmonize_cli.cli.options import BatchSize, Checkpoint, Device, NewOut, RunFolder, StorePath
from harmonize_cli.cli.say import answer
from harmonize_cli.locks import one_writer


@EXPORTERS.register("embeddings")
@one_writer("out")
def embeddings(
    run: RunFolder,
    store: StorePath,
    *,
    out: NewOut,
    checkpoint: Checkpoint = "last",
    device: Device = "auto",
    batch_size: BatchSize = 64,
) -> None:
    """Write pooled features and embeddings of every sample of a store to a .parquet or .npy file.

    Example: harmonize export embeddings runs/both store.h5 -o embeddings.parquet
    """
    from harmonize_cli.models.checkpoint import load_model
    from harmonize_cli.ranks import pick_device
    from harmonize_cli.store.reader import Store
    from harmonize_cli.training.embeddings import embed_store, write_embeddings

    loaded = load_model(run, checkpoint, pick_device(device))
    ids, table = embed_store(loaded, Store.open(store, verifies=True), batch=batch_size)
    written = write_embeddings(ids, table, out)
    shapes = {name: list(array.shape) for name, array in table.items()}
    answer(
        {"samples": len(ids), "tables": shapes, "files": written},
        f"export: {len(ids)} samples, {', '.join(f'{name} {shape}' for name, shape in shapes.items())} -> "
        f"{', '.join(map(str, written))}",
    )
