"""Ctrl-C, SIGTERM and SIGHUP: a stage ends with one line that says what is kept and how to go on."""

import functools
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import typer
from typer.core import TyperGroup

from harmonize_cli.cli.gone import new_way
from harmonize_cli.errors import BadInput, HarmonizeError

P = ParamSpec("P")
R = TypeVar("R")
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # typer exports no name for it
NOTHING = "nothing of it was written; run the command again"


class Interrupted(HarmonizeError):
    """Somebody ended the command."""


class Signal(KeyboardInterrupt):
    """A signal that asks to end, as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def listen() -> None:
    """From here on SIGTERM and SIGHUP (unless `nohup` has it ignored) raise `Signal`."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


def _raise(number: int, _frame: FrameType | None) -> None:
    raise Signal(number)


def kept(told: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a command: what to say when it is ended early."""

    def decorate(command: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(command)
        def call(*args: P.args, **options: P.kwargs) -> R:
            try:
                return command(*args, **options)
            except KeyboardInterrupt as e:
                raise _interrupted(e, told) from None

        return call

    return decorate


class Group(TyperGroup):
    """All commands: those that say nothing of their own keep nothing."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Raises:
            BadInput: the command or an option of it is of an earlier version.
        """
        try:
            return super().invoke(ctx)
        except UsageError as e:
            instead = new_way(e)
            if instead is None:
                raise
            raise BadInput(instead) from None
        except KeyboardInterrupt as e:
            raise _interrupted(e, NOTHING) from None


def _interrupted(error: KeyboardInterrupt, told: str) -> Interrupted:
    number = error.number if isinstance(error, Signal) else signal.SIGINT
    found = Interrupted(f"stopped by {signal.Signals(number).name}: {told}")
    found.exit_code = 128 + number
    return found
