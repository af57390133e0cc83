"""Options and arguments that several commands share, so that they read and behave alike everywhere.

A test holds every command to them: an option whose name is here has the type and the help given here.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from harmonize_cli.cli.registries import LISTED, completion


def scored_columns(ctx: typer.Context) -> list[str]:
    """Completion of a column of the scores folder that was given before."""
    from harmonize_cli.curriculum.scores import read_about
    from harmonize_cli.errors import BadInput

    try:
        about = read_about(Path(ctx.params["scores"]))
    except (BadInput, KeyError, TypeError):
        return []
    return [*about["columns"], *about.get("added", {})]


_DATA, _SETTINGS, _RUNNING, _OUTPUT = "Data", "Settings", "Running", "Output"

# arguments
RunFolder = Annotated[Path, typer.Argument(help="Run folder of `harmonize pretrain`.", show_default=False)]
RunOrStore = Annotated[
    str,
    typer.Argument(
        help="Run folder of `harmonize pretrain`, or - for what the store itself holds (CLIP, log-mel).",
        show_default=False,
    ),
]
StorePath = Annotated[
    Path,
    typer.Argument(
        metavar="STORE", help="Feature store: a .h5 file or a folder of shards.", show_default=False
    ),
]

# settings
Config = Annotated[
    Path | None, typer.Option("-c", "--config", help="YAML file of settings.", rich_help_panel=_SETTINGS)
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting: key=value. Repeatable.", rich_help_panel=_SETTINGS),
]
Seed = Annotated[int, typer.Option(help="Seed of all that is drawn here.", rich_help_panel=_SETTINGS)]
Draws = Annotated[int, typer.Option(min=10, help="Resamples of the bootstrap.", rich_help_panel=_SETTINGS)]
Clusters = Annotated[
    bool,
    typer.Option("--by-group", help="Resample source groups, not single queries.", rich_help_panel=_SETTINGS),
]
Retrieval = Annotated[
    Literal["vatt", "mil-nce", "clip"],
    typer.Option("--protocol", help="Published settings to start from.", rich_help_panel=_SETTINGS),
]
Probe = Annotated[
    Literal["logistic", "vatt", "vatt-svm", "mmv", "mil-nce", "knn"],
    typer.Option("--protocol", help="Published settings to start from.", rich_help_panel=_SETTINGS),
]
Kind = Annotated[
    list[Literal["video", "audio", "text"]] | None,
    typer.Option("--modality", help="Repeatable.", show_default="the run's", rich_help_panel=_SETTINGS),
]

# what is read
Split = Annotated[
    str | None,
    typer.Option(help="Split(s) with commas, or all.", show_default="test if any", rich_help_panel=_DATA),
]
Keys = Annotated[
    list[str] | None,
    typer.Option("--key", help="With RUN -: features to use. Repeatable.", rich_help_panel=_DATA),
]
Untrained = Annotated[
    int | None, typer.Option(help="Evaluate a randomly initialised model (seed N).", rich_help_panel=_DATA)
]
Official = Annotated[
    str | None,
    typer.Option(help="Data set whose official lists decide, such as ucf101.", rich_help_panel=_DATA),
]
Annotations = Annotated[Path | None, typer.Option(help="Folder of those lists.", rich_help_panel=_DATA)]
Checkpoint = Annotated[
    str, typer.Option(help="last, best or a name such as step-00001000.", rich_help_panel=_DATA)
]
Label = Annotated[
    str,
    typer.Option(
        help="Which of a sample's labels, from 0; all where samples have several (mAP, AUC).",
        rich_help_panel=_DATA,
    ),
]
VerifyStore = Annotated[
    bool,
    typer.Option(
        "--verify-store/--no-verify-store",
        help="Compare each sample with its digest when it is first read.",
        rich_help_panel=_DATA,
    ),
]
Indicators = Annotated[
    list[str] | None,
    typer.Option(
        "--indicator",
        help=f"Only these indicators or columns of theirs ({LISTED}). Repeatable.",
        autocompletion=completion("indicators"),
        show_default="all but cosine_all",
        rich_help_panel=_SETTINGS,
    ),
]

# how it runs
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_RUNNING)]
Workers = Annotated[int, typer.Option("-w", "--workers", min=1, help="Processes.", rich_help_panel=_RUNNING)]
BatchSize = Annotated[int, typer.Option(min=1, help="Clips per forward pass.", rich_help_panel=_RUNNING)]
NegativesBatch = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=2,
        help="Clips per forward pass, each other's negatives.",
        show_default="the run's",
        rich_help_panel=_RUNNING,
    ),
]

# what is written
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="Result file.", show_default="under RUN/eval", rich_help_panel=_OUTPUT),
]
NewOut = Annotated[
    Path,
    typer.Option(
        "-o", "--out", help="What to write; must not exist.", show_default=False, rich_help_panel=_OUTPUT
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace what an earlier call wrote there.", rich_help_panel=_OUTPUT),
]
FormatOption = Annotated[
    Literal["terminal", "markdown", "csv", "latex"],
    typer.Option("--format", help="Of the table.", rich_help_panel=_OUTPUT),
]
NoCache = Annotated[
    bool,
    typer.Option("--no-cache", help="Keep no embeddings under RUN/cache.", rich_help_panel=_OUTPUT),
]
Features = Annotated[
    list[str] | None,
    typer.Option(
        "-f", "--feature", help="Feature to export. Repeatable.", show_default="all", rich_help_panel=_DATA
    ),
]
FileSamples = Annotated[int, typer.Option(min=1, help="Samples of a file.", rich_help_panel=_OUTPUT)]
