"""`harmonize plan`."""

from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli.options import Set, StorePath
from harmonize_cli.cli.say import answer


def plan(
    config: Annotated[Path, typer.Argument(help="YAML file for `harmonize pretrain`.", show_default=False)],
    store: StorePath,
    *,
    overrides: Set = None,
    probe_steps: Annotated[int, typer.Option(min=1, help="Steps to measure.")] = 5,
) -> None:
    """Predict what a pre-training run will cost: steps, hours, memory, disk, from a few real steps.

    Example: harmonize plan examples/demo.yaml store.h5 --set batch=256
    """
    from harmonize_cli.config import load_config
    from harmonize_cli.training.config import PretrainConfig
    from harmonize_cli.training.plan import make_plan, show_plan

    found = make_plan(store, load_config(PretrainConfig, config, overrides or []), probe_steps)
    answer(found, show_plan(found))
