"""`harmonize export ...`: a trained model to give away, and embeddings of a store."""

from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli.say import say
from harmonize_cli.locks import one_writer

app = typer.Typer(help="Export a run's encoder, or embeddings of a store.", no_args_is_help=True)

Run = Annotated[Path, typer.Argument(help="Run folder.", show_default=False)]
Which = Annotated[str, typer.Option(help="last, best or a name such as step-00000100.")]


@app.command()
@one_writer("out")
def encoder(
    run: Run,
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder.", show_default=False)],
    checkpoint: Which = "last",
    heads: Annotated[bool, typer.Option("--heads", help="With the projection heads.")] = False,
) -> None:
    """Write the encoder alone: safetensors, config, model card and a ten-line loading example.

    Example: harmonize export encoder runs/both -o encoder/ --checkpoint best
    """
    from harmonize_cli.files import read_json
    from harmonize_cli.models.checkpoint import load_model
    from harmonize_cli.models.export import export_encoder

    loaded = load_model(run, checkpoint)
    words = run / "vocab.json"
    vocab = read_json(words, list[str]) if words.exists() else None
    count = export_encoder(loaded, out, heads=heads, vocab=vocab)
    say(f"export: {count / 1e6:.1f} M parameters of {loaded.checkpoint.name} -> {out}")


@app.command()
@one_writer("out")
def embeddings(
    run: Run,
    store: Annotated[Path, typer.Argument(help="Store to embed.", show_default=False)],
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="A .parquet or .npy name.", show_default=False)],
    checkpoint: Which = "last",
    batch: Annotated[int, typer.Option(min=1, help="Clips at a time.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Write pooled features and embeddings of every sample of a store.

    Example: harmonize export embeddings runs/both store.h5 -o embeddings.parquet
    """
    from harmonize_cli.models.checkpoint import load_model
    from harmonize_cli.ranks import pick_device
    from harmonize_cli.store.reader import Store
    from harmonize_cli.training.embeddings import embed_store, write_embeddings

    loaded = load_model(run, checkpoint, pick_device(device))
    ids, table = embed_store(loaded, Store.open(store, verifies=True), batch=batch)
    written = write_embeddings(ids, table, out)
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in table.items())
    say(f"export: {len(ids)} samples, {shapes} -> {', '.join(str(path) for path in written)}")
