"""Options and arguments that several commands share, so that they read and behave alike."""

from pathlib import Path
from typing import Annotated

import typer

RunFolder = Annotated[Path, typer.Argument(help="Run folder of `harmonize pretrain`.")]
RunOrStore = Annotated[
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
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Clips per forward pass.")]
Draws = Annotated[int, typer.Option(min=10, help="Resamples of the bootstrap.")]
Seed = Annotated[int, typer.Option(help="Seed of the bootstrap.")]
Clusters = Annotated[bool, typer.Option("--by-group", help="Resample source groups, not single queries.")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="Result file; default under RUN/eval.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at that place.")]
FormatOption = Annotated[str, typer.Option("--format", help="terminal, markdown, csv or latex.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no embeddings under RUN/cache.")]
VerifyStore = Annotated[
    bool,
    typer.Option(
        "--verify-store/--no-verify-store",
        help="Compare each sample with its digest when it is first read.",
    ),
]
Split = Annotated[str | None, typer.Option(help="Split(s), or all. Default: test if there is one.")]
Label = Annotated[int, typer.Option(min=0, help="Which of a sample's labels, from 0.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures here.", show_default=False)]
