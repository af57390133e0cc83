"""`harmonize runs`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli.say import say


def runs(
    places: Annotated[
        list[Path] | None, typer.Argument(help="Run folders, or folders with runs in them. [default: runs]")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list instead of a table.")] = False,
) -> None:
    """List runs with their state and last metrics.

    Example: harmonize runs runs/
    """
    from harmonize_cli.errors import BadInput
    from harmonize_cli.training.runs import find_runs, show_runs

    wanted = places or [Path("runs")]
    for place in wanted:
        if not place.is_dir():
            raise BadInput(f"{place}: no such folder")
    found = find_runs(wanted)
    if as_json:
        say(json.dumps([{**asdict(run), "path": str(run.path)} for run in found], indent=2))
    elif found:
        say(show_runs(found))
    else:
        say(f"no runs in {', '.join(str(place) for place in wanted)}")
