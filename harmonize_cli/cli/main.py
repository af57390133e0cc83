"""The command `harmonize`: puts the subcommands together and turns errors into one clear message."""

import os
import sys
import traceback
from typing import Annotated

import typer

import harmonize_cli
from harmonize_cli.cli import (
    config,
    curriculum,
    demo,
    doctor,
    eval,
    export,
    extract,
    plan,
    pretrain,
    report,
    runs,
    store,
)
from harmonize_cli.cli.app import App
from harmonize_cli.cli.say import OUTPUT, say
from harmonize_cli.cli.stops import Group, Interrupted, listen
from harmonize_cli.errors import HarmonizeError
from harmonize_cli.files import FULL
from harmonize_cli.printing import printable

app = App(
    name="harmonize",
    cls=Group,
    help="Pre-train video-audio-text models on noisy web video with harmonized gradients.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# stages first, in the order in which data runs through them
app.add_typer(demo.app, name="demo")
app.command("extract")(extract.extract)
app.command("plan")(plan.plan)
app.command("pretrain")(pretrain.pretrain)
app.command("runs")(runs.runs)
app.add_typer(export.app, name="export")
app.add_typer(curriculum.app, name="curriculum")
app.add_typer(eval.app, name="eval")
app.command("report")(report.report)
app.add_typer(store.app, name="store")
app.command("doctor")(doctor.doctor)
app.add_typer(config.app, name="config")


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"harmonize {harmonize_cli.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point. Exit codes are documented in `harmonize_cli.errors`."""
    listen()
    try:
        app()
    except Interrupted as e:
        typer.echo(printable(str(e)), err=True)
        sys.exit(e.exit_code)
    except HarmonizeError as e:
        _die(str(e), e.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as e:
        if e.errno in FULL:
            where = e.filename or "output"
            _die(f"{where}: no room left to write ({os.strerror(e.errno)}); free some and run again", 1)
        if e.filename is None or e.errno is None:
            raise
        place = f"{e.filename} -> {e.filename2}" if e.filename2 else e.filename
        _die(f"{place}: {e.strerror}; choose another place, or change its rights", 2)


def _die(message: str, code: int) -> None:
    if OUTPUT.verbose:
        traceback.print_exc()
    typer.echo(printable(f"error: {message}"), err=True)
    sys.exit(code)
