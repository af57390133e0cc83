"""`harmonize plan`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli.say import say


def plan(
    config: Annotated[Path, typer.Argument(help="YAML file for `harmonize pretrain`.", show_default=False)],
    store: Annotated[Path, typer.Argument(help="Store to train on.", show_default=False)],
    *,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the config; may be repeated.")
    ] = None,
    probe_steps: Annotated[int, typer.Option(min=1, help="Steps to measure.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Predict what a pre-training run will cost: steps, hours, memory, disk, from a few real steps.

    Example: harmonize plan examples/demo.yaml store.h5 --set batch=256
    """
    from harmonize_cli.config import load_config
    from harmonize_cli.training.config import PretrainConfig
    from harmonize_cli.training.plan import make_plan, show_plan

    found = make_plan(store, load_config(PretrainConfig, config, overrides or []), probe_steps)
    say(json.dumps(asdict(found), indent=2) if as_json else show_plan(found))
