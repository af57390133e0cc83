"""The one way from the commands to the terminal."""

import typer

from harmonize_cli.printing import printable


def say(message: object = "", *, err: bool = False) -> None:
    """Print a text of one or several lines, which may hold what strangers wrote."""
    typer.echo(printable(str(message)), err=err)


def say_line(message: object, *, err: bool = False) -> None:
    """Print one line; ends of lines in what strangers wrote do not make it two."""
    typer.echo(printable(str(message), lines=False), err=err)
