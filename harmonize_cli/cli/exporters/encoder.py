"""A run's encoder as a folder to give away."""

from typing import Annotated

import typer

from harmonize_cli.cli.exporters import EXPORTERS
from harmonize_cli.cli.options import Checkpoint, NewOut, RunFolder
from harmonize_cli.cli.say import answer
from harmonize_cli.locks import one_writer


@EXPORTERS.register("encoder")
@one_writer("out")
def encoder(
    run: RunFolder,
    *,
    out: NewOut,
    checkpoint: Checkpoint = "last",
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
    answer(
        {"parameters": count, "checkpoint": loaded.checkpoint.name, "out": out},
        f"export: {count / 1e6:.1f} M parameters of {loaded.checkpoint.name} -> {out}",
    )
