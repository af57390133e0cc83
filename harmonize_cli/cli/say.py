"""The one way from the commands to the terminal: text for people, or with --json one JSON document."""

import json
from dataclasses import dataclass

import typer

from harmonize_cli import progress
from harmonize_cli.printing import plain, printable


@dataclass
class Output:
    """How the command that runs prints: its options --json and --verbose (--quiet: `progress.QUIET`)."""

    as_json: bool = False
    verbose: bool = False


OUTPUT = Output()


def say(message: object = "", *, err: bool = False, lines: bool = True) -> None:
    """Print a text for people, which may hold what strangers wrote; to stderr (`err`) unless --quiet.

    lines: keep ends of lines; False where what strangers wrote must not make one line two.
    """
    if progress.QUIET if err else OUTPUT.as_json:
        return
    typer.echo(printable(str(message), lines=lines), err=err)


def say_line(message: object, *, err: bool = False) -> None:
    """Print one line."""
    say(message, err=err, lines=False)


def answer(value: object, text: str | None = None) -> None:
    """What a command found: `text` for people, with --json `value` as JSON, NaN and infinity as null."""
    if OUTPUT.as_json:
        typer.echo(printable(json.dumps(plain(value), indent=2, ensure_ascii=False)))
    elif text is not None:
        say(text)
