"""`harmonize config ...`: look at a stage's settings before a run."""

import importlib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmonize_cli.cli.say import say

if TYPE_CHECKING:
    from harmonize_cli.config import StageConfig

app = typer.Typer(help="Show, check and explain the settings of a stage.", no_args_is_help=True)


class Stage(StrEnum):
    """Stages that take a config file."""

    extract = "extract"
    pretrain = "pretrain"


_WHERE = {
    Stage.extract: ("harmonize_cli.extraction.config", "ExtractConfig"),
    Stage.pretrain: ("harmonize_cli.training.config", "PretrainConfig"),
}

StageArg = Annotated[Stage, typer.Argument(help="The stage whose settings are meant.")]
FileOpt = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file.")]
SetOpt = Annotated[list[str] | None, typer.Option("--set", help="key=value over the file; may be repeated.")]


def _kind(stage: Stage) -> "type[StageConfig]":
    module, name = _WHERE[stage]
    kind: type[StageConfig] = getattr(importlib.import_module(module), name)
    return kind


@app.command("show")
def show(stage: StageArg, file: FileOpt = None, overrides: SetOpt = None) -> None:
    """Print the resolved config: defaults, file and overrides merged and checked.

    Example: harmonize config show pretrain --set optim.lr=1e-4
    """
    from harmonize_cli.config import dump_yaml, load_config

    say(dump_yaml(load_config(_kind(stage), file, overrides or [])).removesuffix("\n"))


@app.command("validate")
def validate(stage: StageArg, file: Annotated[Path, typer.Argument(help="YAML file to check.")]) -> None:
    """Check a config file and name every fault in it.

    Example: harmonize config validate pretrain examples/paper.yaml
    """
    from harmonize_cli.config import load_config

    load_config(_kind(stage), file)
    say(f"{file}: valid")


@app.command("explain")
def explain(stage: StageArg) -> None:
    """List every key with its default and what it means.

    Example: harmonize config explain pretrain
    """
    from harmonize_cli.config import describe

    for key, default, meaning in describe(_kind(stage)):
        say(f"{key} = {default}\n    {meaning}" if meaning else f"{key} = {default}")
