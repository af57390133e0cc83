"""`harmonize bench ...`: measured ratios against the obvious alternative, in the same run."""

import typer

app = typer.Typer(help="Measure speed here, as ratios to the obvious alternative.", no_args_is_help=True)


@app.callback()
def _bench() -> None:
    pass
