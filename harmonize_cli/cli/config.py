"""`harmonize config ...`: look at the settings of a stage or an evaluation before it runs."""

import importlib
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harmonize_cli.cli.app import App
from harmonize_cli.cli.options import Config, Set
from harmonize_cli.cli.say import answer

if TYPE_CHECKING:
    from harmonize_cli.config import StageConfig

app = App(help="Show, check and explain the settings of a stage or an evaluation.", no_args_is_help=True)

Stage = Literal["extract", "pretrain", "curriculum", "retrieval", "probe", "finetune", "demo", "demo-data"]
WHERE = {
    "extract": ("harmonize_cli.extraction.config", "ExtractConfig"),
    "pretrain": ("harmonize_cli.training.config", "PretrainConfig"),
    "curriculum": ("harmonize_cli.curriculum.plan", "Plan"),
    "retrieval": ("harmonize_cli.evaluation.protocols", "RetrievalProtocol"),
    "probe": ("harmonize_cli.evaluation.protocols", "ProbeProtocol"),
    "finetune": ("harmonize_cli.training.config", "FinetuneConfig"),
    "demo": ("harmonize_cli.demo.config", "DemoConfig"),
    "demo-data": ("harmonize_cli.demo.settings", "DialpadSettings"),
}
"""Stage -> module and class of its settings."""

StageArg = Annotated[Stage, typer.Argument(help="The stage or evaluation.", show_default=False)]


def config_of(stage: Stage) -> "type[StageConfig]":
    """The class of a stage's settings."""
    module, name = WHERE[stage]
    kind: type[StageConfig] = getattr(importlib.import_module(module), name)
    return kind


@app.command()
def show(stage: StageArg, file: Config = None, overrides: Set = None) -> None:
    """Print the resolved settings: defaults, file and overrides merged and checked, all errors at once.

    Example: harmonize config show pretrain -c examples/paper.yaml --set optim.lr=1e-4
    """
    from harmonize_cli.config import dump_yaml, load_config

    settings = load_config(config_of(stage), file, overrides or [])
    answer(settings.model_dump(mode="json"), dump_yaml(settings).removesuffix("\n"))


@app.command()
def explain(stage: StageArg) -> None:
    """List every key with its default and what it means.

    Example: harmonize config explain pretrain
    """
    from harmonize_cli.config import describe

    keys = [{"key": k, "default": d, "meaning": m} for k, d, m in describe(config_of(stage))]
    answer(
        keys,
        "\n".join(
            f"{k['key']} = {k['default']}" + f"\n    {k['meaning']}" * bool(k["meaning"]) for k in keys
        ),
    )
