"""Options that the commands of `harmonize eval` share, and how they are opened."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmonize_cli.errors import BadInput

if TYPE_CHECKING:
    from harmonize_cli.evaluation.results import Result
    from harmonize_cli.evaluation.sources import Source
    from harmonize_cli.store.reader import Store

Run = Annotated[
    str,
    typer.Argument(
        help="Run folder of `harmonize pretrain`, or - for what the store itself holds (CLIP, log-mel)."
    ),
]
StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="Feature store of `harmonize extract`.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change one setting: key=value. Repeatable.")]
Config = Annotated[Path | None, typer.Option(help="YAML with settings of the protocol.")]
Keys = Annotated[list[str] | None, typer.Option("--key", help="With RUN -: features to use. Repeatable.")]
Untrained = Annotated[
    int | None, typer.Option(help="Judge the run's architecture with fresh weights of this seed.")
]
Official = Annotated[str | None, typer.Option(help="Data set whose official lists decide, such as ucf101.")]
Annotations = Annotated[Path | None, typer.Option(help="Folder of those lists.")]
Checkpoint = Annotated[str, typer.Option(help="last, best or a name such as step-00001000.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Clips per forward pass.")]
Draws = Annotated[int, typer.Option(min=10, help="Resamples of the bootstrap.")]
Seed = Annotated[int, typer.Option(help="Seed of the bootstrap.")]
Clusters = Annotated[bool, typer.Option("--by-group", help="Resample source groups, not single queries.")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="Result file; default under RUN/eval.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another result at that place.")]
FormatOption = Annotated[str, typer.Option("--format", help="terminal, markdown, csv or latex.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no embeddings under RUN/cache.")]


def open_source(
    run: str,
    store: Path,
    *,
    keys: list[str] | None,
    checkpoint: str,
    device: str,
    fresh: int | None,
    batch_size: int,
    cache: bool,
) -> "tuple[Store, Source]":
    """The store, and the run (or - for the store itself) that is to be judged."""
    from harmonize_cli.evaluation.sources import PlainSource, RunSource
    from harmonize_cli.evaluation.untrained import untrained
    from harmonize_cli.models.checkpoint import load_model
    from harmonize_cli.store.reader import Store

    opened = Store.open(store)
    if run == "-":
        return opened, PlainSource(opened, tuple(keys or ()))
    if keys:
        raise BadInput("--key goes with RUN -: a run reads the features that it was trained on")
    loaded = load_model(Path(run), checkpoint, pick_device(device))
    return opened, RunSource(loaded if fresh is None else untrained(loaded, fresh), batch_size, cache)


def divisions(official: str | None, annotations: Path | None) -> dict[str, dict[str, str]]:
    """Official divisions by name; none where no data set was named."""
    if official is None:
        return {}
    from harmonize_cli.datasets.official import official_divisions

    return official_divisions(official, annotations or Path())


def pick_device(name: str) -> str:
    """The device, checked."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as e:
        raise BadInput(f"--device {name}: not usable here ({str(e).splitlines()[0]})") from None
    return name


def show_result(result: "Result", path: Path) -> None:
    """Print a result's table."""
    from harmonize_cli.evaluation.show import summary

    typer.echo(summary(result, path))
