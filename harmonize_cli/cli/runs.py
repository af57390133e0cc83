"""`harmonize runs`."""

from pathlib import Path
from typing import Annotated

import typer

from harmonize_cli.cli.say import answer


def runs(
    places: Annotated[
        list[Path] | None, typer.Argument(help="Run folders, or folders with runs in them. [default: runs]")
    ] = None,
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
    answer(found, show_runs(found) if found else f"no runs in {', '.join(map(str, wanted))}")
