"""Groups of commands whose every command has --json, -q and -v, and its examples below the options."""

import functools
import inspect
import resource
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from harmonize_cli import progress
from harmonize_cli.cli.say import OUTPUT

_PANEL = "Output"
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_PANEL)]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="No progress bars, no notes.", rich_help_panel=_PANEL)
]
Verbose = Annotated[
    bool,
    typer.Option(
        "-v", "--verbose", help="Tracebacks of errors; time and peak memory.", rich_help_panel=_PANEL
    ),
]
EXTRA = {"as_json": AsJson, "quiet": Quiet, "verbose": Verbose}


class App(typer.Typer):
    """A group of commands."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Decorator: a docstring up to its `Example:` is the help, the rest goes below the options."""
        register = super().command

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            text, mark, examples = inspect.cleandoc(function.__doc__ or "").partition("\nExample:")
            if mark:
                options["epilog"] = f"Example:{examples}"
            register(name, help=text.strip(), **options)(_with_output(function))
            return function

        return decorate


def _with_output(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the three options, which it does not see."""

    @functools.wraps(function)
    def call(*args: Any, as_json: bool, quiet: bool, verbose: bool, **values: Any) -> Any:
        OUTPUT.as_json, OUTPUT.verbose, progress.QUIET = as_json, verbose, quiet
        started = time.perf_counter()
        try:
            return function(*args, **values)
        finally:
            if verbose:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                peak_mb = peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
                took = time.perf_counter() - started
                typer.echo(f"{took:.1f} s, peak memory {peak_mb:.0f} MiB", err=True)

    signature = inspect.signature(function, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in EXTRA.items()
    ]
    call.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *more])  # type: ignore[attr-defined]
    call.__annotations__ = {**inspect.get_annotations(function, eval_str=True), **EXTRA}
    return call
