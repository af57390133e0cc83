"""What a user sees when something is wrong: one message, no traceback.

Exit codes of every command: 0 done, 1 failed, 2 bad usage or bad input, 3 finished with more failures than
`--max-failed` allows.
"""

from collections.abc import Sequence

from harmonize_cli.printing import printable

_KEPT = 200


class HarmonizeError(Exception):
    """A failure with a message for people. `exit_code` becomes the command's."""

    exit_code = 1


class BadInput(HarmonizeError):
    """Bad usage or bad input: names the file, the line or field, what was expected and what to do."""

    exit_code = 2


class TooManyFailed(HarmonizeError):
    """The work is done, but more samples failed than the user allowed."""

    exit_code = 3


def list_errors(head: str, errors: Sequence[str], *, most: int = 20, count: int | None = None) -> str:
    """One message for many errors, so that a user fixes all of them in one go.

    count: how many there are, where `errors` are the first ones alone.
    """
    count = len(errors) if count is None else count
    shown = [f"  {error}" for error in errors[:most]]
    if count > most:
        shown.append(f"  ... and {count - most} more")
    return "\n".join([head, *shown])


class ErrorList:
    """Errors of one input: all counted, the first ones kept, raised together.

    Constant memory: a million bad rows cost no more than a few hundred.
    """

    def __init__(self, subject: str = "") -> None:
        self.subject = subject
        self.count = 0
        self.first: list[str] = []

    def add(self, where: str, field: str, what: str) -> None:
        """Note one error: `where` is `file:line`, `field` the column or "" for the whole row."""
        self.count += 1
        if len(self.first) < _KEPT:
            # one line each, that can be printed and kept: file names may hold anything
            text = f"{where}: {field}: {what}" if field else f"{where}: {what}"
            self.first.append(printable(text, lines=False))

    def raise_if_any(self) -> None:
        """Raise one `BadInput` with every error (the first ones in full) if there are any."""
        if self.count:
            head = f"{self.subject}: {self.count} error(s)"
            raise BadInput(list_errors(head, self.first, most=30, count=self.count))


def missing_extra(package: str, extra: str, purpose: str) -> BadInput:
    """The error for an optional dependency that is not installed."""
    return BadInput(f"{purpose} needs the package {package}: pip install 'harmonize-cli[{extra}]'")
